"""Write the HTML page of all results: python -m bench.report"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.records.record import records_folder
from bench.reports.style import DEFAULT_GRID_MIB
from bench.storage.atomic import atomic_write
from bench.terminal.cli import CommandParser, command


def make_parser() -> CommandParser:
    parser = CommandParser(prog="python -m bench.report", description=__doc__.splitlines()[0])
    parser.add_argument("--results", default="results", metavar="DIR", help="results folder (default: results)")
    parser.add_argument("--out", metavar="FILE", help="output file (default: DIR/report.html)")
    parser.add_argument(
        "--pictures",
        type=float,
        default=DEFAULT_GRID_MIB,
        metavar="MIB",
        help=f"maximum size of the embedded sample grids, in MiB (default: {DEFAULT_GRID_MIB:g})",
    )
    return parser


@command("bench.report")
def main(argv: list[str] | None = None) -> int:
    """Write the page."""
    flags = make_parser().parse_args(argv)
    from bench.reports.page_html import build_page

    results = Path(flags.results)
    out = Path(flags.out) if flags.out else results / "report.html"
    if not results.is_dir():
        raise ValueError(f"{results} is no folder; name a results folder with --results")
    if flags.pictures < 0:
        raise ValueError(f"--pictures is {flags.pictures:g}; it must be at least 0")
    if out.is_dir():
        raise ValueError(f"{out} is a folder; name a file with --out")
    if not any(records_folder(results).glob("*.json")):
        raise ValueError(f"{results} has no records yet; python -m bench.run makes them")
    text = build_page(results, flags.pictures)
    with atomic_write(out) as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"{out}: {len(text.encode()) / 2**20:.2f} MiB; open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
