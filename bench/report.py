"""Write the HTML page of all results: python -m bench.report"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.records.record import records_folder
from bench.reports.page_html import PICTURES, build
from bench.storage.atomic import atomic_write
from bench.terminal.cli import CommandParser, command


def parser() -> CommandParser:
    p = CommandParser(prog="python -m bench.report", description=__doc__.splitlines()[0])
    p.add_argument("--results", default="results", metavar="DIR", help="results folder (default: results)")
    p.add_argument("--out", metavar="FILE", help="where to write it (default: DIR/report.html)")
    p.add_argument(
        "--pictures",
        type=float,
        default=PICTURES,
        metavar="MIB",
        help=f"most sample grids to embed, in MiB (default: {PICTURES:g})",
    )
    return p


@command("bench.report")
def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
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
    text = build(results, flags.pictures)
    with atomic_write(out) as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"{out}: {len(text.encode()) / 2**20:.2f} MiB; open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
