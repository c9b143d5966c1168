"""The page people look at: python -m bench.report

One HTML file with everything in it, that asks no network for anything and works from file://: leaderboards, figures,
paper tables, samples side by side, and a page a run.  Made from the records alone, and the same whenever it is made
of the same.  Imports no torch.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import jinja2

from . import contents
from .boards import without_overtaken
from .command import Parser
from .files import atomic
from .record import folder, read_all

PARTS = (
    ("leaderboards", "Leaderboards"),
    ("scaling", "Scaling"),
    ("tables", "Tables"),
    ("samples", "Samples"),
)
FOLDER = Path(__file__).parent / "page"
PICTURES = 0.5
"""MiB of sample grids that are embedded unless told otherwise."""


def build(results: Path, pictures: float = PICTURES) -> str:
    """The page of a results folder, with at most so many MiB of sample grids."""
    records = without_overtaken(read_all(results))
    data = contents.pages(records) | {"tables": contents.tables(records)}
    rows = [row["runs"] for board in data["boards"] for row in board["rows"]]
    known, grids = contents.samples(results, rows, int(pictures * 2**20))
    data = contents.rounded(data) | contents.woven(records) | {"pictures": known}
    return page(data, contents.figures(records), grids)


def page(data: dict[str, Any], figures: list[dict[str, Any]], grids: dict[str, str]) -> str:
    """The HTML of data for the scripts, of figures and of grids, {run: data URI}."""
    style = (FOLDER / "style.css").read_text()
    script = "\n".join(path.read_text() for path in sorted(FOLDER.glob("*.js")))
    loader = jinja2.FileSystemLoader(FOLDER)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("page.html").render(
        parts=PARTS,
        runs=f"{len(data['records']):,}",
        figures=figures,
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        data=_inert(data),
        pictures=_inert(grids),
    )


def _hash(text: str) -> str:
    """As the content security policy names what may run."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _inert(value: Any) -> str:
    """JSON that no HTML parser takes for markup."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def parser() -> Parser:
    p = Parser(prog="python -m bench.report", description=__doc__.splitlines()[0])
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


def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    results = Path(flags.results)
    out = Path(flags.out) if flags.out else results / "report.html"
    try:
        if not results.is_dir():
            raise ValueError(f"{results} is no folder; name a results folder with --results")
        if flags.pictures < 0:
            raise ValueError(f"--pictures is {flags.pictures:g}; it must be at least 0")
        if out.is_dir():
            raise ValueError(f"{out} is a folder; name a file with --out")
        if not any(folder(results).glob("*.json")):
            raise ValueError(f"{results} has no records yet; python -m bench.run makes them")
        text = build(results, flags.pictures)
        with atomic(out) as partial:
            partial.write_text(text, encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"bench.report: {error}", file=sys.stderr)
        return 2
    print(f"{out}: {len(text.encode()) / 2**20:.2f} MiB; open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
