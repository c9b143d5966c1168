"""Cancel runs on SLURM or on this machine: python -m bench.cancel 'dit*'"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.cluster import run_status
from bench.cluster.cancellation import ask_and_cancel
from bench.terminal.cli import CommandParser, command


@command("bench.cancel")
def main(argv: list[str] | None = None) -> int:
    p = CommandParser(prog="python -m bench.cancel", description="Cancel runs on SLURM or on this machine.")
    p.add_argument("pattern", nargs="*", help="part of a run's name, or a shell pattern")
    p.add_argument("--all", action="store_true", help="cancel every run of the results folder")
    p.add_argument("--results", default="results", metavar="DIR", help="results folder (default: results)")
    p.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    flags = p.parse_args(argv)
    if bool(flags.pattern) == flags.all:
        raise ValueError("name the runs to cancel, or use --all, but not both")
    ask_and_cancel(run_status.find_runs(Path(flags.results), flags.pattern), yes=flags.yes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
