"""What the commands of this package share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import NoReturn


class CommandParser(argparse.ArgumentParser):
    """argparse that answers a mistake in one sentence, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog.removeprefix('python -m ')}: {message}; see --help", file=sys.stderr)
        raise SystemExit(2)


def parse_assignments(flags: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """What --set says; ValueError for what is no assignment."""
    for assignment in flags.set:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set {assignment}: write KEY=VALUE, for example --set recipe.lr=2e-4")
        yield key.strip(), value.strip()
