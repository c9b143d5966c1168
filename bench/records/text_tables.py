"""Boards as Markdown.  Imports no torch."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from bench.config.metric_specs import ARROWS, HEADLINE, kind_of
from bench.records.leaderboard import Board, Line, failure
from bench.records.protocol import describe
from bench.records.record import Record

NONE = "–"
LEGEND = (
    "rank: one more than the rows that are better beyond their intervals; = where the interval overlaps another row's; "
    "ranks: all that the row may have. One seed: the value with the half-width of its 95 % interval over the samples. "
    "Several: mean ± standard deviation over the seeds (their number); the interval is then Student's t of the mean. "
    "Arrows say which way is better. Hours are accelerator-hours of training; hours and images/s are means over the "
    "seeds, incidents their sum, the date that of the last run.\n"
)


def section(board: Board, rows: Sequence[Mapping[str, str]] | None = None, more: str = "") -> str:
    """A board's heading, caption and table."""
    rows = [row(board, line) for line in board.lines] + references(board) if rows is None else rows
    return f"## Protocol {board.fingerprint}\n\n{describe(dict(board.protocol))}.{more}\n\n{github(rows)}\n"


def github(rows: Sequence[Mapping[str, str]]) -> str:
    return str(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


def fitted(text: str, whole: str) -> str:
    """Markdown as it is; on a terminal only the columns that fit, and `whole`, where all are."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    lines = text.splitlines()
    if not width or all(len(line) <= width for line in lines if line.startswith("|")):
        return text
    cut = [line[: line.rfind("|", 0, width) + 1] if line.startswith("|") else line for line in lines]
    return "\n".join([*cut, "", f"Columns that do not fit into {width} characters: {whole}"])


def place(line: Line) -> dict[str, str]:
    return {
        "rank": line.place.words() if line.place else NONE,
        "ranks": line.place.range() if line.place else NONE,
        "model": line.label,
    }


def metrics(board: Board, line: Line) -> dict[str, str]:
    """Every metric with its arrow; that of the ranks also with its interval."""
    cells = {}
    for name in board.metrics:
        own = line.metrics.get(name)
        short = name if name.startswith(HEADLINE) else kind_of(name)  # the caption says whose features
        cells[f"{short} {ARROWS[board.direction(name)]}"] = own.words() if own else ""
        if name == board.headline:
            cells["95 %"] = own.interval() if own else ""
    return cells


def links(runs: Sequence[Record]) -> str:
    return " ".join(f"[{r.id[-12:]}]({path_of(r)})" for r in runs)


def path_of(r: Record) -> str:
    """A record's file, from the results folder."""
    return f"records/v1/{r.id}.json"


def row(board: Board, line: Line) -> dict[str, str]:
    """A line of the leaderboard."""
    flops, rate, hours = line.counted("training_flops"), line.measured("images_per_second"), None
    if rate is not None:
        hours = line.measured("accelerator_hours")
    return {
        **place(line),
        **metrics(board, line),
        "N": f"{line.samples:,}",
        "params": human(line.counted("params")),
        "MACs": human(line.counted("macs")),
        "training FLOPs": f"{flops:.2e}" if flops else "",
        "hours": f"{hours:.3g}" if hours is not None else "",
        "images/s": f"{rate:,.0f}" if rate is not None else "",
        "incidents": str(line.incidents),
        "seeds": ", ".join(str(seed) for seed in line.seeds if seed is not None),
        "date": line.date,
        "commit": " ".join(line.commits),
        "record": links(line.runs),
    }


def references(board: Board) -> list[dict[str, str]]:
    """Rows of held-out images and noise, unranked and without cost."""
    return [{**row(board, line), "incidents": ""} for line in board.beside]


def unfinished(failed: Sequence[Record]) -> str:
    """The section of runs that failed or diverged."""
    told = [(failure(r), r) for r in failed]
    text = github([{**words, "error": words["error"].replace("|", "/"), "record": links([r])} for words, r in told])
    return f"## Did not finish\n\nNeither ranked nor averaged.\n\n{text}\n"


def human(count: float | None) -> str:
    """1,234,567 as 1.23 M."""
    if count is None:
        return ""
    for unit in ("", " k", " M", " G"):
        if abs(count) < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.4g} T"
