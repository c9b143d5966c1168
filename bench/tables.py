"""Print the papers' tables beside our measurements: python -m bench.tables NAME"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

from tabulate import tabulate

from bench.experiments.suites import Scale
from bench.papers import catalog
from bench.papers.rendering import Format, listing, print_figure, sections, shown, write
from bench.papers.run_matching import Ledger
from bench.records.record import read_all
from bench.terminal.cli import Parser


def parser() -> Parser:
    p = Parser(prog="python -m bench.tables", description=__doc__.splitlines()[0])
    p.add_argument("name", nargs="?", metavar="NAME", help="a table or figure of --list")
    p.add_argument("--list", action="store_true", help="what there is, and how much of it is measured")
    p.add_argument("--format", choices=get_args(Format), default="text", help="(default: text)")
    p.add_argument("--scale", choices=get_args(Scale), help="(default: the paper's, and those with records)")
    p.add_argument("--write", action="store_true", help="rebuild DIR/tables/*.md")
    p.add_argument("--results", default="results", metavar="DIR", help="results folder (default: results)")
    return p


def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    try:
        print(_answer(flags), end="")
    except (ValueError, OSError) as error:
        print(f"bench.tables: {error}", file=sys.stderr)
        return 2
    return 0


def _answer(flags: Any) -> str:
    results = Path(flags.results)
    if not results.is_dir():
        raise ValueError(f"{results} is no folder; name a results folder with --results")
    if bool(flags.name) + flags.list + flags.write != 1:
        raise ValueError("name one table, or use --list or --write")
    if flags.write:
        return f"{write(results)} pages in {results / 'tables'}\n"
    ledger = Ledger(read_all(results))
    if flags.list:
        widths = [None, 50, 22, 22, 22]
        rows = tabulate(listing(ledger), headers="keys", disable_numparse=True, maxcolwidths=widths)
        return f"{rows}\n\npython -m bench.tables NAME prints one, with the commands that run what is missing.\n"
    if flags.name in catalog.figures():
        return print_figure(flags.name, ledger, flags)
    return shown(sections(flags.name, ledger, flags.scale), flags.format)


if __name__ == "__main__":
    sys.exit(main())
