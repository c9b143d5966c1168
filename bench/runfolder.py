"""The folder of one run: where each stage leaves its files, atomic writes, and the event log.

results/runs/NAME/
    config.json                 the resolved config
    log.jsonl                   events of all stages, one JSON object a line
    checkpoints/IMAGES.safetensors      training state, the last few
    snapshots/IMAGES.safetensors        averaged weights at the evaluation points
    features/IMAGES/                    features of images sampled from them (bench/store.py)
    samples/IMAGES.npz or IMAGES/       those images, or PNGs of them, where compute.export asks
    evaluation/IMAGES.json              metrics of the features
    samples.png curves.png record.json

Imports no torch.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import RunConfig, from_dict


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to; it takes the place of `path` only when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as f:
            os.fsync(f.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """JSON, atomically; NaN and infinity are refused."""
    text = json.dumps(data, indent=2, allow_nan=False) + "\n"
    with atomic(path) as partial:
        partial.write_text(text)


@dataclass(frozen=True)
class RunFolder:
    """One run's files."""

    path: Path

    @classmethod
    def of(cls, results: Path, config: RunConfig) -> RunFolder:
        return cls(results / "runs" / config.name)

    @property
    def results(self) -> Path:
        return self.path.parent.parent

    @property
    def cache(self) -> Path:
        return self.results / "cache"

    def config(self) -> RunConfig:
        return from_dict(json.loads((self.path / "config.json").read_text()))

    def file(self, stage: str, images: int, ending: str) -> Path:
        """Where a stage keeps what belongs to an evaluation point."""
        return self.path / stage / f"{images:012d}.{ending}"

    def features(self, images: int) -> Path:
        """The folder of an evaluation point's feature store."""
        return self.path / "features" / f"{images:012d}"

    def exported(self, images: int, kind: str) -> Path:
        """An evaluation point's images as files, of a kind: npz or png."""
        return self.path / "samples" / (f"{images:012d}.npz" if kind == "npz" else f"{images:012d}")

    def has_exports(self, config: RunConfig) -> bool:
        """Whether the images that compute.export asks for are all there."""
        kind = config.compute.export
        points = evaluation_points(config.budget.images, config.budget.points)
        return kind == "none" or all(self.exported(point, kind).exists() for point in points)

    def has_snapshots(self, config: RunConfig) -> bool:
        """Whether there is something to sample at every evaluation point."""
        points = evaluation_points(config.budget.images, config.budget.points)
        return all(self.file("snapshots", point, "safetensors").is_file() for point in points)

    def record(self) -> Path:
        return self.path / "record.json"

    def log(self, event: str, **values: Any) -> None:
        """Append an event, {"time", "event", ...}, and print it as a plain line."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values})
        with (self.path / "log.jsonl").open("a") as f:
            f.write(line + "\n")
        words = "  ".join(f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(f"{event}  {words}", flush=True)

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
    def lock(self, wait_seconds: float = 20.0) -> Iterator[None]:
        """Hold the run; the kernel lets go when the process dies, however it dies.

        Raises ValueError when another process still holds it after `wait_seconds`.
        """
        with (self.path / "lock").open("a+") as f:
            deadline = time.monotonic() + wait_seconds
            while True:
                try:
                    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ValueError(f"another process is at work in {self.path}; wait for it, or end it") from None
                    time.sleep(0.2)
            yield


def _parse(line: bytes) -> dict[str, Any] | None:
    """An event, or None for a line torn by a death in the middle of a write."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def evaluation_points(images: int, points: int) -> list[int]:
    """Image counts of the evaluation points, equally spaced, the last being `images`."""
    return [images * (i + 1) // points for i in range(points)]
