"""Argument parsing and exit statuses that all commands share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from typing import NoReturn, ParamSpec

from bench.terminal.log import configure_logging

P = ParamSpec("P")


class CommandParser(argparse.ArgumentParser):
    """Parser that reports a usage error in one sentence, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog.removeprefix('python -m ')}: {message}; see --help", file=sys.stderr)
        raise SystemExit(2)


class PlainHelp(argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of the description and the epilog."""


class WideHelp(PlainHelp):
    """Help of 110 columns, with 32 for the flags."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


def non_empty(text: str) -> str:
    """Argparse type that refuses an empty argument, which an unset shell variable leaves."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; omit the flag to use its default")
    return text


def parse_assignments(flags: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield (key, value) of every `--set KEY=VALUE`; ValueError for one without an equals sign."""
    for assignment in flags.set:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set {assignment}: write KEY=VALUE, for example --set recipe.lr=2e-4")
        yield key.strip(), value.strip()


def command(
    name: str, *, errors: tuple[type[Exception], ...] = (ValueError, OSError), stopped: str = "stopped"
) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Decorate the `main` of a command: log to stderr, and turn exceptions into exit statuses.

    Exceptions of the types `errors` are printed as one sentence, with status 2.  Ctrl-C prints `stopped`, with status
    130.  A closed pipe (`| head`) ends the command with status 1.
    """

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @wraps(main)
        def run(*args: P.args, **options: P.kwargs) -> int:
            configure_logging()
            try:
                return main(*args, **options)
            except BrokenPipeError:
                with suppress(OSError, ValueError):  # otherwise the interpreter reports the closed pipe again at exit
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 1
            except errors as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 2
            except KeyboardInterrupt:
                print(f"\n{name}: {stopped}", file=sys.stderr)
                return 130

        return run

    return decorate
