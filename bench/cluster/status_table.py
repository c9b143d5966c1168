"""Text output for the status of runs: a table, a page with failures and a summary, and log lines.

Imports no torch.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.cluster.run_status import ACTIVE_STATES, RUN_STATES, RunStatus
from bench.terminal.formatting import format_count, format_duration

COLUMNS = ("run", "state", "progress", "img/s", "ETA", "loss", "FID", "restarts", "node", "log")
MIN_WIDTHS = {"run": 16, "state": 10, "node": 6}
"""Columns that may be shortened in the middle, and their minimum widths."""
OPTIONAL_COLUMNS = ("log", "node", "restarts", "loss")
"""Columns that a narrow terminal leaves out, in this order."""


def run_cells(status: RunStatus, width: int, runs: Path) -> dict[str, str]:
    """Return the cells of a run's row.  `width` is the width of the terminal in columns, 0 for unlimited."""
    reason = f" ({status.why})" if status.why and status.state in (*ACTIVE_STATES, "lost", "cancelled") else ""
    progress, fid = "", ""
    if status.stage_images is not None and status.stage_of:
        percent = f"{status.stage_images / status.stage_of:4.0%}"
        progress = f"{format_count(status.stage_images)}/{format_count(status.stage_of)} {percent}"
    if status.fid and status.fid["value"] is not None:
        images = f" @ {format_count(status.fid['images'])}" if status.fid["images"] else ""
        fid = f"{status.fid['value']:.4g}{images}"
    return {
        "run": status.run,
        "state": status.state + (reason if width > 100 or not width or status.state == "cancelled" else ""),
        "progress": progress,
        "img/s": format_count(status.rate) if status.rate else "",
        "ETA": format_duration(status.eta_seconds) if status.eta_seconds is not None else "",
        "loss": f"{status.loss:.4g}" if status.loss is not None else "",
        "FID": fid,
        "restarts": str(status.restarts) + (f" +{status.rollbacks} rolled back" if status.rollbacks else ""),
        "node": status.node,
        "log": relative_path(status.log, runs),
    }


def describe_progress(status: RunStatus) -> str:
    """Format one line for a log: "dit: training 25%, 100 img/s, ETA 15 s, loss 0.25"."""
    words = [status.state + (f" ({status.why})" if status.why else "")]
    if status.state in ACTIVE_STATES and status.stage_images is not None and status.stage_of:
        words[0] += f" {status.stage_images / status.stage_of:.0%}"
        words += [f"{format_count(status.rate)} img/s"] if status.rate else []
        words += [f"ETA {format_duration(status.eta_seconds)}"] if status.eta_seconds is not None else []
        words += [f"loss {status.loss:.4g}"] if status.state == "training" and status.loss is not None else []
    return f"{status.run}: {', '.join(words)}"


def relative_path(path: str, folder: Path) -> str:
    """Shorten a path relative to a folder that contains it; other paths are unchanged."""
    short = os.path.relpath(path, folder)
    return path if short.startswith("..") else short


def table_lines(statuses: Iterable[RunStatus], width: int, runs: Path) -> list[str]:
    """Format the table, column names first, in at most `width` columns (0: unlimited).

    Paths of logs are relative to `runs`.
    """
    grid = [dict(zip(COLUMNS, COLUMNS, strict=True)), *(run_cells(status, width, runs) for status in statuses)]
    columns = [c for c in COLUMNS if any(row[c] for row in grid[1:])]
    candidates = (
        fit_widths(grid, [c for c in columns if c not in OPTIONAL_COLUMNS[:omitted]], width)
        for omitted in range(len(OPTIONAL_COLUMNS) + 1)
    )
    widths = next(filter(None, candidates), None) or {c: max(len(row[c]) for row in grid) for c in columns[:2]}
    lines = ["  ".join(shorten_middle(row[c], w).ljust(w) for c, w in widths.items()).rstrip() for row in grid]
    return [line[:width] for line in lines] if width else lines


def fit_widths(grid: list[dict[str, str]], columns: list[str], width: int) -> dict[str, int] | None:
    """Return column widths that fit `width`; only columns of MIN_WIDTHS are shortened.  None if none fit."""
    widths = {c: max(len(row[c]) for row in grid) for c in columns}
    while width and sum(widths.values()) + 2 * len(widths) - 2 > width:
        widest = max(columns, key=lambda c: widths[c] - MIN_WIDTHS.get(c, widths[c]))
        if widths[widest] <= MIN_WIDTHS.get(widest, widths[widest]):
            return None
        widths[widest] -= 1
    return widths


def shorten_middle(text: str, width: int) -> str:
    """Shorten a text to at most `width` characters, with an ellipsis instead of its middle."""
    if len(text) <= width:
        return text
    end = (width - 1) * 2 // 3  # the ends of run names tell them apart
    return f"{text[: width - 1 - end]}…{text[len(text) - end :] if end else ''}"


def count_states(statuses: Iterable[RunStatus]) -> str:
    """Format the number of runs in each state: "12 runs: 3 training, 9 done"."""
    counts = Counter(status.state for status in statuses)
    total = sum(counts.values())
    states = ", ".join(f"{counts[state]} {state}" for state in RUN_STATES if counts[state])
    return f"{total} run{'s' * (total != 1)}" + (f": {states}" if states else "")


def failure_lines(statuses: Iterable[RunStatus]) -> list[str]:
    """Format each error once, with the runs that it ended.  The table shows the reason of cancelled runs."""
    by_error: dict[tuple[str, ...], list[RunStatus]] = {}
    for status in statuses:
        if status.error and status.state != "cancelled":
            by_error.setdefault((status.state, *status.error), []).append(status)
    lines = []
    for (state, *error), group in by_error.items():
        more = f" and {len(group) - 3} more" if len(group) > 3 else ""
        lines += [f"{', '.join(status.run for status in group[:3])}{more} {state}:", *(f"    {line}" for line in error)]
        lines += [f"    log {relative_path(group[0].log, Path())}"]
    return lines


def status_page(statuses: Sequence[RunStatus], note: str, runs: Path, width: int, height: int = 0) -> list[str]:
    """Format the table, the failures and a summary, in at most `height` lines (0: unlimited)."""
    statuses = sorted(statuses, key=lambda status: (RUN_STATES.index(status.state), status.run))
    top = [f"note: {note}; the table below is from the runs' files"] if note else []
    body = table_lines(statuses, width, runs) if statuses else []
    omitted = set(table_lines(statuses, 0, runs)[0].split()) - set(body[0].split()) if body else set()
    body += failure_lines(statuses)
    room = height - len(top) - 2
    if height and len(body) > room:
        body = [*body[:room], f"... {len(body) - room} more lines; use a pattern or --state WORD to show fewer"]
    hint = f"; logs are in {runs}" if body else ""
    if omitted and width:
        hint = f"; omitted for lack of width: {', '.join(sorted(omitted, key=COLUMNS.index))}"
    lines = [*top, *body, count_states(statuses) + hint]
    return [line[:width] for line in lines] if width and height else lines
