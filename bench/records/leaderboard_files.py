"""Build leaderboard.csv and leaderboard.md from the records.

One table per protocol: rows are ranked within a fingerprint only.  Runs that differ only in their training seed share
a row of the Markdown, with mean, standard deviation and number of seeds; the CSV has a row per run.  Reference rows
(held-out images, noise) are shown unranked with every table that shares their evaluation.  Failed and diverged runs
have a list of their own, and a CSV row with their status.  Imports no torch.
"""

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
from bench.records.record import Metric, Record, read_records, records_folder
from bench.storage.atomic import atomic_write

COST_COLUMNS = ("params", "macs", "training_flops", "accelerator_hours", "images_per_second")
METRIC_HEADING = re.compile(rf"({'|'.join(METRIC_SPECS)})(\[.*\])?")
"""Column of a metric."""
MAX_REBUILDS = 5
"""Limit of rebuilds; a process that publishes a record later rebuilds the files too."""
SIGNIFICANT_DIGITS = 10
"""Significant digits of computed values, so that rounding does not depend on the machine."""


def csv_rows(records: Iterable[Record], tables: Sequence[LeaderboardTable] | None = None) -> list[dict[str, Any]]:
    """One row per record, best first within each fingerprint; each metric has columns of its own.

    rank, rank_worst, rank_low and rank_high, and NAME mean and NAME deviation, are those of the row's entry; rank_low
    and rank_high are the interval that ranks are computed from.  `tables` saves building them again.
    """
    everything = list(records)
    tables = build_tables(everything) if tables is None else tables
    entry_of = {r.id: (table, entry) for table in tables for entry in table.entries for r in entry.runs}
    position = {id_: i for i, id_ in enumerate(entry_of)}
    everything.sort(key=lambda r: (r.fingerprint, position.get(r.id, len(position)), r.label, r.id))
    return [_csv_row(r, *entry_of.get(r.id, (None, None))) for r in everything]


def _csv_row(r: Record, table: LeaderboardTable | None, entry: LeaderboardEntry | None) -> dict[str, Any]:
    rank = entry.rank if entry else None
    headline = entry.metrics.get(table.headline) if table and entry else None
    row: dict[str, Any] = {
        "fingerprint": r.fingerprint,
        "evaluation": r.evaluation_fingerprint,
        "data": r.data,
        "track": r.track,
        "images": r.budget,
        "rank": rank.best if rank else None,
        "rank_worst": rank.worst if rank else None,
        "rank_low": _round_value(headline.low if headline else None),
        "rank_high": _round_value(headline.high if headline else None),
        "model": r.label,
        "arch": r.arch or None,
        "kind": r.kind,
        "status": r.status,
        "seed": r.seed,
        "seeds": len(entry.runs) if entry else None,
        "group": entry.group if entry else group_id(r),
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
        row |= _metric_columns(name, metric, entry.metrics[name] if entry else None)
    return row


def _metric_columns(name: str, metric: Metric, over_seeds: SeedStatistics | None) -> dict[str, float | None]:
    return {
        name: metric.value,
        f"{name} low": metric.interval.low if metric.interval else None,
        f"{name} high": metric.interval.high if metric.interval else None,
        f"{name} mean": _round_value(over_seeds.mean if over_seeds else None),
        f"{name} deviation": _round_value(over_seeds.std if over_seeds else None),
    }


def _round_value(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def format_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, without pandas, which is slow to import; metrics have the arrow of their better direction."""
    columns = list({name: 0 for row in rows for name in row})
    arrows = {c: f" {ARROWS[METRIC_SPECS[metric_type(c)][0]]}" for c in columns if METRIC_HEADING.fullmatch(c)}
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerow({c: c + arrows.get(c, "") for c in columns})
    writer.writerows(rows)
    return text.getvalue()


def build_leaderboard(results: Path) -> tuple[str, str]:
    """(CSV, Markdown) of the records of a results folder."""
    with paused_garbage_collection():
        records = drop_superseded_failures(read_records(results))
        tables = build_tables(records)
        return format_csv(csv_rows(records, tables)), format_markdown(records, tables)


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
    """Pause Python's cyclic garbage collection, which takes a fifth of the time for 10,000 records, all in use."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def format_markdown(records: Sequence[Record], tables: Sequence[LeaderboardTable]) -> str:
    """One captioned table per protocol, the legend, and the runs that did not finish."""
    parts = ["# Leaderboard\n\nMade by `python -m bench.leaderboard` from the records; do not edit.\n"]
    parts += [text_tables.table_section(table) for table in tables]
    parts.append(text_tables.LEGEND)
    if failed := [r for r in records if r.status != "done"]:
        parts.append(text_tables.unfinished_section(failed))
    return "\n".join(parts)


def write_leaderboard(results: Path) -> str:
    """Rebuild leaderboard.csv and leaderboard.md, and return the Markdown.

    If another process has published a record meanwhile, rebuild again, so that the last writer has seen all records.
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
    """(name, inode, modification time) of every record file; the set changes with any record."""
    files = set()
    for path in records_folder(results).glob("*.json"):
        with suppress(FileNotFoundError):
            stat = path.stat()
            files.add((path.name, stat.st_ino, stat.st_mtime_ns))
    return files
