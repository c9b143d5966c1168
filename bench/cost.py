"""Print the cost of the published networks, as counted here and as published: python -m bench.cost"""

from __future__ import annotations

import json
import sys

from bench.storage.atomic import atomic_write
from bench.terminal.cli import CommandParser, command
from bench.terminal.progress_bar import ProgressBar


@command("bench.cost", errors=(ValueError,))
def main(argv: list[str] | None = None) -> int:
    """Print the table; exit status 1 if a count differs from the official code."""
    parser = CommandParser(
        prog="python -m bench.cost",
        description="Compare the cost of published networks as counted here with the published numbers.",
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="only networks with one of these words in their name")
    parser.add_argument("--json", action="store_true", help="print unrounded numbers as JSON")
    parser.add_argument("--write", action="store_true", help="write all counts to results/counts.csv, for bench.tables")
    flags = parser.parse_args(argv)
    from tabulate import tabulate

    from bench.papers import published_networks
    from bench.papers.published_costs import (
        LEGEND,
        compare_cost,
        comparison_row,
        comparison_to_dict,
        format_counts_csv,
        search_networks,
    )

    rows = search_networks([] if flags.write else flags.words)
    comparisons = []
    with ProgressBar("cost", len(rows), unit="networks") as progress:
        for row in rows:
            comparisons.append(compare_cost(row))
            progress.add(1)
    if flags.write:
        with atomic_write(published_networks.COUNTS_FILE) as partial:
            partial.write_text(format_counts_csv(comparisons))
    elif flags.json:
        print(json.dumps([comparison_to_dict(c) for c in comparisons], indent=2))
    else:
        table = [comparison_row(c) for c in comparisons]
        print(tabulate(table, headers="keys", disable_numparse=True, colalign=COLUMNS))
        print(f"\n{LEGEND}")
    return int(any(c.verdict().startswith("differs: official") for c in comparisons))


COLUMNS = ("left", *["right"] * 11, "left")

if __name__ == "__main__":
    sys.exit(main())
