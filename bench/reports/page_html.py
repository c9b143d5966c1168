"""Render the HTML page of all results from plain data and the templates in page/.  Imports no torch."""

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
from bench.reports.style import DEFAULT_GRID_MIB

PAGE_SECTIONS = (
    ("leaderboards", "Leaderboards"),
    ("scaling", "Scaling"),
    ("tables", "Tables"),
    ("samples", "Samples"),
)
PAGE_FOLDER = Path(__file__).parent / "page"


def build_page(results: Path, grid_mib: float = DEFAULT_GRID_MIB) -> str:
    """Build the page of a results folder, with at most `grid_mib` MiB of sample grids."""
    records = drop_superseded_failures(read_records(results))
    data = page_data.leaderboard_data(records) | {"tables": page_data.paper_table_data(records)}
    rows = [row["runs"] for board in data["boards"] for row in board["rows"]]
    index, grids = page_data.embed_sample_grids(results, rows, int(grid_mib * 2**20))
    data = page_data.round_floats(data) | page_data.deduplicate_records(records) | {"pictures": index}
    return render_page(data, page_data.figure_data(records), grids)


def render_page(data: dict[str, Any], figures: list[dict[str, Any]], grids: dict[str, str]) -> str:
    """Render the page from data for the scripts, figures for the template, and grids as {run id: data URI}."""
    style = (PAGE_FOLDER / "style.css").read_text()
    script = "\n".join(path.read_text() for path in sorted(PAGE_FOLDER.glob("*.js")))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(
        parts=PAGE_SECTIONS,
        runs=f"{len(data['records']):,}",
        figures=figures,
        style=style,
        style_hash=_csp_hash(style),
        script=script,
        script_hash=_csp_hash(script),
        data=_script_safe_json(data),
        pictures=_script_safe_json(grids),
    )


def _csp_hash(text: str) -> str:
    """Return the hash of an inline script or style for the content security policy: SHA-256 in base64."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script_safe_json(value: Any) -> str:
    """Encode a value as JSON without "<", so that it cannot end the script element that holds it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
