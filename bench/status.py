"""Show every run and its state: python -m bench.status ['dit*'] --watch"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from bench.cluster import run_status
from bench.cluster.run_status import FAILED_STATES, RUN_STATES
from bench.cluster.status_table import WATCH_SECONDS, check_watch_options, status_page, watch_runs
from bench.terminal.cli import CommandParser, command


def parser() -> CommandParser:
    made = CommandParser(prog="python -m bench.status", description="Every run and how it stands.")
    made.add_argument("pattern", nargs="*", help="part of a run's name, or a shell pattern")
    made.add_argument("--results", default="results", metavar="DIR", help="results folder (default: results)")
    made.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=WATCH_SECONDS,
        metavar="SECONDS",
        help="again and again (default: every 15 s)",
    )
    made.add_argument("--failed", action="store_true", help="only runs that failed, diverged or were lost; status 1")
    made.add_argument(
        "--state", choices=RUN_STATES, metavar="WORD", help=f"only runs in a state: {', '.join(RUN_STATES)}"
    )
    made.add_argument("--json", action="store_true", help="everything, as JSON")
    return made


@command("bench.status")
def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    states = frozenset([flags.state] if flags.state else FAILED_STATES if flags.failed else RUN_STATES)
    results = Path(flags.results)
    if flags.watch is not None:
        check_watch_options(flags.watch, flags.json)
        try:
            watch_runs(results, flags.pattern, states, flags.watch)
        except KeyboardInterrupt:
            print()
        return 0
    rows, note = run_status.query_runs(run_status.find_runs(results, flags.pattern))
    rows = [r for r in rows if r.state in states]
    if flags.json:
        print(json.dumps(run_status.statuses_as_json(rows, note), indent=2), flush=True)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        print("\n".join(status_page(rows, note, results / "runs", width)), flush=True)
    return 1 if flags.failed and rows else 0


if __name__ == "__main__":
    sys.exit(main())
