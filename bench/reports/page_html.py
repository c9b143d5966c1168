"""Render the HTML page from data.  Imports no torch."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2

from bench.records.leaderboard import drop_superseded_failures
from bench.records.record import read_records
from bench.reports import page_data

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
    records = drop_superseded_failures(read_records(results))
    data = page_data.pages(records) | {"tables": page_data.tables(records)}
    rows = [row["runs"] for board in data["boards"] for row in board["rows"]]
    known, grids = page_data.samples(results, rows, int(pictures * 2**20))
    data = page_data.rounded(data) | page_data.woven(records) | {"pictures": known}
    return page(data, page_data.figures(records), grids)


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
