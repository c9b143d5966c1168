"""Show the status of every run: python -m bench.status ['dit*'] --watch"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from bench.cluster import run_status
from bench.cluster.live_table import WATCH_SECONDS, check_watch_options, watch_runs
from bench.cluster.run_status import FAILED_STATES, RUN_STATES
from bench.cluster.status_table import status_page
from bench.terminal.cli import CommandParser, command


def parser() -> CommandParser:
    p = CommandParser(prog="python -m bench.status", description="Show the status of every run.")
    p.add_argument("pattern", nargs="*", help="part of a run's name, or a shell pattern (default: all runs)")
    p.add_argument("--results", default="results", metavar="DIR", help="results folder (default: results)")
    watch = f"repeat until no run is active (default: every {WATCH_SECONDS:.0f} s)"
    p.add_argument("--watch", nargs="?", type=float, const=WATCH_SECONDS, metavar="SECONDS", help=watch)
    failed = "show only failed, diverged and lost runs; exit status 1 if there are any"
    p.add_argument("--failed", action="store_true", help=failed)
    p.add_argument(
        "--state", choices=RUN_STATES, metavar="WORD", help=f"show only runs in one state: {', '.join(RUN_STATES)}"
    )
    p.add_argument("--json", action="store_true", help="print all values as JSON")
    return p


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
    statuses, note = run_status.query_runs(run_status.find_runs(results, flags.pattern))
    statuses = [status for status in statuses if status.state in states]
    if flags.json:
        print(json.dumps(run_status.statuses_as_json(statuses, note), indent=2), flush=True)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        print("\n".join(status_page(statuses, note, results / "runs", width)), flush=True)
    return 1 if flags.failed and statuses else 0


if __name__ == "__main__":
    sys.exit(main())
