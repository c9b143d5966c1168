"""The record of a finished run: one JSON file, checked when it is written and when it is read.

results/README.md tells the schema in words.  Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from .config import digest
from .protocol import fingerprint
from .runfolder import write_json

SCHEMA = 1
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A 95 % interval and how it was found."""

    __pydantic_config__ = STRICT

    low: float
    high: float
    method: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One measured number."""

    __pydantic_config__ = STRICT

    value: float
    direction: Literal["lower", "higher"]
    samples: int
    interval: Interval | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What the run cost; the counted part is exact, the rest was measured."""

    __pydantic_config__ = STRICT

    params: int
    macs: int
    flops: int
    training_flops: int | None
    """None for weights that others trained."""
    guidance_multiplier: int
    sampling_flops_per_image: int
    images_per_second: float | None
    """Of training; None likewise."""
    mfu: float | None
    peak_memory_bytes: int
    accelerator_hours: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A finished run, or a reference row (real images, noise) that is never ranked."""

    __pydantic_config__ = STRICT

    schema: int = SCHEMA
    id: str
    kind: Literal["model", "reference"]
    status: Literal["done", "failed", "diverged"] = "done"
    label: str
    """How a table names it."""
    created: str
    """UTC, ISO 8601."""
    config: dict[str, Any]
    protocol: dict[str, Any]
    fingerprint: str
    """Of the whole protocol; rows are ranked within one fingerprint only."""
    evaluation_fingerprint: str
    """Of its evaluation half; reference rows stand beside all tables that share it."""
    metrics: dict[str, Metric]
    cost: Cost | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    """[{images, metrics}] at the evaluation points."""
    incidents: list[dict[str, Any]] = field(default_factory=list)
    """Restarts and damaged checkpoints, in order."""
    environment: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] | None = None
    """Checksum of the weights that were evaluated, and at how many images."""

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema is {self.schema}; this version reads {SCHEMA}")
        if self.fingerprint != fingerprint(self.protocol):
            raise ValueError("the fingerprint is not that of the protocol; the record was altered")
        if self.evaluation_fingerprint != fingerprint(self.protocol["evaluation"]):
            raise ValueError("the evaluation fingerprint is not that of the protocol; the record was altered")
        if self.id != identity(self.label, self.config, self.fingerprint):
            raise ValueError("the id is not that of config and protocol; the record was altered")
        if self.kind == "model" and (self.cost is None or self.checkpoint is None):
            raise ValueError("a model's record needs its cost and the checkpoint that was evaluated")
        if not self.metrics:
            raise ValueError("a record without metrics says nothing")


def identity(label: str, config: dict[str, Any], fingerprint_: str) -> str:
    """A record's id: readable words and twelve digits of a hash of config and protocol."""
    words = "".join(c if c.isalnum() else "_" for c in label.lower()).strip("_")
    return f"{words}-{digest([config, fingerprint_])[:12]}"


def parse(data: Any, name: str) -> Record:
    """A record from plain data; ValueError names the file and the first thing that is wrong."""
    try:
        return TypeAdapter(Record).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = str(first.get("ctx", {}).get("error") or f"{where}: {first['msg']}")
        raise ValueError(f"{name} is no valid record: {reason}") from None


def read(path: Path) -> Record:
    """The record in a file; ValueError says what is wrong with it."""
    try:
        data = json.loads(path.read_text(), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no valid record: {error}") from None
    record = parse(data, str(path))
    if path.stem not in (record.id, "record"):
        raise ValueError(f"{path} is no valid record: its id is {record.id}")
    return record


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not allowed")


def write(path: Path, record: Record) -> None:
    """Validate and write, atomically; NaN and infinity are refused."""
    data = asdict(record)
    parse(data, str(path))
    write_json(path, data)


def folder(results: Path) -> Path:
    return results / "records" / "v1"


def publish(results: Path, record: Record) -> Path:
    """Put a record into the ledger, where a newer run of the same config and protocol replaces it."""
    path = folder(results) / f"{record.id}.json"
    write(path, record)
    return path


def read_all(results: Path) -> Iterator[Record]:
    """Every record of a results folder, in order of file name."""
    for path in sorted(folder(results).glob("*.json")):
        yield read(path)
