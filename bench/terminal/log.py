"""Log messages on stderr, as plain lines.  Libraries call logging.getLogger(__name__); entry points set it up here."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

PACKAGES = ("bench", "architectures", "__main__")


class StderrHandler(logging.StreamHandler[TextIO]):
    """Write to the current sys.stderr, which progress bars and tests replace."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


HANDLER = StderrHandler()


def configure_logging(rank: int = 0) -> None:
    """Log messages of this project to stderr: INFO and above on rank 0, WARNING and above on other ranks.

    May be called again, e.g. once a process knows its rank.
    """
    HANDLER.setLevel(logging.WARNING if rank else logging.INFO)
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.setLevel(logging.INFO)
        if HANDLER not in logger.handlers:
            logger.addHandler(HANDLER)
