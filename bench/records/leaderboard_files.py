"""Build leaderboard.csv and leaderboard.md from the records.  Imports no torch."""

from __future__ import annotations

import csv
import gc
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

from bench.config.metric_specs import ARROWS, KINDS, kind_of
from bench.records import text_tables
from bench.records.leaderboard import Board, Line, boards, group_of, without_overtaken
from bench.records.ranking import Spread
from bench.records.record import Record, folder, read_all
from bench.storage.atomic import atomic

COSTS = ("params", "macs", "training_flops", "accelerator_hours", "images_per_second")
METRIC = re.compile(rf"({'|'.join(KINDS)})(\[.*\])?")
"""A metric's heading."""
ROUNDS = 5
"""How often it is rebuilt at most; whoever publishes after that rebuilds it too."""
DIGITS = 10
"""Significant digits of what is computed from records, so that no machine's rounding shows."""


def rows(records: Iterable[Record], whole: Sequence[Board] | None = None) -> list[dict[str, Any]]:
    """One row a record, best first within each fingerprint; metrics in columns of their own.

    rank and those after it are of the row's group, whose runs differ in their seed alone; rank_low and rank_high are
    the interval that ranks are made from, NAME mean and NAME deviation over the seeds.  `whole` are the boards, where
    they are made already.
    """
    there = list(records)
    whole = boards(there) if whole is None else whole
    of = {r.id: (board, line) for board in whole for line in board.lines for r in line.runs}
    place = {id_: i for i, id_ in enumerate(of)}
    there.sort(key=lambda r: (r.fingerprint, place.get(r.id, len(place)), r.label, r.id))
    return [_row(r, *of.get(r.id, (None, None))) for r in there]


def _row(r: Record, board: Board | None, line: Line | None) -> dict[str, Any]:
    training = r.protocol.get("training", {})
    best = line.metrics.get(board.headline) if board and line else None
    row: dict[str, Any] = {
        "fingerprint": r.fingerprint,
        "evaluation": r.evaluation_fingerprint,
        "data": r.protocol["evaluation"]["data"],
        "track": training.get("track"),
        "images": training.get("images"),
        "rank": line.place.best if line and line.place else None,
        "rank_worst": line.place.worst if line and line.place else None,
        "rank_low": _rounded(best.low if best else None),
        "rank_high": _rounded(best.high if best else None),
        "model": r.label,
        "arch": r.config.get("model", {}).get("arch"),
        "kind": r.kind,
        "status": r.status,
        "seed": r.config.get("seed"),
        "seeds": len(line.runs) if line else None,
        "group": line.group if line else group_of(r),
        "incidents": len(r.incidents),
        "device": r.environment.get("device"),
        "date": r.created[:10],
        "commit": r.environment.get("commit"),
        "dirty": r.environment.get("dirty"),
        "record": r.id,
        "link": text_tables.path_of(r),
    }
    for name in COSTS:
        row[name] = getattr(r.cost, name, None)
    row["samples"] = next((m.samples for m in r.metrics.values()), None)
    for name, metric in r.metrics.items():
        over: Spread | None = line.metrics[name] if line else None
        row[name] = metric.value
        row[f"{name} low"] = metric.interval.low if metric.interval else None
        row[f"{name} high"] = metric.interval.high if metric.interval else None
        row[f"{name} mean"] = _rounded(over.mean if over else None)
        row[f"{name} deviation"] = _rounded(over.deviation if over else None)
    return row


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def csv_of(table: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, which needs no pandas to import; the headings of metrics have the arrow of the better direction."""
    columns = list({name: 0 for row in table for name in row})
    arrows = {c: f" {ARROWS[KINDS[kind_of(c)][0]]}" for c in columns if METRIC.fullmatch(c)}
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerow({c: c + arrows.get(c, "") for c in columns})
    writer.writerows(table)
    return text.getvalue()


def build(results: Path) -> tuple[str, str]:
    """(CSV, Markdown) of a results folder's records."""
    with uncollected():
        records = without_overtaken(read_all(results))
        whole = boards(records)
        return csv_of(rows(records, whole)), markdown(records, whole)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's search for garbage: among 10,000 records, all in use, it takes a fifth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def markdown(records: Sequence[Record], whole: Sequence[Board]) -> str:
    """A table a protocol, with its caption, and what did not finish."""
    parts = ["# Leaderboard\n\nMade by `python -m bench.leaderboard` from the records; do not edit.\n"]
    parts += [text_tables.section(board) for board in whole]
    parts.append(text_tables.LEGEND)
    if failed := [r for r in records if r.status != "done"]:
        parts.append(text_tables.unfinished(failed))
    return "\n".join(parts)


def write(results: Path) -> str:
    """Rebuild leaderboard.csv and leaderboard.md; the Markdown is returned.

    Where another process has published meanwhile it is done again, so that the last to write knows all.
    """
    for _ in range(ROUNDS):
        before = ledger(results)
        table, text = build(results)
        for name, content in (("leaderboard.csv", table), ("leaderboard.md", text)):
            with atomic(results / name) as partial:
                partial.write_text(content)
        if ledger(results) == before:
            break
    return text


def ledger(results: Path) -> set[tuple[str, int, int]]:
    """What the leaderboard is made of: other records are another set."""
    found = set()
    for path in folder(results).glob("*.json"):
        with suppress(FileNotFoundError):
            stat = path.stat()
            found.add((path.name, stat.st_ino, stat.st_mtime_ns))
    return found
