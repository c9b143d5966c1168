"""Progress of long work on stderr: count, rate and ETA."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from bench.terminal.formatting import format_duration

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress


class ProgressBar:
    """Context manager that reports work done: a bar on a terminal, a line every `seconds` in a log.

    At the end it prints count, time and rate, except after an exception.
    """

    def __init__(self, label: str, total: int, seconds: float = 15.0, unit: str = "images") -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, 0
        self.began = self.shown = time.monotonic()
        self.display = _rich_progress(label, total) if sys.stderr.isatty() else None
        self.seconds = 0.2 if self.display else seconds

    def __enter__(self) -> ProgressBar:
        if self.display:
            self.display.start()
        return self

    def add(self, count: int) -> None:
        """Count further images (or another `unit`) as done."""
        self.done += count
        now = time.monotonic()
        if now - self.shown < self.seconds:
            return
        self.shown = now
        rate = self.done / max(now - self.began, 1e-9)
        eta = format_duration((self.total - self.done) / max(rate, 1e-9))
        text = f"{self.done:,} of {self.total:,} {self.unit}  {self._per_second(rate)}  ETA {eta}"
        if self.display:
            self.display.update(self.display.task_ids[0], completed=self.done, status=text, refresh=True)
        else:
            print(f"{self.label}: {text}", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.display:
            self.display.stop()
        if kind is None:
            seconds = time.monotonic() - self.began
            rate = self._per_second(self.done / max(seconds, 1e-9))
            summary = f"{self.label}: {self.done:,} {self.unit} in {seconds:.1f} s, {rate}"
            print(summary, file=sys.stderr, flush=True)

    def _per_second(self, rate: float) -> str:
        return f"{rate:,.{0 if rate >= 1000 else 1}f} {self.unit}/s"


def _rich_progress(label: str, total: int) -> Progress:
    """Return a bar that disappears at the end.  Only `ProgressBar.add` redraws it; there is no refresh thread."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[status]}"))
    display = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
    display.add_task(label, total=total, status="")
    return display
