"""Collect the data of the page for its scripts: leaderboards, figures, paper tables, sample grids and records.

The numbers come from the leaderboard, the figures and the tables; none is computed here.  Imports no torch.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from bench.config.metric_specs import metric_type
from bench.papers.filling import fill_all_tables, table_to_dict
from bench.records.leaderboard import LeaderboardEntry, LeaderboardTable, build_tables, failure_row
from bench.records.protocol import describe_protocol
from bench.records.ranking import SeedStatistics
from bench.records.record import Record, record_to_dict
from bench.reports import figure_definitions
from bench.reports.figure_schema import Panel, Point, Series

LEADERBOARD_NOTES = (
    "Ranks hold within one protocol, by Fréchet distance. Rows whose 95 % intervals overlap share a rank: 1=.",
    "After a single run, ± is half of its 95 % interval over the finite number of samples; after several, it is the "
    "standard deviation over their seeds, with the number of seeds in parentheses. Point at a value for the interval.",
    "An arrow shows which direction is better. The protocol names the features of a metric; values in different "
    "features are not comparable.",
    "Rows in italics are references and have no rank: held-out is real images, noise is Gaussian pixels.",
    "MACs are multiply-accumulates of one image's forward pass, which papers print as Gflops. Training FLOPs are "
    "2 x MACs x 3 forward passes per training image.",
)

PAPER_TABLE_FIELDS = (
    *("line", "metric", "direction", "printed", "words", "source", "verified", "note"),
    *("measured", "low", "high", "seeds", "records", "difference", "verdict"),
)
"""Fields of a paper table's row that the page shows."""
MAX_TABLE_POINTS = 20
"""Number of points above which the table of a panel leaves out a series."""
REQUIRED_KEYS = ("rows",)
"""Keys that the scripts read unconditionally; `drop_empty` keeps them."""


def leaderboard_data(records: list[Record]) -> dict[str, Any]:
    """Collect leaderboard tables, unfinished runs, an index {run id: label and seed}, and notes on how to read them."""
    tables = build_tables(records)
    references = {r.id: r for table in tables for r in table.references}
    return {
        "boards": [_leaderboard_table(table) for table in tables],
        "failed": [{"id": r.id, **failure_row(r)} for r in records if r.status != "done"],
        "runs": {r.id: {"label": r.label, "seed": r.seed} for r in records if r.id not in references}
        | {id_: {"label": r.label, "seed": None} for id_, r in references.items()},
        "notes": LEADERBOARD_NOTES,
    }


def _leaderboard_table(table: LeaderboardTable) -> dict[str, Any]:
    training, evaluation = table.protocol.get("training", {}), table.protocol["evaluation"]
    match = training.get("match", {"by": "none"})
    rows = [_leaderboard_row(entry) for entry in table.entries]
    rows += [_leaderboard_row(entry, "reference") for entry in table.reference_entries]
    return {
        "fingerprint": table.fingerprint,
        "about": describe_protocol(table.protocol),
        "data": evaluation["data"],
        "track": training.get("track"),
        "images": training.get("images"),
        "equal": "sizes as they are" if match["by"] == "none" else f"equal {match['by']} with {match['to']}",
        "metrics": [{"name": n, "title": metric_type(n), "direction": table.direction(n)} for n in table.metrics],
        "rows": rows,
    }


def _leaderboard_row(entry: LeaderboardEntry, kind: str = "model") -> dict[str, Any]:
    return {
        "label": entry.label,
        "kind": kind,
        "arch": entry.runs[0].arch.rpartition(":")[2],
        "rank": entry.rank and entry.rank.best,
        "rank_words": entry.rank and entry.rank.format(),
        "rank_range": entry.rank and entry.rank.format_range(),
        "runs": [r.id for r in entry.runs],
        "metrics": {name: _metric_data(s) for name, s in entry.metrics.items()},
        "samples": entry.samples,
        "params": entry.counted_cost("params"),
        "macs": entry.counted_cost("macs"),
        "training_flops": entry.counted_cost("training_flops"),
        "hours": entry.mean_cost("accelerator_hours"),
        "speed": entry.mean_cost("images_per_second"),
        "incidents": entry.incidents,
        "date": entry.date,
        "commit": ", ".join(entry.commits),
    }


def _metric_data(s: SeedStatistics) -> dict[str, Any]:
    half = (s.high - s.low) / 2 if s.low is not None and s.high is not None else None
    return {
        "value": s.mean,
        "n": s.n,
        "half": half if s.std is None else s.std,
        "low": s.low,
        "high": s.high,
        "interval": "95 % interval" if s.n == 1 else "95 % interval of the mean over seeds",
    }


def paper_table_data(records: list[Record]) -> list[dict[str, Any]]:
    """Collect the papers' tables, each at the paper's scale and at every other scale that has runs."""
    tables = [drop_empty(table_to_dict(t)) for t in fill_all_tables(records) if t.scale == "paper" or t.run]
    for table in tables:
        table["rows"] = [{k: v for k, v in row.items() if k in PAPER_TABLE_FIELDS} for row in table["rows"]]
    return tables


