"""Arguments, exceptions and exit statuses of every command."""

import argparse
import os
import subprocess
import sys

import pytest

from bench.terminal.cli import CommandParser, command, non_empty, parse_assignments


def ending_with(error, **options):
    """A command that raises `error`, or returns 0 for None."""

    @command("bench.example", **options)
    def main(argv=None):
        if error:
            raise error
        return 0

    return main


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (None, 0, ""),
        (ValueError("no such run"), 2, "bench.example: no such run\n"),
        (FileNotFoundError("no file"), 2, "bench.example: no file\n"),
        (KeyboardInterrupt(), 130, "\nbench.example: stopped\n"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_exceptions_become_exit_statuses(error, status, text, capsys, monkeypatch):
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert ending_with(error)([]) == status
    assert capsys.readouterr().err == text


def test_other_errors_keep_their_traceback():
    with pytest.raises(FileNotFoundError):
        ending_with(FileNotFoundError(), errors=(ValueError,))([])


def test_ctrl_c_prints_the_stopped_text(capsys):
    assert ending_with(KeyboardInterrupt(), stopped="stopped; nothing was written")([]) == 130
    assert capsys.readouterr().err == "\nbench.example: stopped; nothing was written\n"


def test_a_closed_pipe_ends_a_command_silently():
    code = (
        "import sys; from bench.terminal.cli import command\n"
        "@command('bench.example')\n"
        "def main(argv=None):\n"
        "    for i in range(100_000): print(i)\n"
        "    return 0\n"
        "sys.exit(main())"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 1)


def test_a_wrong_flag_is_one_sentence(capsys):
    with pytest.raises(SystemExit, match="2"):
        CommandParser(prog="python -m bench.example").parse_args(["--wrong"])
    assert capsys.readouterr().err == "bench.example: unrecognized arguments: --wrong; see --help\n"


def test_assignments_are_split_at_the_first_equals_sign():
    assert list(parse_assignments(argparse.Namespace(set=["a.b = c=d"]))) == [("a.b", "c=d")]
    with pytest.raises(ValueError, match="--set lr: write KEY=VALUE"):
        list(parse_assignments(argparse.Namespace(set=["lr"])))


def test_an_empty_argument_is_refused():
    assert non_empty("dit") == "dit"
    with pytest.raises(argparse.ArgumentTypeError, match="is empty"):
        non_empty(" ")
