"""Show every run and its state: python -m bench.status ['dit*'] --watch"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from bench.cluster import run_status
from bench.cluster.run_status import BAD, STATES
from bench.cluster.status_table import SECONDS, check_watch, page, watch
from bench.terminal.cli import Parser


def parser() -> Parser:
    made = Parser(prog="python -m bench.status", description="Every run and how it stands.")
    made.add_argument("pattern", nargs="*", help="part of a run's name, or a shell pattern")
    made.add_argument("--results", default="results", metavar="DIR", help="results folder (default: results)")
    made.add_argument(
        "--watch", nargs="?", type=float, const=SECONDS, metavar="SECONDS", help="again and again (default: every 15 s)"
    )
    made.add_argument("--failed", action="store_true", help="only runs that failed, diverged or were lost; status 1")
    made.add_argument("--state", choices=STATES, metavar="WORD", help=f"only runs in a state: {', '.join(STATES)}")
    made.add_argument("--json", action="store_true", help="everything, as JSON")
    return made


def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    states = frozenset([flags.state] if flags.state else BAD if flags.failed else STATES)
    results = Path(flags.results)
    try:
        if flags.watch is not None:
            check_watch(flags.watch, flags.json)
            watch(results, flags.pattern, states, flags.watch)
            return 0
        rows, note = run_status.look(run_status.find(results, flags.pattern))
        rows = [r for r in rows if r.state in states]
        if flags.json:
            print(json.dumps(run_status.as_json(rows, note), indent=2), flush=True)
        else:
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
            print("\n".join(page(rows, note, results / "runs", width)), flush=True)
    except KeyboardInterrupt:
        print()
        return 0 if flags.watch else 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return 1
    except (ValueError, OSError) as error:
        print(f"bench.status: {error}", file=sys.stderr)
        return 2
    return 1 if flags.failed and rows else 0


if __name__ == "__main__":
    sys.exit(main())
