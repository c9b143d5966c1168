"""Progress of long work: rate and ETA."""

from __future__ import annotations

import sys
import time


class ProgressBar:
    """Images (or what `unit` says) done, rate and ETA on stderr: one line rewritten on a terminal, a line every 15 s
    in a log."""

    def __init__(self, what: str, total: int, seconds: float = 15.0, unit: str = "images") -> None:
        self.what, self.total, self.began, self.done, self.unit = what, total, time.monotonic(), 0, unit
        self.live = sys.stderr.isatty()
        self.seconds = 0.2 if self.live else seconds
        self.shown = self.began

    def add(self, images: int) -> None:
        self.done += images
        now = time.monotonic()
        if now - self.shown >= self.seconds:
            self.shown = now
            self._show(now)

    def _show(self, now: float) -> None:
        rate = self.done / max(now - self.began, 1e-9)
        left = int((self.total - self.done) / max(rate, 1e-9))
        eta = f"{self._each(rate)} {self.unit}/s  ETA {left // 60}:{left % 60:02d}"
        text = f"{self.what}: {self.done:,} of {self.total:,} {self.unit}  {eta}"
        print(f"\r\x1b[2K{text}" if self.live else text, end="" if self.live else "\n", file=sys.stderr, flush=True)

    @staticmethod
    def _each(rate: float) -> str:
        return f"{rate:,.0f}" if rate >= 1000 else f"{rate:,.1f}"

    def end(self) -> None:
        if self.live:
            print("\r\x1b[2K", end="", file=sys.stderr)
        seconds = time.monotonic() - self.began
        rate = self.done / max(seconds, 1e-9)
        print(
            f"{self.what}: {self.done:,} {self.unit} in {seconds:.1f} s, {self._each(rate)} {self.unit}/s",
            file=sys.stderr,
            flush=True,
        )
