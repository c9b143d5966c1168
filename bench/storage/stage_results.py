"""Results of the training and sampling stages: dataclasses and their JSON files in the run folder.

The job that writes the record of a run reads these files.  Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.storage.atomic import write_json
from bench.storage.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Measured cost of training, summed over all attempts.  Repeated steps are included."""

    images: int
    """Training images seen, the budget."""
    seconds: float
    """Wall-clock seconds of training steps."""
    accelerator_seconds: float
    """Wall-clock seconds times the number of processes."""
    images_per_second: float
    """Over all processes."""
    images_processed: float
    """Images of all steps, including repeated ones."""
    peak_memory_bytes: int
    """Peak memory of rank 0: of its GPU, or of its process on a CPU."""
    device: str
    precision: str
    processes: int
    """Largest number of processes of any attempt."""

    @classmethod
    def from_events(cls, events: Iterable[Mapping[str, Any]]) -> TrainingResult | None:
        """Sum up a run's event log, which all attempts share; None if it has no training step."""
        events = list(events)
        reports = [e for e in events if e["event"] == "train"]
        if not reports:
            return None
        execution: Mapping[str, Any] = next((e for e in reversed(events) if e["event"] == "compute"), {})
        seconds = sum(e["seconds"] for e in reports)
        processed = sum(e["rate"] * e["seconds"] for e in reports)
        return cls(
            images=max(e["images"] for e in reports),
            seconds=seconds,
            accelerator_seconds=sum(e["seconds"] * e.get("processes", 1) for e in reports),
            images_per_second=processed / max(seconds, 1e-9),
            images_processed=processed,
            peak_memory_bytes=max((e["peak_memory_bytes"] for e in events if e["event"] == "memory"), default=0),
            device=execution.get("device", ""),
            precision=execution.get("precision", ""),
            processes=max(e.get("processes", 1) for e in reports),
        )


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """Devices and settings that sampled the images of all evaluation points."""

    images: int
    """Over all evaluation points."""
    device: str
    precision: str
    processes: int
    peak_memory_bytes: int
    """Peak memory of rank 0 up to the start of sampling."""


def write_result(run: RunFolder, result: TrainingResult | GenerationResult) -> None:
    """Write train.json or generate.json into the run folder, atomically."""
    name = "train.json" if isinstance(result, TrainingResult) else "generate.json"
    write_json(run.path / name, asdict(result))


def read_training_result(run: RunFolder) -> TrainingResult | None:
    """Read train.json, or sum up the log of a run that was trained before train.json existed.

    None for a run that was never trained, such as a run of published weights.
    """
    try:
        return TrainingResult(**json.loads((run.path / "train.json").read_bytes()))
    except FileNotFoundError:
        return TrainingResult.from_events(run.events()[0])
