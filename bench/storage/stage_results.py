"""Results of the training and sampling stages: dataclasses and their JSON files in the run folder.

The record of a run is built from these files, in whichever job.  Imports no torch.
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
    """Measured cost of training, summed over all attempts: steps that were repeated count again."""

    images: int
    """Training images seen, the budget."""
    seconds: float
    """Wall-clock seconds of training steps."""
    accelerator_seconds: float
    """The same times the number of processes."""
    images_per_second: float
    """Over all processes."""
    images_processed: float
    """Images in all steps, repeated ones too."""
    peak_memory_bytes: int
    """Of the GPU, or of the process on a CPU, on rank 0."""
    device: str
    precision: str
    processes: int
    """Most processes of any attempt."""

    @classmethod
    def from_events(cls, events: Iterable[Mapping[str, Any]]) -> TrainingResult | None:
        """Sum up a run's event log, which all attempts share; None where it has no training step."""
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
    """How the images of all evaluation points were sampled."""

    images: int
    """Over all evaluation points."""
    device: str
    precision: str
    processes: int
    peak_memory_bytes: int
    """When sampling began; see TrainingResult."""


def write_result(run: RunFolder, result: TrainingResult | GenerationResult) -> None:
    """Write train.json or generate.json into the run folder, atomically."""
    name = "train.json" if isinstance(result, TrainingResult) else "generate.json"
    write_json(run.path / name, asdict(result))


def read_training_result(run: RunFolder) -> TrainingResult | None:
    """Read train.json, or sum up the log of a run that was trained before train.json existed.

    Returns None for a run that was never trained, as one of published weights.
    """
    try:
        return TrainingResult(**json.loads((run.path / "train.json").read_bytes()))
    except FileNotFoundError:
        return TrainingResult.from_events(run.events()[0])
