"""Boards as Markdown.  Imports no torch."""

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
    "rank: one more than the rows that are better beyond their intervals; = where the interval overlaps another row's; "
    "ranks: all that the row may have. One seed: the value with the half-width of its 95 % interval over the samples. "
    "Several: mean ± standard deviation over the seeds (their number); the interval is then Student's t of the mean. "
    "Arrows say which way is better. Hours are accelerator-hours of training; hours and images/s are means over the "
    "seeds, incidents their sum, the date that of the last run.\n"
)


def table_section(board: LeaderboardTable, rows: Sequence[Mapping[str, str]] | None = None, more: str = "") -> str:
    """A board's heading, caption and table."""
    rows = [entry_row(board, line) for line in board.lines] + reference_rows(board) if rows is None else rows
    return (
        f"## Protocol {board.fingerprint}\n\n{describe_protocol(dict(board.protocol))}.{more}\n\n{github_table(rows)}\n"
    )


def github_table(rows: Sequence[Mapping[str, str]]) -> str:
    return str(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


def fit_terminal(text: str, whole: str) -> str:
    """Markdown as it is; on a terminal only the columns that fit, and `whole`, where all are."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    lines = text.splitlines()
    if not width or all(len(line) <= width for line in lines if line.startswith("|")):
        return text
    cut = [line[: line.rfind("|", 0, width) + 1] if line.startswith("|") else line for line in lines]
    return "\n".join([*cut, "", f"Columns that do not fit into {width} characters: {whole}"])


def rank_columns(line: LeaderboardEntry) -> dict[str, str]:
    return {
        "rank": line.place.words() if line.place else NO_VALUE,
        "ranks": line.place.range() if line.place else NO_VALUE,
        "model": line.label,
    }


def metric_columns(board: LeaderboardTable, line: LeaderboardEntry) -> dict[str, str]:
    """Every metric with its arrow; that of the ranks also with its interval."""
    cells = {}
    for name in board.metrics:
        own = line.metrics.get(name)
        short = name if name.startswith(HEADLINE_TYPE) else metric_type(name)  # the caption says whose features
        cells[f"{short} {ARROWS[board.direction(name)]}"] = own.words() if own else ""
        if name == board.headline:
            cells["95 %"] = own.interval() if own else ""
    return cells


def record_links(runs: Sequence[Record]) -> str:
    return " ".join(f"[{r.id[-12:]}]({record_path(r)})" for r in runs)


def record_path(r: Record) -> str:
    """A record's file, from the results folder."""
    return f"records/v1/{r.id}.json"


def entry_row(board: LeaderboardTable, line: LeaderboardEntry) -> dict[str, str]:
    """A line of the leaderboard."""
    flops, rate, hours = line.counted("training_flops"), line.measured("images_per_second"), None
    if rate is not None:
        hours = line.measured("accelerator_hours")
    return {
        **rank_columns(line),
        **metric_columns(board, line),
        "N": f"{line.samples:,}",
        "params": format_count(line.counted("params")),
        "MACs": format_count(line.counted("macs")),
        "training FLOPs": f"{flops:.2e}" if flops else "",
        "hours": f"{hours:.3g}" if hours is not None else "",
        "images/s": f"{rate:,.0f}" if rate is not None else "",
        "incidents": str(line.incidents),
        "seeds": ", ".join(str(seed) for seed in line.seeds if seed is not None),
        "date": line.date,
        "commit": " ".join(line.commits),
        "record": record_links(line.runs),
    }


def reference_rows(board: LeaderboardTable) -> list[dict[str, str]]:
    """Rows of held-out images and noise, unranked and without cost."""
    return [{**entry_row(board, line), "incidents": ""} for line in board.beside]


def unfinished_section(failed: Sequence[Record]) -> str:
    """The section of runs that failed or diverged."""
    told = [(failure_row(r), r) for r in failed]
    text = github_table(
        [{**words, "error": words["error"].replace("|", "/"), "record": record_links([r])} for words, r in told]
    )
    return f"## Did not finish\n\nNeither ranked nor averaged.\n\n{text}\n"
