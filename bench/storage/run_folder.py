"""The folder of one run: paths of its files, its lease, its event log and its status.

results/runs/NAME/
    config.json                         the resolved config
    log.jsonl                           events of all stages, one JSON object a line
    status.json                         the fold of these events, read by bench.status
    claim-GENERATION.json               the lease: which process works on the run (bench/storage/lease.py)
    checkpoints/IMAGES.safetensors      training state, the last few
    snapshots/IMAGES.safetensors        EMA weights at the evaluation points
    features/IMAGES/                    features of generated images (bench/evaluation/feature_store.py)
    samples/IMAGES.npz or IMAGES/       generated images: one file (compute.export=npz) or PNGs (compute.export=png)
    evaluation/IMAGES.json              metrics of the features
    train.json generate.json            results of these stages (bench/storage/stage_results.py)
    samples.png curves.png record.json

IMAGES is the number of images the network was trained on.  Imports no torch.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.storage.atomic import append_line, atomic_write, remove_stale_partials, write_json
from bench.storage.lease import Lease, hold_lease
from bench.storage.run_log import fold_events, read_events, read_status, status_as_json

logger = logging.getLogger(__name__)

FREQUENT_EVENTS = ("train", "sample")
"""Events that are logged every second; they rewrite status.json only every STATUS_INTERVAL_SECONDS."""
STATUS_INTERVAL_SECONDS = 2.0
HOUR, DAY = 3600.0, 86400.0
HOLDER_FOLDERS = ("checkpoints", "snapshots")
"""Folders that only the lease holder writes to.  Hidden files in them were left by killed processes."""
PARTIAL_PATTERNS = (".*.partial", "*/.*.partial", "*/*.parts/.*.partial")


@dataclass
class StatusCache:
    """The status after the last event that this process logged, and the time (monotonic seconds) of its last write."""

    status: dict[str, Any] | None = None
    written_at: float = -STATUS_INTERVAL_SECONDS


@dataclass(frozen=True)
class RunFolder:
    """The files of one run below `path`."""

    path: Path
    _cache: StatusCache = field(default_factory=StatusCache, repr=False, compare=False)

    @classmethod
    def of(cls, results: Path, name: str) -> RunFolder:
        """Return the folder of the run `name` in a results folder."""
        return cls(results / "runs" / name)

    @property
    def results(self) -> Path:
        """The results folder that the run belongs to."""
        return self.path.parent.parent

    @property
    def cache(self) -> Path:
        """The cache that all runs of the results folder share."""
        return self.results / "cache"

    @property
    def record_path(self) -> Path:
        """record.json, which exists once the run is finished."""
        return self.path / "record.json"

    def snapshot_path(self, images: int) -> Path:
        """EMA weights after `images` training images."""
        return self.path / "snapshots" / f"{images:012d}.safetensors"

    def evaluation_path(self, images: int) -> Path:
        """Metrics after `images` training images."""
        return self.path / "evaluation" / f"{images:012d}.json"

    def features_path(self, images: int) -> Path:
        """The feature store of the evaluation point at `images` training images."""
        return self.path / "features" / f"{images:012d}"

    def export_path(self, images: int, kind: str) -> Path:
        """Exported images of an evaluation point: a file for "npz", a folder for "png"."""
        return self.path / "samples" / (f"{images:012d}.npz" if kind == "npz" else f"{images:012d}")

    def has_exports(self, points: Iterable[int], kind: str) -> bool:
        """Whether all evaluation points are exported as `kind` (compute.export: npz, png or none)."""
        return kind == "none" or all(self.export_path(point, kind).exists() for point in points)

    def has_snapshots(self, points: Iterable[int]) -> bool:
        """Whether every evaluation point has a snapshot to sample from."""
        return all(self.snapshot_path(point).is_file() for point in points)

    def log(self, event: str, **values: Any) -> None:
        """Append an event to the log, fold it into the status, and print it as one plain line.

        ValueError if the disk refuses the write.
        """
        entry = {"time": round(time.time(), 3), "event": event, **values}
        before = self._cache.status or self.status()
        append_line(self.path / "log.jsonl", json.dumps(entry))
        self._cache.status = fold_events([entry], before)
        if event not in FREQUENT_EVENTS or time.monotonic() - self._cache.written_at >= STATUS_INTERVAL_SECONDS:
            write_json(self.path / "status.json", status_as_json(self._cache.status), sync=False)
            self._cache.written_at = time.monotonic()
        words = "  ".join(f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(f"{event}  {words}", flush=True)

    def status(self) -> dict[str, Any]:
        """Return the status (keys of EMPTY_STATUS), at most a few seconds old; rebuilt from the log if lost."""
        return read_status(self.path / "status.json") or fold_events(self.events()[0])

    def events(self, start: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Return (events of the log from byte `start` on, the byte to continue from)."""
        return read_events(self.path / "log.jsonl", start)

    @contextmanager
    def lease(self, wait: float = 20.0) -> Iterator[Lease]:
        """Hold the run's lease during the block, and first remove partial files of killed processes.

        LeaseHeld if a running process still holds it after `wait` seconds (bench/storage/lease.py).
        """
        with hold_lease(self.path, wait) as lease:
            for path in (p for name in HOLDER_FOLDERS for p in (self.path / name).glob(".*")):
                path.unlink(missing_ok=True)
            now = lease.path.stat().st_mtime
            for pattern in PARTIAL_PATTERNS:
                remove_stale_partials(self.path, pattern, now - HOUR)
            remove_stale_partials(self.results / "records" / "v1", ".*.partial", now - DAY)
            yield lease

    def clear(self, wait: float = 0.0) -> None:
        """Remove all files of the run except the lease.  LeaseHeld if a running process holds it."""
        if not self.path.is_dir():
            return
        with self.lease(wait) as lease:
            for path in self.path.iterdir():
                if path != lease.path:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def write_error(self, error: BaseException, event: str = "failed") -> None:
        """Write error.txt and log `event`; if the disk refuses either, log the error to stderr instead."""
        text = "".join(traceback.format_exception(error))
        try:
            with atomic_write(self.path / "error.txt") as partial:
                partial.write_text(text)
        except (ValueError, OSError) as disk_error:
            logger.error("%s\n%s", disk_error, text)
        try:
            self.log(event, error=f"{type(error).__name__}: {error}")
        except (ValueError, OSError) as disk_error:
            logger.error("%s", disk_error)
