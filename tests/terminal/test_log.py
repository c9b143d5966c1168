"""Log messages of this project on stderr."""

import logging

import pytest

from bench.terminal.log import configure_logging

LOGGER = logging.getLogger("bench.example")


@pytest.fixture(autouse=True)
def rank_0():
    yield
    configure_logging()


def test_messages_are_plain_lines_once_each(capsys):
    configure_logging()
    configure_logging()
    LOGGER.info("run %s starts", "a")
    LOGGER.debug("unseen")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "run a starts\n")


def test_other_ranks_report_warnings_alone(capsys):
    configure_logging(rank=1)
    LOGGER.info("unseen")
    LOGGER.warning("a checkpoint is damaged")
    assert capsys.readouterr().err == "a checkpoint is damaged\n"


def test_other_projects_keep_their_own_logging(capsys):
    configure_logging()
    logging.getLogger("elsewhere").info("unseen")
    assert capsys.readouterr().err == ""
