"""Leaderboard tables as Markdown.  Imports no torch."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from bench.config.metric_specs import ARROWS, HEADLINE_TYPE, metric_type
from bench.records.leaderboard import LeaderboardEntry, LeaderboardTable, failure_row
from bench.records.protocol import describe_protocol
from bench.records.record import Record
from bench.terminal.formatting import format_count

NO_VALUE = "–"
LEGEND = (
    "rank: one more than the number of rows that are better beyond their intervals; = if the interval overlaps another "
    "row's; ranks: the range of possible ranks. One seed: the value ± half the width of its 95 % interval over the "
    "samples. Several seeds: mean ± standard deviation over the seeds (their number), and Student's t interval of the "
    "mean. Arrows give the better direction. Hours are accelerator-hours of training. Over several seeds, hours and "
    "images/s are means, incidents a sum, and the date is that of the last run.\n"
)


def table_section(table: LeaderboardTable, rows: Sequence[Mapping[str, str]] | None = None, about: str = "") -> str:
    """Heading, caption and rows of a table; `rows` default to its entries and references, `about` ends the caption."""
    if rows is None:
        rows = [entry_row(table, entry) for entry in table.entries] + reference_rows(table)
    caption = f"{describe_protocol(table.protocol)}.{about}"
    return f"## Protocol {table.fingerprint}\n\n{caption}\n\n{github_table(rows)}\n"


def github_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as a Markdown table, numbers as they are."""
    return str(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


def fit_terminal(text: str, source: str) -> str:
    """On a terminal, cut tables to the columns that fit and name the `source` of all; elsewhere return the text."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    lines = text.splitlines()
    if not width or all(len(line) <= width for line in lines if line.startswith("|")):
        return text
    cut = [line[: line.rfind("|", 0, width) + 1] if line.startswith("|") else line for line in lines]
    return "\n".join([*cut, "", f"Columns that do not fit into {width} characters: {source}"])


def rank_columns(entry: LeaderboardEntry) -> dict[str, str]:
    """Rank, range of ranks, and label."""
    return {
        "rank": entry.rank.format() if entry.rank else NO_VALUE,
        "ranks": entry.rank.format_range() if entry.rank else NO_VALUE,
        "model": entry.label,
    }


def metric_columns(table: LeaderboardTable, entry: LeaderboardEntry) -> dict[str, str]:
    """Every metric with its arrow; the headline metric also with its interval."""
    cells = {}
    for name in table.metrics:
        statistics = entry.metrics.get(name)
        short = name if name.startswith(HEADLINE_TYPE) else metric_type(name)  # the caption names the features
        cells[f"{short} {ARROWS[table.direction(name)]}"] = statistics.format() if statistics else ""
        if name == table.headline:
            cells["95 %"] = statistics.format_interval() if statistics else ""
    return cells


def record_links(runs: Sequence[Record]) -> str:
    """Links to the files of records, by the last digits of their ids."""
    return " ".join(f"[{r.id[-12:]}]({record_path(r)})" for r in runs)


def record_path(r: Record) -> str:
    """The file of a record, relative to the results folder."""
    return f"records/v1/{r.id}.json"


def entry_row(table: LeaderboardTable, entry: LeaderboardEntry) -> dict[str, str]:
    """The row of an entry: column -> text."""
    flops, speed = entry.counted_cost("training_flops"), entry.mean_cost("images_per_second")
    hours = entry.mean_cost("accelerator_hours") if speed is not None else None
    return {
        **rank_columns(entry),
        **metric_columns(table, entry),
        "N": f"{entry.samples:,}",
        "params": format_count(entry.counted_cost("params")),
        "MACs": format_count(entry.counted_cost("macs")),
        "training FLOPs": f"{flops:.2e}" if flops else "",
        "hours": f"{hours:.3g}" if hours is not None else "",
        "images/s": f"{speed:,.0f}" if speed is not None else "",
        "incidents": str(entry.incidents),
        "seeds": ", ".join(str(seed) for seed in entry.seeds if seed is not None),
        "date": entry.date,
        "commit": " ".join(entry.commits),
        "record": record_links(entry.runs),
    }


def reference_rows(table: LeaderboardTable) -> list[dict[str, str]]:
    """Rows of held-out images and noise, unranked and without cost."""
    return [{**entry_row(table, entry), "incidents": ""} for entry in table.reference_entries]


def unfinished_section(failed: Sequence[Record]) -> str:
    """The section of runs that failed or diverged."""
    rows = []
    for r in failed:
        row = failure_row(r)
        rows.append({**row, "error": row["error"].replace("|", "/"), "record": record_links([r])})
    return f"## Did not finish\n\nNeither ranked nor averaged.\n\n{github_table(rows)}\n"
