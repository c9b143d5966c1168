"""Draw the figures from records and published numbers: python -m bench.figures"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.records.record import read_records
from bench.reports import figure_definitions
from bench.reports.figure_files import _draw, _empty, _refuse_empty, listed
from bench.terminal.cli import CommandParser, command


@command("bench.figures")
def main(argv: list[str] | None = None) -> int:
    """Draw figures, or list them; status 2 for what a user got wrong."""
    parser = CommandParser(prog="python -m bench.figures", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all that can be drawn)")
    parser.add_argument("--list", action="store_true", help="every figure, what it has, and the command for the rest")
    parser.add_argument("--results", default="results", metavar="DIR", help="results folder (default: results)")
    parser.add_argument("--out", default="", metavar="DIR", help="where to (default: figures/ in the results folder)")
    parser.add_argument("--format", default="png", choices=("png", "svg"), help="default: png")
    flags = parser.parse_args(argv)
    results = Path(flags.results)
    if not results.is_dir():
        raise ValueError(f"{flags.results} is no folder; name a results folder with --results")
    found = figure_definitions.everything(read_records(results), flags.names)
    if flags.list:
        print("\n".join(map(listed, found)))
        return 0
    _refuse_empty([f for f in found if f.name in flags.names])
    for figure in found:
        if figure.panels:
            print(_draw(figure, Path(flags.out) if flags.out else results / "figures", flags.format))
        else:
            print(f"left out: {_empty(figure)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
