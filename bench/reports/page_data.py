"""What the page shows, as plain data for its scripts: boards, figures, paper tables, samples and whole records.

Every number is the leaderboard's, the figures' or the tables' own; nothing is computed here.  Imports no torch.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from bench.config.metric_specs import metric_type
from bench.papers.filling import fill_all_tables
from bench.papers.filling import table_to_dict as plain_table
from bench.records.leaderboard import LeaderboardEntry, LeaderboardTable, build_tables, failure_row
from bench.records.protocol import describe_protocol
from bench.records.ranking import SeedStatistics
from bench.records.record import Record
from bench.reports import figure_definitions
from bench.reports.figure_schema import Panel, Point, Series

NOTES = (
    "Ranks hold within one protocol, by Fréchet distance. 1= is a rank shared with rows whose 95 % intervals overlap "
    "its own.",
    "± after one run is half of its 95 % interval over the finite number of samples; after several it is the deviation "
    "over their seeds, with their number in parentheses. Point at a value for the interval.",
    "Arrows say which way is better. A metric's features are named in the protocol: no two are comparable.",
    "Rows in italics are references: held-out is real images, noise is Gaussian pixels. They are not ranked.",
    "MACs are multiply-accumulates of one image's forward pass, what papers print as Gflops. Training FLOPs are "
    "counted: twice that, three forward passes an image.",
)

CELLS = (
    *("line", "metric", "direction", "printed", "words", "source", "verified", "note"),
    *("measured", "low", "high", "seeds", "records", "difference", "verdict"),
)
"""What is shown of a row of a paper's table."""
MOST_POINTS = 20
"""Points of the longest series that a panel's table lists."""
KEPT = ("rows",)
"""What the scripts expect to be there, empty or not."""


def pages(records: list[Record]) -> dict[str, Any]:
    """The boards, and an index of runs: id -> label, seed and status."""
    found = build_tables(records)
    beside = {r.id: r for board in found for r in board.references}
    return {
        "boards": [_board(board) for board in found],
        "failed": [{"id": r.id, **failure_row(r)} for r in records if r.status != "done"],
        "runs": {r.id: {"label": r.label, "seed": r.config.get("seed")} for r in records if r.id not in beside}
        | {id_: {"label": r.label, "seed": None} for id_, r in beside.items()},
        "notes": NOTES,
    }


def _board(board: LeaderboardTable) -> dict[str, Any]:
    training, evaluation = board.protocol.get("training", {}), board.protocol["evaluation"]
    match = training.get("match", {"by": "none"})
    lines = [_row(line) for line in board.lines] + [_row(line, "reference") for line in board.beside]
    return {
        "fingerprint": board.fingerprint,
        "about": describe_protocol(dict(board.protocol)),
        "data": evaluation["data"],
        "track": training.get("track"),
        "images": training.get("images"),
        "equal": "sizes as they are" if match["by"] == "none" else f"equal {match['by']} with {match['to']}",
        "metrics": [{"name": n, "title": metric_type(n), "direction": board.direction(n)} for n in board.metrics],
        "rows": lines,
    }


def _row(line: LeaderboardEntry, kind: str = "model") -> dict[str, Any]:
    return {
        "label": line.label,
        "kind": kind,
        "arch": line.runs[0].config.get("model", {}).get("arch", "").rpartition(":")[2],
        "rank": line.place and line.place.best,
        "rank_words": line.place and line.place.words(),
        "rank_range": line.place and line.place.range(),
        "runs": [r.id for r in line.runs],
        "metrics": {name: _spread(s) for name, s in line.metrics.items()},
        "samples": line.samples,
        "params": line.counted("params"),
        "macs": line.counted("macs"),
        "training_flops": line.counted("training_flops"),
        "hours": line.measured("accelerator_hours"),
        "speed": line.measured("images_per_second"),
        "incidents": line.incidents,
        "date": line.date,
        "commit": ", ".join(line.commits),
    }


def _spread(s: SeedStatistics) -> dict[str, Any]:
    half = (s.high - s.low) / 2 if s.low is not None and s.high is not None else None
    return {
        "value": s.mean,
        "n": s.n,
        "half": half if s.deviation is None else s.deviation,
        "low": s.low,
        "high": s.high,
        "interval": "95 % interval" if s.n == 1 else "95 % interval of the mean over seeds",
    }


def tables(records: list[Record]) -> list[dict[str, Any]]:
    """The papers' tables, each at the paper's scale and at those others that have runs."""
    shown = [lean(plain_table(t)) for t in fill_all_tables(records) if t.scale == "paper" or t.run]
    return [{**t, "rows": [{k: v for k, v in row.items() if k in CELLS} for row in t["rows"]]} for t in shown]


