"""Watch runs on SLURM or on this machine, as a redrawn table on a terminal or as plain lines in a log.

Imports no torch: the values come from the runs' files and from SLURM.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cluster import run_status
from bench.cluster.run_status import ACTIVE_STATES, RunStatus
from bench.cluster.status_table import count_states, describe_progress, status_page
from bench.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from rich.live import Live

WATCH_SECONDS, MIN_WATCH_SECONDS = 15.0, 5.0
MAX_PROGRESS_LINES = 8
"""With more runs at work than this, a log shows only changes of state, no progress."""


class RunDisplay:
    """Displays the status of runs repeatedly.

    A log gets one line for each change of state and, every `seconds`, one line of progress for each run at work.
    """

    def __init__(self, runs: Path, seconds: float) -> None:
        self.runs, self.seconds = runs, seconds
        self.live: Live | None = None
        self.states: dict[str, str] = {}
        self.note, self.progress_at = "", -math.inf

    def __enter__(self) -> RunDisplay:
        if sys.stdout.isatty():
            from rich.live import Live  # imported here because it takes 0.1 s

            self.live = Live(auto_refresh=False, vertical_overflow="crop")
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def show(self, statuses: Sequence[RunStatus], note: str = "") -> None:
        """Show the current statuses.  `note` says why SLURM could not be queried."""
        if not self.live:
            for line in self._new_lines(statuses, note):
                print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
            return
        from rich.text import Text

        width, height = self.live.console.size
        lines = [time.strftime("%H:%M:%S"), *status_page(list(statuses), note, self.runs, width, height - 2)]
        self.live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)

    def _new_lines(self, statuses: Sequence[RunStatus], note: str) -> list[str]:
        """Return the lines to append to a log: changes of state, and progress if it is due."""
        working = [s.run for s in statuses if s.state in ("training", "sampling", "evaluating")]
        is_due = time.monotonic() - self.progress_at >= self.seconds
        shown = set(working) if is_due and len(working) <= MAX_PROGRESS_LINES else set()
        changed = {s.run for s in statuses if self.states.get(s.run) != s.state}
        lines = []
        for status in statuses:
            if status.run in changed | shown:
                lines.append(describe_progress(status))
            if status.run in changed:
                lines += [f"    {line}" for line in status.error]
        if (changed and len(statuses) > 1) or note != self.note:
            lines.append(count_states(statuses) + (f" ({note})" if note else ""))
        if is_due:
            self.progress_at = time.monotonic()
        self.states, self.note = {s.run: s.state for s in statuses}, note
        return lines


def watch_runs(results: Path, patterns: Sequence[str], states: Collection[str], seconds: float) -> None:
    """Show the runs of a results folder that are in `states`, every `seconds`, until no run is active."""
    with RunDisplay(results / "runs", seconds) as display:
        while True:
            statuses, note = run_status.query_runs(run_status.find_runs(results, patterns))
            display.show([status for status in statuses if status.state in states], note)
            if not any(status.state in ACTIVE_STATES for status in statuses):
                return
            time.sleep(seconds)


def watch_local_runs(
    runs: Mapping[str, RunFolder], advance: Callable[[], bool], *, seconds: float = WATCH_SECONDS, poll: float = 0.5
) -> None:
    """Show the runs of this machine's queue until `advance`, called every `poll` seconds, returns False."""
    folders, began = list(runs.values()), round(time.time(), 3)
    with RunDisplay(folders[0].path.parent, seconds) as display:
        while True:
            is_active = advance()
            display.show(run_status.query_local_runs(folders, began))
            if not is_active:
                return
            time.sleep(poll)


def check_watch_options(seconds: float, as_json: bool) -> None:
    """Raise ValueError for invalid options of bench.status --watch."""
    if as_json:
        raise ValueError("--json and --watch cannot be combined")
    if not seconds >= MIN_WATCH_SECONDS:
        raise ValueError(f"--watch is {seconds:g}; it must be at least {MIN_WATCH_SECONDS:g} s, to spare SLURM")
