"""Progress on stderr, in a log and on a terminal."""

import io
import sys

import pytest

from bench.terminal.progress_bar import ProgressBar


@pytest.fixture
def stderr(monkeypatch):
    """A function that replaces stderr by a text stream that is a terminal or is none."""

    def replace(terminal):
        stream = io.StringIO()
        stream.isatty = lambda: terminal
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        return stream

    return replace


def show(seconds=0.0):
    with ProgressBar("samples", 100, seconds) as progress:
        progress.seconds = seconds
        progress.add(25)


def test_progress_in_a_log_is_plain_lines(stderr):
    stream = stderr(False)
    show()
    first, last = stream.getvalue().splitlines()
    assert first.startswith("samples: 25 of 100 images  ") and " images/s  ETA " in first
    assert last.startswith("samples: 25 images in 0.0 s, ")


def test_progress_in_a_log_is_rare(stderr):
    stream = stderr(False)
    show(seconds=15.0)
    assert len(stream.getvalue().splitlines()) == 1  # the last one alone


def test_progress_on_a_terminal_is_a_bar_removed_at_the_end(stderr):
    stream = stderr(True)
    show()
    text = stream.getvalue()
    assert "\x1b[" in text and "25 of 100 images" in text and "ETA" in text
    assert text.splitlines()[-1].rpartition("\x1b[2K")[2].startswith("samples: 25 images in ")


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_after_an_error_has_no_summary(stderr, terminal):
    stream = stderr(terminal)
    with pytest.raises(ValueError, match="stop"), ProgressBar("samples", 100) as progress:
        progress.add(25)
        raise ValueError("stop")
    assert " images in " not in stream.getvalue()
    assert ("\x1b[?25h" in stream.getvalue()) == terminal  # the cursor is shown again