def figures(records: list[Record]) -> list[dict[str, Any]]:
    """Collect the SVG, caption and table of values of each panel that bench.figures draws."""
    from bench.reports import svg
    from bench.reports.matplotlib_figures import notes

    seeds = {r.id: r.config.get("seed") for r in records}
    return [
        {
            "name": figure.name,
            "title": figure.title,
            "missing": figure.missing,
            "panels": [
                {"title": panel.title, "svg": element, "notes": notes(panel), **_values(panel, seeds)}
                for panel, element in zip(figure.panels, svg.elements(figure, f"f{i}"), strict=True)
            ],
        }
        for i, figure in enumerate(figure_definitions.everything(records))
    ]


def _values(panel: Panel, seeds: Mapping[str, int | None]) -> dict[str, Any]:
    """Heads and rows of a panel's table; long curves, such as losses, are left to the records."""
    axes = [panel.x] if panel.y.categories else [panel.x, panel.y]
    rows = [_value(panel, s, p, seeds) for s in panel.series if len(s.points) <= MOST_POINTS for p in s.points]
    return {
        "heads": ["series", "point", *(a.name for a in axes), "95 % interval", "runs, by seed", "note"],
        "rows": rows,
    }


def _value(panel: Panel, series: Series, p: Point, seeds: Mapping[str, int | None]) -> dict[str, Any]:
    from bench.reports import svg

    names = panel.y.categories
    numbers = [svg.written(p.x, panel.x), *([] if names else [svg.written(p.y, panel.y)]), svg.interval(p)]
    return {
        "series": series.name,
        "point": names[int(p.y)] if names else p.label,
        "numbers": numbers,
        "runs": [(id_, i if seeds.get(id_) is None else seeds[id_]) for i, id_ in enumerate(p.records)],
        "note": p.note,
    }


def rounded(value: Any) -> Any:
    """Plain data to six digits: more is nothing that a reader sees, and differs from machine to machine."""
    if isinstance(value, Mapping):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def lean(value: Any) -> Any:
    """Plain data of nested dataclasses without what is empty: the scripts take its absence for that."""
    if isinstance(value, Mapping):
        return {k: lean(v) for k, v in value.items() if v not in (None, "", (), []) or k in KEPT}
    return [lean(v) for v in value] if isinstance(value, list | tuple) else value


def woven(records: Iterable[Record]) -> dict[str, Any]:
    """{pieces, records}: each record's JSON text is its pieces joined; records share what is the same in them."""
    numbers: dict[str, int] = {}
    found = {r.id: [numbers.setdefault(piece, len(numbers)) for piece in _pieces(plain(r), depth=2)] for r in records}
    return {"pieces": list(numbers), "records": found}


def plain(r: Record) -> dict[str, Any]:
    """A record's data, as it is written to its file."""
    data = asdict(r)
    if r.error is None:
        del data["error"]
    return data


def _pieces(value: Any, depth: int) -> Iterator[str]:
    """The compact JSON text of a value, cut where fields begin, down to a depth."""
    if not depth or not isinstance(value, dict) or not value:
        yield json.dumps(value, separators=(",", ":"), allow_nan=False)
        return
    for i, (key, inner) in enumerate(value.items()):
        first, *rest = _pieces(inner, depth - 1)
        yield f"{',' if i else '{'}{json.dumps(key)}:{first}"
        yield from rest
    yield "}"


def samples(results: Path, rows: Iterable[list[str]], limit: int) -> tuple[dict[str, Any], dict[str, str]]:
    """(what is known of the grids, {run: data URI}) of results/samples, at most `limit` bytes of them.

    `rows` are runs that differ in their seed alone; the first of each comes first, then the second.
    """
    lines = [list(row) for row in rows]
    turns = [row[i] for i in range(max(map(len, lines), default=0)) for row in lines if i < len(row)]
    paths = {id_: results / "samples" / f"{id_}.webp" for id_ in turns}
    paths = {id_: path for id_, path in paths.items() if path.is_file()}
    there: dict[str, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    used = 0
    for id_, path in paths.items():
        picture = path.read_bytes()
        if used + len(picture) > limit:
            continue
        used += len(picture)
        there[id_] = f"data:image/webp;base64,{base64.b64encode(picture).decode()}"
        with Image.open(path) as image:
            sizes[id_] = image.size
    known = {"there": list(there), "size": sizes, "of": len(paths), "limit": f"{limit / 2**20:g} MiB"}
    return known, there
