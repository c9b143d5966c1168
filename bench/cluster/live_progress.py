"""Watching runs from their logs: a line a run, rewritten in place on a terminal, plain elsewhere.

Imports no torch: everything shown comes from the runs' files.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.storage.run_folder import RunFolder

STAGES = {"train": "training", "sample": "sampling", "evaluate": "evaluating"}
ENDS = ("failed", "diverged", "stopped", "done")
SHOWN = (*STAGES, *ENDS)


@dataclass
class LiveRun:
    """What is known of one run."""

    run: RunFolder
    position: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    loss: float | None = None

    def __post_init__(self) -> None:
        _, self.position = self.run.events()

    def update(self) -> None:
        events, self.position = self.run.events(self.position)
        for event in events:
            self.last = event if event["event"] in SHOWN else self.last
            self.loss = event.get("loss", self.loss)

    def words(self) -> str:
        """Where the run is: stage, progress, rate and the stage's ETA."""
        event = self.last
        name = event.get("event", "starting")
        if name not in STAGES:
            return name
        done, of = event["images"], event["of"]
        text = f"{STAGES[name]} {done / of:4.0%}"
        if rate := event.get("rate"):
            unit = "img/s"
            left = int((of - done) / rate)
            text += f" {rate:,.0f} {unit} ETA {left // 60}:{left % 60:02d}"
        if name == "train" and self.loss is not None:
            text += f" loss {self.loss:.4f}"
        return text


def watch_local_runs(
    runs: Mapping[str, RunFolder], going: Callable[[], bool], *, seconds: float = 15.0, poll: float = 0.5
) -> None:
    """Show the runs until `going` says that none is left.

    On a terminal the lines are rewritten twice a second; elsewhere they come every `seconds`.
    """
    watched = {name: LiveRun(run) for name, run in runs.items()}
    live, drawn = sys.stdout.isatty(), 0
    shown, stages = 0.0, dict.fromkeys(watched, "")
    while going():
        time.sleep(poll)
        for w in watched.values():
            w.update()
        if live:
            drawn = redraw_lines([f"{name}: {w.words()}" for name, w in watched.items()], drawn)
            continue
        due = time.monotonic() - shown >= seconds
        for name, w in watched.items():
            stage = w.last.get("event", "")
            if (due and stage in STAGES) or (stage != stages[name] and stage in ENDS):
                print(f"{name}: {w.words()}", flush=True)
            stages[name] = stage
        if due:
            shown = time.monotonic()


def redraw_lines(lines: list[str], drawn: int) -> int:
    """Write the lines over the `drawn` ones above; how many there are now."""
    width = shutil.get_terminal_size().columns - 1
    up = f"\x1b[{drawn}F" if drawn else ""
    print(up + "\n".join(f"\x1b[2K{line[:width]}" for line in lines), flush=True)
    return len(lines)
