"""The record of a finished run: one JSON file, checked when it is written and when it is read.

results/README.md tells the schema in words.  Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.config.identity import digest_json
from bench.config.validation import STRICT, validate
from bench.records.protocol import fingerprint
from bench.storage.atomic import disk_errors_explained, write_json

SCHEMA = 1


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
class RunCost:
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
    """A finished run, one that failed or diverged, or a reference row (real images, noise); the first are ranked."""

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
    cost: RunCost | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    """[{images, metrics}] at the evaluation points."""
    losses: list[tuple[int, float]] = field(default_factory=list)
    """(images, training loss), some points of the log."""
    incidents: list[dict[str, Any]] = field(default_factory=list)
    """Restarts, damaged checkpoints, rollbacks and failures, in order."""
    environment: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] | None = None
    """Checksum of the weights that were evaluated, and at how many images."""
    error: str | None = None
    """Why a run failed or diverged; None for one that is done."""

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema is {self.schema}; this version reads {SCHEMA}")
        if self.fingerprint != fingerprint(self.protocol):
            raise ValueError("the fingerprint is not that of the protocol; the record was altered")
        if self.evaluation_fingerprint != fingerprint(self.protocol["evaluation"]):
            raise ValueError("the evaluation fingerprint is not that of the protocol; the record was altered")
        if self.id != record_id(self.label, self.config, self.fingerprint):
            raise ValueError("the id is not that of config and protocol; the record was altered")
        if self.status == "done":
            self._check_done()
        elif self.kind != "model" or not self.error:
            raise ValueError(f"a record of status {self.status} is a model's, and needs its error")

    def _check_done(self) -> None:
        if self.error is not None:
            raise ValueError("a record of status done has no error")
        if self.kind == "model" and (self.cost is None or self.checkpoint is None):
            raise ValueError("a model's record needs its cost and the checkpoint that was evaluated")
        if not self.metrics:
            raise ValueError("a record without metrics says nothing")


def record_id(label: str, config: dict[str, Any], fingerprint_: str) -> str:
    """A record's id: readable words and twelve digits of a hash of config and protocol."""
    words = "".join(c if c.isalnum() else "_" for c in label.lower()).strip("_")
    return f"{words}-{digest_json([config, fingerprint_])[:12]}"


def protocol_before_loading(protocol: dict[str, Any]) -> dict[str, Any]:
    """A protocol with nothing in it that is known only once data and weights are loaded, or networks built."""
    unknown = dict.fromkeys(("extractor_hash", "reference_hash", "reference_count"))
    known = {**protocol, "evaluation": {**protocol["evaluation"], **unknown}}
    if "match" in protocol.get("training", {}):
        match = {k: v for k, v in protocol["training"]["match"].items() if k != "target"}
        known["training"] = {**protocol["training"], "match": match}
    return known


def unfinished_id(record: Record) -> str:
    """The id under which the ledger keeps a run that failed or diverged, from that or the finished one's record."""
    return record_id(record.label, record.config, fingerprint(protocol_before_loading(record.protocol)))


def parse_record(data: Any, name: str) -> Record:
    """A record from plain data; ValueError names the file and the first thing that is wrong."""
    try:
        return validate(Record, data)
    except ValueError as error:
        raise ValueError(f"{name} is no valid record: {error}") from None


def read_record(path: Path) -> Record:
    """The record in a file; ValueError says what is wrong with it."""
    try:
        data = JSON_DECODER.decode(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no valid record: {error}") from None
    record = parse_record(data, str(path))
    if path.stem not in (record.id, "record"):
        raise ValueError(f"{path} is no valid record: its id is {record.id}")
    return record


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not allowed")


JSON_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
"""Of JSON without NaN and infinity; made once."""


def write_record(path: Path, record: Record) -> None:
    """Validate and write, atomically; NaN and infinity are refused."""
    data = asdict(record)
    if record.error is None:
        del data["error"]
    parse_record(data, str(path))
    write_json(path, data)


def records_folder(results: Path) -> Path:
    return results / "records" / "v1"


def sample_grid_path(results: Path, id_: str) -> Path:
    """Where a record's samples are kept as one small picture."""
    return results / "samples" / f"{id_}.webp"


def publish_record(results: Path, record: Record) -> Path:
    """Put a record into the ledger, where a newer run of the same config and protocol replaces it.

    One that is done also takes away what an earlier try of it left as failed or diverged.
    """
    path = records_folder(results) / f"{record.id}.json"
    write_record(path, record)
    if record.status == "done":
        with disk_errors_explained(path):
            (records_folder(results) / f"{unfinished_id(record)}.json").unlink(missing_ok=True)
    return path


def read_records(results: Path, pattern: str = "*.json") -> Iterator[Record]:
    """Every record of a results folder, in order of file name; others may write and remove some meanwhile."""
    for path in sorted(records_folder(results).glob(pattern)):
        try:
            yield read_record(path)
        except ValueError:
            if path.exists():
                raise
