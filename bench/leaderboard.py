"""Rebuild, filter or check the leaderboard: python -m bench.leaderboard

python -m bench.leaderboard                                rebuild leaderboard.csv and .md, and print it
python -m bench.leaderboard --data digits --arch dit,uvit  print some rows; ranks are those of the whole table
python -m bench.leaderboard --sort macs                    print in another order
python -m bench.leaderboard --at-compute 4e12              each run at its evaluation point nearest to that cost
python -m bench.leaderboard --target fid=1                 training FLOPs and hours to reach it
python -m bench.leaderboard --check FILE                   check a record before it is added
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from bench.records import queries, text_tables
from bench.records.leaderboard import drop_superseded_failures
from bench.records.leaderboard_files import write_leaderboard
from bench.records.record import read_records, records_folder
from bench.terminal.cli import CommandParser, PlainHelp, command


def parser() -> CommandParser:
    p = CommandParser(prog="python -m bench.leaderboard", description=__doc__, formatter_class=PlainHelp)
    p.add_argument("--results", default="results", metavar="DIR", help="results folder (default: results)")
    view = p.add_argument_group("only print; nothing is written")
    for name, about in queries.FILTERS.items():
        view.add_argument(f"--{name}", metavar=name.upper(), help=about.help)
    view.add_argument("--sort", metavar="COLUMN", help=f"sort by a metric, or by {', '.join(queries.SORT_COLUMNS)}")
    how = view.add_mutually_exclusive_group()
    how.add_argument("--at-compute", metavar="FLOPS", help="each run at its evaluation point nearest to that cost")
    how.add_argument("--target", metavar="METRIC=VALUE", help="training FLOPs and accelerator-hours to reach it")
    how.add_argument("--check", metavar="FILE", nargs="+", help="print every problem of these records")
    return p


@command("bench.leaderboard")
def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    results = Path(flags.results)
    asked: Mapping[str, str] = {k: v for k in queries.QUERY_FLAGS if (v := getattr(flags, k)) is not None}
    if not results.is_dir():
        raise ValueError(f"{flags.results} is no folder; name a results folder with --results")
    if flags.check and asked:
        raise ValueError(f"--check takes no filters; leave out --{', --'.join(asked).replace('_', '-')}")
    if flags.check:
        from bench.records import submission_check

        return submission_check.check_files([Path(name) for name in flags.check], results)
    if not any(records_folder(results).glob("*.json")):
        raise ValueError(f"{flags.results} has no records yet; python -m bench.run makes them")
    if asked:
        text = queries.render_view(drop_superseded_failures(read_records(results)), asked)
    else:
        text = write_leaderboard(results)
    print(text_tables.fit_terminal(text, f"pipe this into a file, or read {results / 'leaderboard.md'}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
