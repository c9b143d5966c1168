"""The folder of one run: where each stage leaves its files, who works on it, and the event log.

results/runs/NAME/
    config.json                 the resolved config
    log.jsonl                   events of all stages, one JSON object a line
    status.json                 where the run is, for those who watch many (bench.status)
    claim-GENERATION.json       which process works on it (bench/storage/lease.py)
    checkpoints/IMAGES.safetensors      training state, the last few
    snapshots/IMAGES.safetensors        averaged weights at the evaluation points
    features/IMAGES/                    features of images sampled from them (bench/evaluation/feature_store.py)
    samples/IMAGES.npz or IMAGES/       those images, or PNGs of them, where compute.export asks
    evaluation/IMAGES.json              metrics of the features
    samples.png curves.png record.json

Imports no torch.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.storage.atomic import append_line, atomic_write, remove_stale_partials, write_json
from bench.storage.lease import Lease, hold_lease

FREQUENT_EVENTS = ("train", "sample")
"""Events that come every second; of these the status is written only so often:"""
STATUS_INTERVAL_SECONDS = 2.0
HOUR, DAY = 3600.0, 86400.0
HOLDER_FOLDERS = ("checkpoints", "snapshots")
"""Where only the holder writes: what is hidden there, safetensors' own temporary files too, is of one before it."""
PARTIAL_PATTERNS = (".*.partial", "*/.*.partial", "*/*.parts/.*.partial")
EMPTY_STATUS: dict[str, Any] = {
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


def fold_event(status: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    """The status after an event; what the event does not tell stays."""
    name = event["event"]
    told = ("event", "time", "images", "of", "rate", "loss", "host", "job", "pid", "error")
    new = {**status, **{k: event[k] for k in told if k in event}}
    if name == "start":
        new |= {"starts": status["starts"] + 1, "rate": None, "error": None}
    if name == "rollback":
        new["rollbacks"] = status["rollbacks"] + 1
    if name == "evaluate" and (metric := next((k for k in event if k.startswith("fid")), None)):
        new["fid"] = {"name": metric, "value": event[metric], "images": event.get("point")}
    return new


@dataclass
class StatusCache:
    """The status as this process knows it, and when it was last written."""

    status: dict[str, Any] | None = None
    written: float = -STATUS_INTERVAL_SECONDS


@dataclass(frozen=True)
class RunFolder:
    """One run's files."""

    path: Path
    _shown: StatusCache = field(default_factory=StatusCache, repr=False, compare=False)

    @classmethod
    def of(cls, results: Path, name: str) -> RunFolder:
        """The folder of the run of that name."""
        return cls(results / "runs" / name)

    @property
    def results(self) -> Path:
        return self.path.parent.parent

    @property
    def cache(self) -> Path:
        return self.results / "cache"

    def file(self, stage: str, images: int, ending: str) -> Path:
        """Where a stage keeps what belongs to an evaluation point."""
        return self.path / stage / f"{images:012d}.{ending}"

    def features(self, images: int) -> Path:
        """The folder of an evaluation point's feature store."""
        return self.path / "features" / f"{images:012d}"

    def exported(self, images: int, kind: str) -> Path:
        """An evaluation point's images as files, of a kind: npz or png."""
        return self.path / "samples" / (f"{images:012d}.npz" if kind == "npz" else f"{images:012d}")

    def has_exports(self, points: Iterable[int], kind: str) -> bool:
        """Whether the images of all evaluation points are there in an export's form (compute.export)."""
        return kind == "none" or all(self.exported(point, kind).exists() for point in points)

    def has_snapshots(self, points: Iterable[int]) -> bool:
        """Whether there is a snapshot to sample from at every evaluation point."""
        return all(self.file("snapshots", point, "safetensors").is_file() for point in points)

    def record(self) -> Path:
        return self.path / "record.json"

    def log(self, event: str, **values: Any) -> None:
        """Append an event, {"time", "event", ...}, bring the status up to it, and print it as a plain line.

        ValueError when the disk refuses.
        """
        whole = {"time": round(time.time(), 3), "event": event, **values}
        before = self._shown.status or self._status_so_far()
        append_line(self.path / "log.jsonl", json.dumps(whole))
        self._shown.status = fold_event(before, whole)
        if event not in FREQUENT_EVENTS or time.monotonic() - self._shown.written >= STATUS_INTERVAL_SECONDS:
            write_json(self.path / "status.json", _finite(self._shown.status), sync=False)
            self._shown.written = time.monotonic()
        words = "  ".join(f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(f"{event}  {words}", flush=True)

    def status(self) -> dict[str, Any]:
        """Where the run is, at most some seconds ago (the keys of UNKNOWN); {} where nothing tells it."""
        try:
            status = json.loads((self.path / "status.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) and EMPTY_STATUS.keys() <= status.keys() else {}

    def _status_so_far(self) -> dict[str, Any]:
        """What the file tells or, where it was lost, the log."""
        status = self.status()
        if not status:
            status = EMPTY_STATUS
            for event in self.events()[0]:
                status = fold_event(status, event)
        return status

    def events(self, start: int = 0) -> tuple[list[dict[str, Any]], int]:
        """(events from byte `start` on, where to go on); a torn last line is left for the next call."""
        try:
            with (self.path / "log.jsonl").open("rb") as f:
                f.seek(start)
                text = f.read()
        except FileNotFoundError:
            return [], start
        whole = text[: text.rfind(b"\n") + 1]
        return [e for e in map(_parse, whole.splitlines()) if e], start + len(whole)

    @contextmanager
    def lease(self, wait: float = 20.0) -> Iterator[Lease]:
        """Hold the run, and clear away what processes that died have left half-written.

        ValueError when a process that is alive still holds it after `wait` seconds (bench/storage/lease.py).
        """
        with hold_lease(self.path, wait) as own:
            for path in (p for stage in HOLDER_FOLDERS for p in (self.path / stage).glob(".*")):
                path.unlink(missing_ok=True)
            now = own.path.stat().st_mtime
            for pattern in PARTIAL_PATTERNS:
                remove_stale_partials(self.path, pattern, now - HOUR)
            remove_stale_partials(self.results / "records" / "v1", ".*.partial", now - DAY)
            yield own

    def clear(self, wait: float = 0.0) -> None:
        """Remove all that the run has left; ValueError when a process that is alive works on it."""
        if not self.path.is_dir():
            return
        with self.lease(wait) as own:
            for path in self.path.iterdir():
                if path != own.path:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def keep_error(self, error: BaseException, event: str = "failed") -> None:
        """Leave error.txt and an event of a failure, each as far as the disk takes it; the rest goes to stderr."""
        story = "".join(traceback.format_exception(error))
        try:
            with atomic_write(self.path / "error.txt") as partial:
                partial.write_text(story)
        except (ValueError, OSError) as refused:
            print(f"{refused}\n{story}", file=sys.stderr, flush=True)
        try:
            self.log(event, error=f"{type(error).__name__}: {error}")
        except (ValueError, OSError) as refused:
            print(refused, file=sys.stderr, flush=True)


def _finite(value: Any) -> Any:
    """NaN and infinity, which JSON does not know and a status may hold, as words."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _parse(line: bytes) -> dict[str, Any] | None:
    """An event, or None for a line torn by a death in the middle of a write."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
