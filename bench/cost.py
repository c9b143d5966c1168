"""Print the cost of the published networks, as counted here and as published: python -m bench.cost"""

from __future__ import annotations

import json
import sys

from tabulate import tabulate

from bench.papers import published_networks
from bench.papers.published_costs import LEGEND, as_csv, as_json, as_row, chosen, compare
from bench.storage.atomic import atomic
from bench.terminal.cli import Parser


def main(argv: list[str] | None = None) -> int:
    """Print the table; status 1 when a count differs from the official definition's."""
    parser = Parser(
        prog="python -m bench.cost",
        description="Cost of the published networks, as counted here and as published.",
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="only networks whose names hold one of these words")
    parser.add_argument("--json", action="store_true", help="unrounded numbers for scripts")
    parser.add_argument("--write", action="store_true", help="write all counts to results/counts.csv, for bench.tables")
    flags = parser.parse_args(argv)
    try:
        rows = chosen([] if flags.write else flags.words)
    except ValueError as error:
        print(f"bench.cost: {error}", file=sys.stderr)
        return 2
    found = []
    for i, row in enumerate(rows):
        if sys.stderr.isatty():
            print(f"\r{i + 1}/{len(rows)} {row.id:<24}", end="", file=sys.stderr, flush=True)
        found.append(compare(row))
    if sys.stderr.isatty():
        print(f"\r{'':<40}\r", end="", file=sys.stderr)
    if flags.write:
        with atomic(published_networks.COUNTS) as partial:
            partial.write_text(as_csv(found))
    elif flags.json:
        print(json.dumps([as_json(f) for f in found], indent=2))
    else:
        print(tabulate([as_row(f) for f in found], headers="keys", disable_numparse=True, colalign=COLUMNS))
        print(f"\n{LEGEND}")
    return int(any(f.verdict().startswith("differs: official") for f in found))


COLUMNS = ("left", *["right"] * 11, "left")

if __name__ == "__main__":
    sys.exit(main())
