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

from bench.config.metric_specs import ARROWS, METRIC_SPECS, metric_type
from bench.records import text_tables
from bench.records.leaderboard import (
    LeaderboardEntry,
    LeaderboardTable,
    build_tables,
    drop_superseded_failures,
    group_id,
)
from bench.records.ranking import SeedStatistics
from bench.records.record import Record, read_records, records_folder
from bench.storage.atomic import atomic_write

COST_COLUMNS = ("params", "macs", "training_flops", "accelerator_hours", "images_per_second")
METRIC_HEADING = re.compile(rf"({'|'.join(METRIC_SPECS)})(\[.*\])?")
"""A metric's heading."""
MAX_REBUILDS = 5
"""How often it is rebuilt at most; whoever publishes after that rebuilds it too."""
SIGNIFICANT_DIGITS = 10
"""Significant digits of what is computed from records, so that no machine's rounding shows."""


def csv_rows(records: Iterable[Record], whole: Sequence[LeaderboardTable] | None = None) -> list[dict[str, Any]]:
    """One row a record, best first within each fingerprint; metrics in columns of their own.

    rank and those after it are of the row's group, whose runs differ in their seed alone; rank_low and rank_high are
    the interval that ranks are made from, NAME mean and NAME deviation over the seeds.  `whole` are the boards, where
    they are made already.
    """
    there = list(records)
    whole = build_tables(there) if whole is None else whole
    of = {r.id: (board, line) for board in whole for line in board.lines for r in line.runs}
    place = {id_: i for i, id_ in enumerate(of)}
    there.sort(key=lambda r: (r.fingerprint, place.get(r.id, len(place)), r.label, r.id))
    return [_csv_row(r, *of.get(r.id, (None, None))) for r in there]


def _csv_row(r: Record, board: LeaderboardTable | None, line: LeaderboardEntry | None) -> dict[str, Any]:
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
        "rank_low": _round_value(best.low if best else None),
        "rank_high": _round_value(best.high if best else None),
        "model": r.label,
        "arch": r.config.get("model", {}).get("arch"),
        "kind": r.kind,
        "status": r.status,
        "seed": r.config.get("seed"),
        "seeds": len(line.runs) if line else None,
        "group": line.group if line else group_id(r),
        "incidents": len(r.incidents),
        "device": r.environment.get("device"),
        "date": r.created[:10],
        "commit": r.environment.get("commit"),
        "dirty": r.environment.get("dirty"),
        "record": r.id,
        "link": text_tables.record_path(r),
    }
    for name in COST_COLUMNS:
        row[name] = getattr(r.cost, name, None)
    row["samples"] = next((m.samples for m in r.metrics.values()), None)
    for name, metric in r.metrics.items():
        over: SeedStatistics | None = line.metrics[name] if line else None
        row[name] = metric.value
        row[f"{name} low"] = metric.interval.low if metric.interval else None
        row[f"{name} high"] = metric.interval.high if metric.interval else None
        row[f"{name} mean"] = _round_value(over.mean if over else None)
        row[f"{name} deviation"] = _round_value(over.deviation if over else None)
    return row


def _round_value(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def format_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, which needs no pandas to import; the headings of metrics have the arrow of the better direction."""
    columns = list({name: 0 for row in table for name in row})
    arrows = {c: f" {ARROWS[METRIC_SPECS[metric_type(c)][0]]}" for c in columns if METRIC_HEADING.fullmatch(c)}
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerow({c: c + arrows.get(c, "") for c in columns})
    writer.writerows(table)
    return text.getvalue()


def build_leaderboard(results: Path) -> tuple[str, str]:
    """(CSV, Markdown) of a results folder's records."""
    with paused_garbage_collection():
        records = drop_superseded_failures(read_records(results))
        whole = build_tables(records)
        return format_csv(csv_rows(records, whole)), format_markdown(records, whole)


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
    """Without Python's search for garbage: among 10,000 records, all in use, it takes a fifth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def format_markdown(records: Sequence[Record], whole: Sequence[LeaderboardTable]) -> str:
    """A table a protocol, with its caption, and what did not finish."""
    parts = ["# Leaderboard\n\nMade by `python -m bench.leaderboard` from the records; do not edit.\n"]
    parts += [text_tables.table_section(board) for board in whole]
    parts.append(text_tables.LEGEND)
    if failed := [r for r in records if r.status != "done"]:
        parts.append(text_tables.unfinished_section(failed))
    return "\n".join(parts)


def write_leaderboard(results: Path) -> str:
    """Rebuild leaderboard.csv and leaderboard.md; the Markdown is returned.

    Where another process has published meanwhile it is done again, so that the last to write knows all.
    """
    for _ in range(MAX_REBUILDS):
        before = ledger_state(results)
        table, text = build_leaderboard(results)
        for name, content in (("leaderboard.csv", table), ("leaderboard.md", text)):
            with atomic_write(results / name) as partial:
                partial.write_text(content)
        if ledger_state(results) == before:
            break
    return text


def ledger_state(results: Path) -> set[tuple[str, int, int]]:
    """What the leaderboard is made of: other records are another set."""
    found = set()
    for path in records_folder(results).glob("*.json"):
        with suppress(FileNotFoundError):
            stat = path.stat()
            found.add((path.name, stat.st_ino, stat.st_mtime_ns))
    return found
