"""Show runs and their states as a table.  Imports no torch."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from bench.cluster import run_status
from bench.cluster.run_status import ACTIVE_STATES, RUN_STATES, RunStatus
from bench.terminal.formatting import format_count, format_duration

COLUMNS = ("run", "state", "progress", "img/s", "ETA", "loss", "FID", "restarts", "node", "log")
MIN_WIDTHS = {"run": 16, "state": 10, "node": 6}
"""Columns that may be shortened in the middle, and to what."""
OPTIONAL_COLUMNS = ("log", "node", "restarts", "loss")
"""Columns that a narrow terminal goes without, in this order."""
WATCH_SECONDS, MIN_WATCH_SECONDS = 15.0, 5.0


def run_cells(r: RunStatus, width: int, runs: Path) -> dict[str, str]:
    """What the table shows of a run."""
    why = f" ({r.why})" if r.why and r.state in (*ACTIVE_STATES, "lost", "cancelled") else ""
    progress = ""
    if r.stage_images is not None and r.stage_of:
        progress = f"{format_count(r.stage_images)}/{format_count(r.stage_of)} {r.stage_images / r.stage_of:4.0%}"
    fid = ""
    if r.fid and r.fid["value"] is not None:
        fid = f"{r.fid['value']:.4g}" + (f" @ {format_count(r.fid['images'])}" if r.fid["images"] else "")
    return {
        "run": r.run,
        "state": r.state + (why if width > 100 or not width or r.state == "cancelled" else ""),
        "progress": progress,
        "img/s": format_count(r.rate) if r.rate else "",
        "ETA": format_duration(r.eta_seconds) if r.eta_seconds is not None else "",
        "loss": f"{r.loss:.4g}" if r.loss is not None else "",
        "FID": fid,
        "restarts": str(r.restarts) + (f" +{r.rollbacks} rolled back" if r.rollbacks else ""),
        "node": r.node,
        "log": relative_path(r.log, runs),
    }


def relative_path(path: str, folder: Path) -> str:
    """Relative to a folder, if it is below."""
    short = os.path.relpath(path, folder)
    return path if short.startswith("..") else short


def table_lines(rows: Iterable[RunStatus], width: int, runs: Path) -> list[str]:
    """Lines of at most `width` characters (0: as wide as they are), the heads first; logs are told from `runs`."""
    grid = [dict(zip(COLUMNS, COLUMNS, strict=True)), *(run_cells(r, width, runs) for r in rows)]
    heads = [h for h in COLUMNS if any(line[h] for line in grid[1:])]
    fitting = (
        fit_widths(grid, [h for h in heads if h not in OPTIONAL_COLUMNS[:left_out]], width)
        for left_out in range(len(OPTIONAL_COLUMNS) + 1)
    )
    widths = next(filter(None, fitting), None) or {h: max(len(line[h]) for line in grid) for h in heads[:2]}
    lines = ["  ".join(shorten_middle(line[h], w).ljust(w) for h, w in widths.items()).rstrip() for line in grid]
    return [line[:width] for line in lines] if width else lines


def fit_widths(grid: list[dict[str, str]], heads: list[str], width: int) -> dict[str, int] | None:
    """Widths of columns that fill at most `width`, those of LEAST shortened where they must be; None if they cannot."""
    widths = {h: max(len(line[h]) for line in grid) for h in heads}
    while width and sum(widths.values()) + 2 * len(widths) - 2 > width:
        widest = max(heads, key=lambda h: widths[h] - MIN_WIDTHS.get(h, widths[h]))
        if widths[widest] <= MIN_WIDTHS.get(widest, widths[widest]):
            return None
        widths[widest] -= 1
    return widths


def shorten_middle(text: str, width: int) -> str:
    """A text of at most `width`, its middle left out."""
    if len(text) <= width:
        return text
    end = (width - 1) * 2 // 3  # names differ, and logs tell, at their ends
    return f"{text[: width - 1 - end]}…{text[len(text) - end :] if end else ''}"


def count_states(rows: Iterable[RunStatus]) -> str:
    """12 runs: 3 training, 9 done."""
    counts = Counter(r.state for r in rows)
    total = sum(counts.values())
    states = ", ".join(f"{counts[state]} {state}" for state in RUN_STATES if counts[state])
    return f"{total} run{'s'[: total != 1]}" + (f": {states}" if states else "")


def failure_lines(rows: Iterable[RunStatus]) -> list[str]:
    """The last words of what failed, those of runs that ended alike told once; why one was cancelled its state says."""
    alike: dict[tuple[str, ...], list[RunStatus]] = {}
    for r in (r for r in rows if r.error and r.state != "cancelled"):
        alike.setdefault((r.state, *r.error), []).append(r)
    lines = []
    for (state, *words), some in alike.items():
        more = f" and {len(some) - 3} more" if len(some) > 3 else ""
        lines += [f"{', '.join(r.run for r in some[:3])}{more} {state}:", *(f"    {line}" for line in words)]
        lines += [f"    log {relative_path(some[0].log, Path())}"]
    return lines


def status_page(rows: list[RunStatus], note: str, runs: Path, width: int, height: int = 0) -> list[str]:
    """The table, what ended the runs that failed, and how many there are; at most `height` lines (0: all)."""
    rows = sorted(rows, key=lambda r: (RUN_STATES.index(r.state), r.run))
    top = [f"note: {note}; what follows is what the files say"] if note else []
    body = table_lines(rows, width, runs) if rows else []
    left = sorted(set(table_lines(rows, 0, runs)[0].split()) - set(body[0].split()), key=COLUMNS.index) if body else []
    body += failure_lines(rows)
    rest = height - len(top) - 2
    if height and len(body) > rest:
        body = [*body[:rest], f"... {len(body) - rest} more lines; name a pattern, or --state WORD"]
    hint = f"; not in {width} columns: {', '.join(left)}" if left and width else f"; logs are in {runs}" if body else ""
    lines = [*top, *body, count_states(rows) + hint]
    return [line[:width] for line in lines] if width and height else lines


def watch_runs(results: Path, patterns: list[str], states: frozenset[str], seconds: float) -> None:
    """Show the runs again and again until none is active: redrawn on a terminal, changes alone in a log."""
    live, before = sys.stdout.isatty(), dict[str, str]()
    while True:
        rows, note = run_status.query_runs(run_status.find_runs(results, patterns))
        shown = [r for r in rows if r.state in states]
        now = time.strftime("%H:%M:%S")
        if live:
            width, height = shutil.get_terminal_size()
            lines = [now, *status_page(shown, note, results / "runs", width, height - 2)]
            print("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J", end="", flush=True)
        else:
            changed = [r for r in shown if before.get(r.run) != r.state]
            lines = table_lines(changed, 0, results / "runs")[1:] if changed else []
            lines += [f"    {line}" for r in changed for line in r.error]
            lines += [count_states(rows) + (f" ({note})" if note else "")]
            print("\n".join(f"{now} {line}" for line in lines), flush=True)
            before = {r.run: r.state for r in rows}
        if not any(r.state in ACTIVE_STATES for r in rows):
            return
        time.sleep(seconds)


def check_watch_options(seconds: float, as_json: bool) -> None:
    """ValueError for what cannot be watched."""
    if as_json:
        raise ValueError("--json and --watch do not go together; leave one out")
    if not seconds >= MIN_WATCH_SECONDS:
        raise ValueError(f"--watch is {seconds:g}; SLURM is to be asked every {MIN_WATCH_SECONDS:g} s at most")
