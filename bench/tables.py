"""Print a table or figure of a paper with our measurements beside it: python -m bench.tables NAME"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

from tabulate import tabulate

from bench.experiments.suites import Scale
from bench.papers import catalog
from bench.papers.rendering import TableFormat, fill_scales, list_tables, render_figure, render_tables, write_pages
from bench.papers.run_matching import RecordIndex
from bench.records.record import read_records
from bench.terminal.cli import CommandParser, command


def parser() -> CommandParser:
    p = CommandParser(prog="python -m bench.tables", description=__doc__.splitlines()[0])
    p.add_argument("name", nargs="?", metavar="NAME", help="a table or figure that --list shows")
    p.add_argument("--list", action="store_true", help="list all tables and figures, with the measured share of each")
    p.add_argument("--format", choices=get_args(TableFormat), default="text", help="output format (default: text)")
    p.add_argument(
        "--scale", choices=get_args(Scale), help="scale of the runs (default: paper, and each scale with records)"
    )
    p.add_argument("--write", action="store_true", help="rebuild DIR/tables/*.md")
    p.add_argument("--results", default="results", metavar="DIR", help="results folder (default: results)")
    return p


@command("bench.tables")
def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    print(_answer(flags), end="")
    return 0


def _answer(flags: Any) -> str:
    results = Path(flags.results)
    if not results.is_dir():
        raise ValueError(f"{results} is no folder; name a results folder with --results")
    if bool(flags.name) + flags.list + flags.write != 1:
        raise ValueError("name one table, or use --list or --write")
    if flags.write:
        return f"{write_pages(results)} pages in {results / 'tables'}\n"
    index = RecordIndex(read_records(results))
    if flags.list:
        widths = [None, 50, 22, 22, 22]
        rows = tabulate(list_tables(index), headers="keys", disable_numparse=True, maxcolwidths=widths)
        return f"{rows}\n\npython -m bench.tables NAME prints one, with the commands that run what is missing.\n"
    if flags.name in catalog.figures():
        return render_figure(flags.name, index, flags.scale, flags.format)
    return render_tables(fill_scales(flags.name, index, flags.scale), flags.format)


if __name__ == "__main__":
    sys.exit(main())
