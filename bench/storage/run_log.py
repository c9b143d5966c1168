"""The event log of a run, and the one function that folds its events into the run's status.

log.jsonl holds one JSON object a line: {"time", "event", ...}.  status.json holds the fold of all events, so that
bench.status reads one small file per run.  Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

EMPTY_STATUS: Mapping[str, Any] = {
    "event": None,
    "time": None,
    "images": None,
    "of": None,
    "rate": None,
    "loss": None,
    "fid": None,
    "starts": 0,
    "rollbacks": 0,
    "host": None,
    "job": None,
    "pid": None,
    "error": None,
}
"""Status of a run without events.

`images` and `of` count images (in evaluation: points) processed and in total in the current stage, `starts` counts
starts of its jobs, `job` is the SLURM job id, `time` is in Unix seconds and `rate` in images per second.
"""
COPIED_KEYS = ("event", "time", "images", "of", "rate", "loss", "host", "job", "pid", "error")


def fold_events(events: Iterable[Mapping[str, Any]], status: Mapping[str, Any] = EMPTY_STATUS) -> dict[str, Any]:
    """Return the status after `events`, given the status before them.  Keys that no event has are unchanged."""
    folded = dict(status)
    for event in events:
        folded |= {key: event[key] for key in COPIED_KEYS if key in event}
        if event["event"] == "start":
            folded |= {"starts": folded["starts"] + 1, "rate": None, "error": None}
        if event["event"] == "rollback":
            folded["rollbacks"] += 1
        fid = next((key for key in event if key.startswith("fid")), None)
        if event["event"] == "evaluate" and fid:
            folded["fid"] = {"name": fid, "value": event[fid], "images": event.get("point")}
    return folded


def read_events(path: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Return (events from byte `start` on, the byte to continue from).  An incomplete last line is left unread."""
    try:
        with path.open("rb") as f:
            f.seek(start)
            text = f.read()
    except FileNotFoundError:
        return [], start
    complete = text[: text.rfind(b"\n") + 1]
    return [event for event in map(_parse_event, complete.splitlines()) if event], start + len(complete)


def _parse_event(line: bytes) -> dict[str, Any] | None:
    """An event; None for a line that a killed process left incomplete."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def read_status(path: Path) -> dict[str, Any]:
    """Read status.json; {} if it is missing, incomplete or lacks a key."""
    try:
        status = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) and EMPTY_STATUS.keys() <= status.keys() else {}


def status_as_json(status: Any) -> Any:
    """Copy the status with NaN and infinity replaced by the strings "nan" and "inf", since JSON has no such numbers."""
    if isinstance(status, dict):
        return {key: status_as_json(value) for key, value in status.items()}
    return str(status) if isinstance(status, float) and not math.isfinite(status) else status
