"""End runs, on SLURM or on this machine: python -m bench.cancel 'dit*'"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.cluster import run_status
from bench.cluster.cancellation import ask_and_cancel
from bench.terminal.cli import CommandParser, command


@command("bench.cancel")
def main(argv: list[str] | None = None) -> int:
    made = CommandParser(prog="python -m bench.cancel", description="End runs, on SLURM or on this machine.")
    made.add_argument("pattern", nargs="*", help="part of a run's name, or a shell pattern")
    made.add_argument("--all", action="store_true", help="every run of the results folder")
    made.add_argument("--results", default="results", metavar="DIR", help="results folder (default: results)")
    made.add_argument("--yes", action="store_true", help="without asking")
    flags = made.parse_args(argv)
    if bool(flags.pattern) == flags.all:
        raise ValueError("name the runs to cancel, or --all, and not both")
    ask_and_cancel(run_status.find_runs(Path(flags.results), flags.pattern), yes=flags.yes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