def figure_data(records: list[Record]) -> list[dict[str, Any]]:
    """Collect the SVG, caption and table of values of each panel that bench.figures draws."""
    from bench.reports import svg
    from bench.reports.matplotlib_figures import caption_lines

    seeds = {r.id: r.seed for r in records}
    return [
        {
            "name": figure.name,
            "title": figure.title,
            "missing": figure.missing,
            "panels": [
                {"title": panel.title, "svg": element, "notes": caption_lines(panel), **_panel_table(panel, seeds)}
                for panel, element in zip(figure.panels, svg.panel_svgs(figure, f"f{i}"), strict=True)
            ],
        }
        for i, figure in enumerate(figure_definitions.build_figures(records))
    ]


def _panel_table(panel: Panel, seeds: Mapping[str, int | None]) -> dict[str, Any]:
    """Return heads and rows of a panel's table of values; long curves such as losses are only in the records."""
    axes = [panel.x] if panel.y.categories else [panel.x, panel.y]
    rows = [_panel_row(panel, s, p, seeds) for s in panel.series if len(s.points) <= MAX_TABLE_POINTS for p in s.points]
    return {
        "heads": ["series", "point", *(a.name for a in axes), "95 % interval", "runs, by seed", "note"],
        "rows": rows,
    }


def _panel_row(panel: Panel, series: Series, p: Point, seeds: Mapping[str, int | None]) -> dict[str, Any]:
    from bench.reports import svg

    names = panel.y.categories
    coordinates = [(p.x, panel.x)] if names else [(p.x, panel.x), (p.y, panel.y)]
    return {
        "series": series.name,
        "point": names[int(p.y)] if names else p.label,
        "numbers": [*(svg.format_value(value, axis) for value, axis in coordinates), svg.format_interval(p)],
        "runs": [(id_, i if seeds.get(id_) is None else seeds[id_]) for i, id_ in enumerate(p.records)],
        "note": p.note,
    }


def round_floats(value: Any) -> Any:
    """Round the floats of nested plain data to six digits; later digits differ between machines."""
    if isinstance(value, Mapping):
        return {k: round_floats(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [round_floats(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def drop_empty(value: Any) -> Any:
    """Drop empty values of nested plain data, which the scripts treat as absent; REQUIRED_KEYS stay."""
    if isinstance(value, Mapping):
        return {k: drop_empty(v) for k, v in value.items() if v not in (None, "", (), []) or k in REQUIRED_KEYS}
    return [drop_empty(v) for v in value] if isinstance(value, list | tuple) else value


def deduplicate_records(records: Iterable[Record]) -> dict[str, Any]:
    """Split the JSON text of records into pieces and list each distinct piece once.

    Returns {"pieces": [text], "records": {id: [index of a piece]}}; the joined pieces of a record are its JSON text.
    """
    numbers: dict[str, int] = {}
    indices = {
        r.id: [numbers.setdefault(piece, len(numbers)) for piece in _json_pieces(record_to_dict(r), depth=2)]
        for r in records
    }
    return {"pieces": list(numbers), "records": indices}


def _json_pieces(value: Any, depth: int) -> Iterator[str]:
    """Yield the compact JSON text of a value in pieces, cut at the fields of `depth` levels of dictionaries."""
    if not depth or not isinstance(value, dict) or not value:
        yield json.dumps(value, separators=(",", ":"), allow_nan=False)
        return
    for i, (key, inner) in enumerate(value.items()):
        first, *others = _json_pieces(inner, depth - 1)
        yield f"{',' if i else '{'}{json.dumps(key)}:{first}"
        yield from others
    yield "}"


def embed_sample_grids(results: Path, rows: Iterable[list[str]], limit: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Embed sample grids of results/samples/ up to `limit` bytes.

    `rows` holds the run ids of each leaderboard row; the grids of all first runs come before those of second runs.
    Returns an index (embedded ids, sizes in pixels, number of grids, limit) and the grids as {run id: data URI}.
    """
    ids_by_row = [list(row) for row in rows]
    longest = max(map(len, ids_by_row), default=0)
    ids = [row[i] for i in range(longest) for row in ids_by_row if i < len(row)]
    paths = {id_: results / "samples" / f"{id_}.webp" for id_ in ids}
    paths = {id_: path for id_, path in paths.items() if path.is_file()}
    grids: dict[str, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    used = 0
    for id_, path in paths.items():
        picture = path.read_bytes()
        if used + len(picture) > limit:
            continue
        used += len(picture)
        grids[id_] = f"data:image/webp;base64,{base64.b64encode(picture).decode()}"
        with Image.open(path) as image:
            sizes[id_] = image.size
    index = {"embedded": list(grids), "size": sizes, "total": len(paths), "limit": f"{limit / 2**20:g} MiB"}
    return index, grids
