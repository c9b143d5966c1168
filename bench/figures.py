"""Draw the figures from records and published numbers: python -m bench.figures"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.terminal.cli import CommandParser, command


@command("bench.figures")
def main(argv: list[str] | None = None) -> int:
    """Draw or list figures."""
    parser = CommandParser(prog="python -m bench.figures", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures to draw (default: all that have data)")
    parser.add_argument(
        "--list", action="store_true", help="list all figures, their panels, and the commands for missing runs"
    )
    parser.add_argument("--results", default="results", metavar="DIR", help="results folder (default: results)")
    parser.add_argument(
        "--out", default="", metavar="DIR", help="output folder (default: figures/ in the results folder)"
    )
    parser.add_argument("--format", default="png", choices=("png", "svg"), help="image format (default: png)")
    flags = parser.parse_args(argv)
    from bench.records.record import read_records
    from bench.reports.figure_definitions import build_figures
    from bench.reports.figure_files import describe_figure, write_figures

    results = Path(flags.results)
    if not results.is_dir():
        raise ValueError(f"{flags.results} is no folder; name a results folder with --results")
    figures = build_figures(read_records(results), flags.names)
    if flags.list:
        print("\n".join(map(describe_figure, figures)))
        return 0
    folder = Path(flags.out) if flags.out else results / "figures"
    for path in write_figures(figures, folder, flags.format, flags.names):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
