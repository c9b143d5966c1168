"""The record of a run: one JSON file, validated when it is written and when it is read.

results/README.md describes the schema.  Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import ValidatorFunctionWrapHandler, WrapValidator

from bench.config.identity import ConfigIdentity, digest_json, without
from bench.config.validation import STRICT, validate
from bench.records.protocol import Protocol, fingerprint
from bench.storage.atomic import disk_errors_explained, write_json

SCHEMA = 1
LOADED_FIELDS = ("extractor_hash", "reference_hash", "reference_count")
"""Fields of the evaluation protocol that are known only after data and weights are loaded."""


def _validate_unchanged(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Validate the types of known keys, and return the value itself: hashes cover its every byte.

    `bench.leaderboard --check` names keys that this version does not know.
    """
    handler(value)
    return value


T = TypeVar("T")
Unchanged = Annotated[T, WrapValidator(_validate_unchanged)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A 95 % interval and the method that estimated it."""

    __pydantic_config__ = STRICT

    low: float
    high: float
    method: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """The estimate of one metric."""

    __pydantic_config__ = STRICT

    value: float
    direction: Literal["lower", "higher"]
    samples: int
    interval: Interval | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCost:
    """Cost of a run.  Parameters, MACs and FLOPs are counted, the rest is measured."""

    __pydantic_config__ = STRICT

    params: int
    macs: int
    flops: int
    training_flops: int | None
    """None for published weights."""
    guidance_multiplier: int
    sampling_flops_per_image: int
    images_per_second: float | None
    """Of training; None for published weights."""
    mfu: float | None
    peak_memory_bytes: int
    accelerator_hours: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A run that finished, failed or diverged, or a reference row (real images, noise)."""

    __pydantic_config__ = STRICT

    schema: int = SCHEMA
    id: str
    kind: Literal["model", "reference"]
    status: Literal["done", "failed", "diverged"] = "done"
    label: str
    """Name in tables."""
    created: str
    """UTC, ISO 8601."""
    config: Unchanged[ConfigIdentity]
    """Empty for a reference row."""
    protocol: Unchanged[Protocol]
    fingerprint: str
    """Of the whole protocol; rows are ranked within one fingerprint."""
    evaluation_fingerprint: str
    """Of its evaluation half; a reference row is shown in every table with the same one."""
    metrics: dict[str, Metric]
    cost: RunCost | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    """[{images, metrics}] at the evaluation points."""
    losses: list[tuple[int, float]] = field(default_factory=list)
    """(images, training loss) at some points of the log."""
    incidents: list[dict[str, Any]] = field(default_factory=list)
    """Restarts, damaged checkpoints, rollbacks and failures, in order."""
    environment: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] | None = None
    """Checksum of the evaluated weights, and the images they were trained on."""
    error: str | None = None
    """Why a run failed or diverged; None if it is done."""

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

    @property
    def seed(self) -> int | None:
        """Training seed; None for a reference row."""
        return self.config.get("seed")

    @property
    def arch(self) -> str:
        """Registered name, or package.module:Class; "" for a reference row."""
        return self.config.get("model", {}).get("arch", "")

    @property
    def data(self) -> str:
        """Name of the data set."""
        return self.protocol["evaluation"]["data"]

    @property
    def steps(self) -> int:
        """Sampling steps."""
        return self.protocol["evaluation"]["steps"]

    @property
    def track(self) -> str | None:
        """shared, native or published; None for a reference row."""
        return self.protocol.get("training", {}).get("track")

    @property
    def budget(self) -> int | None:
        """Training images that the protocol asks for; None for published weights and reference rows."""
        return self.protocol.get("training", {}).get("images")

    def _check_done(self) -> None:
        if self.error is not None:
            raise ValueError("a record of status done has no error")
        if self.kind == "model" and (self.cost is None or self.checkpoint is None):
            raise ValueError("a model's record needs its cost and the checkpoint that was evaluated")
        if not self.metrics:
            raise ValueError("a record of status done needs metrics")


def record_id(label: str, config: Mapping[str, Any], fingerprint_: str) -> str:
    """The id of a record: the label in letters and digits, and twelve digits of a hash of config and protocol."""
    words = "".join(c if c.isalnum() else "_" for c in label.lower()).strip("_")
    return f"{words}-{digest_json([config, fingerprint_])[:12]}"


def protocol_before_loading(protocol: Protocol) -> Protocol:
    """The protocol without the values that are known only after data and weights are loaded and sizes are matched.

    Loaded fields become None; the target of the match is removed.
    """
    partial = without(protocol, ("training.match.target",))
    partial["evaluation"] = {**protocol["evaluation"], **dict.fromkeys(LOADED_FIELDS)}
    return cast(Protocol, partial)


def unfinished_id(record: Record) -> str:
    """The id of a run's record while it has not finished, from its record before or after."""
    return record_id(record.label, record.config, fingerprint(protocol_before_loading(record.protocol)))


def parse_record(data: Any, name: str) -> Record:
    """Validate plain data as a record; ValueError names the file and the first error."""
    try:
        return validate(Record, data)
    except ValueError as error:
        raise ValueError(f"{name} is no valid record: {error}") from None


def read_record(path: Path) -> Record:
    """Read a record; ValueError names the file and the first error."""
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
"""Refuses NaN and infinity."""


def write_record(path: Path, record: Record) -> None:
    """Validate and write a record atomically; ValueError for NaN and infinity."""
    data = record_to_dict(record)
    parse_record(data, str(path))
    write_json(path, data)


def record_to_dict(record: Record) -> dict[str, Any]:
    """Convert a record to the data of its file; `error` is left out if it is None."""
    data = asdict(record)
    if record.error is None:
        del data["error"]
    return data


def records_folder(results: Path) -> Path:
    return results / "records" / "v1"


def sample_grid_path(results: Path, id_: str) -> Path:
    """The file with a record's sample grid."""
    return results / "samples" / f"{id_}.webp"


def publish_record(results: Path, record: Record) -> Path:
    """Write a record into the results folder, in place of an older one of the same config and protocol.

    A finished record also removes the failed or diverged record of the same run.
    """
    path = records_folder(results) / f"{record.id}.json"
    write_record(path, record)
    if record.status == "done":
        with disk_errors_explained(path):
            (records_folder(results) / f"{unfinished_id(record)}.json").unlink(missing_ok=True)
    return path


def read_records(results: Path, pattern: str = "*.json") -> Iterator[Record]:
    """Read every record of a results folder, sorted by file name, while others may write and remove some."""
    for path in sorted(records_folder(results).glob(pattern)):
        try:
            yield read_record(path)
        except ValueError:
            if path.exists():
                raise
