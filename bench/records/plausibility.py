"""Check that the numbers of a record are possible and consistent; each check yields its problems.  Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from architectures.suggestions import did_you_mean
from bench.config.metric_specs import HEADLINE_TYPE, METRIC_SPECS, headline_metric, metric_type
from bench.config.schema import RunConfig
from bench.costs.flops import forward_flops, training_flops
from bench.records.record import Record

MAX_FLOPS_PER_SECOND = 5e15
"""Training speed that no accelerator reaches: over twice the dense bf16 peak of a B200."""
MAX_CLOCK_SKEW = timedelta(hours=1)
"""Tolerance for a clock that is ahead."""
MIN_TIMED_SHARE = 0.9
"""Share of the images that the measured time must cover; images after the last log line are not timed."""
LOCAL_PATH = re.compile(r"(?<![\w./~-])(?:/(?:home|root|Users|mnt|scratch|data|tmp|work|var|opt)/|[A-Za-z]:\\)\S*")


def check_metrics(r: Record) -> Iterator[str]:
    """Check each metric's name, direction, range, interval and number of samples."""
    e = r.protocol["evaluation"]
    if r.status == "done" and not headline_metric(r.metrics):
        yield f"metrics have no {HEADLINE_TYPE}, which rows are ranked by"
    for name, m in r.metrics.items():
        type_, suffix = metric_type(name), name[len(metric_type(name)) :]
        if type_ not in METRIC_SPECS:
            yield f"metrics.{name} is unknown; {did_you_mean(type_, METRIC_SPECS)}"
            continue
        direction, least, most = METRIC_SPECS[type_]
        if suffix and suffix != f"[{e['extractor']}]":
            yield f"metrics.{name} is of other features than the protocol's {e['extractor']}"
        if m.direction != direction:
            yield f"metrics.{name}.direction is {m.direction}; of {type_} {direction} is better"
        if not least <= m.value <= most:
            yield f"metrics.{name}.value is {m.value:g}; it must be from {least:g} to {most:g}"
        if r.kind == "model" and m.samples != e["samples"]:
            yield f"metrics.{name}.samples is {m.samples}; the protocol says {e['samples']}"
        if m.interval is None:
            yield f"metrics.{name} has no interval"
        elif not least <= m.interval.low <= m.value <= m.interval.high <= most:
            ends = f"{m.interval.low:g} to {m.interval.high:g}"
            yield f"metrics.{name}.interval is {ends}; it must hold the value, {m.value:g}, from {least:g} to {most:g}"


def check_origin(r: Record) -> Iterator[str]:
    """Check the date and the commit."""
    try:
        created = datetime.fromisoformat(r.created)
        if created.tzinfo is None:
            yield f"created is {r.created}, without its offset from UTC"
        elif created > datetime.now(UTC) + MAX_CLOCK_SKEW:
            yield f"created is {r.created}, in the future"
    except ValueError:
        yield f"created is {r.created!r}; it must be a date and time as 2026-11-22T00:00:00+00:00"
    commit = r.environment.get("commit")
    if not re.fullmatch(r"[0-9a-f]{7,40}", str(commit)):
        yield f"environment.commit is {commit!r}; run from a checkout, so that others know the code"
    if r.environment.get("dirty") is not False:
        yield "environment.dirty is not false: the code had changes that no commit has"


def check_paths(r: Record) -> Iterator[str]:
    """Refuse absolute paths of a machine."""
    pending: list[tuple[str, Any]] = [(key, getattr(r, key)) for key in ("config", "incidents", "environment", "error")]
    while pending:
        where, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{where}.{key}", v) for key, v in value.items()]
        elif isinstance(value, list):
            pending += [(where, v) for v in value]
        elif isinstance(value, str) and (match := LOCAL_PATH.search(value)):
            yield f"{where} names a folder of a machine, {match[0]}"


def check_curve(r: Record, config: RunConfig) -> Iterator[str]:
    """Check the evaluation points, which end with the record's own metrics."""
    images = [p["images"] for p in r.curve]
    points = config.budget.points
    if len(images) != points or sorted(set(images)) != images:
        yield f"curve has points at {images} images; there should be {points}, rising"
    if images and images[-1] != config.budget.images:
        yield f"curve ends at {images[-1]} images; the budget is {config.budget.images}"
    if r.curve and r.curve[-1]["metrics"] != {name: m.value for name, m in r.metrics.items()}:
        yield "the last point of curve is not what metrics say"
    logged = [images for images, _ in r.losses]
    if sorted(set(logged)) != logged or (logged and not 0 < logged[0] <= logged[-1] <= config.budget.images):
        yield f"losses are not at rising numbers of images up to {config.budget.images}"
    if other := [p["images"] for p in r.curve[:-1] if set(p["metrics"]) != set(r.metrics)]:
        yield f"curve has other metrics than the record's at {other} images"
    for p in r.curve:
        for name, value in p["metrics"].items():
            _, least, most = METRIC_SPECS.get(metric_type(name), ("", -math.inf, math.inf))
            if not least <= value <= most:
                yield f"curve has {name} {value:g} at {p['images']} images; it must be from {least:g} to {most:g}"


def check_counted_costs(r: Record, config: RunConfig) -> Iterator[str]:
    """Check the counted costs that follow from each other."""
    assert r.cost is not None
    c, e = r.cost, config.evaluation
    expected = {
        "flops": forward_flops(c.macs),
        "training_flops": training_flops(c.macs, config.budget.images) or None,
        "guidance_multiplier": 1 if e.guidance == 1 else 2,
        "sampling_flops_per_image": forward_flops(c.macs) * e.forward_passes,
    }
    for name, value in expected.items():
        if (actual := getattr(c, name)) != value:
            yield f"cost.{name} is {actual}; from the rest of the record it would be {value}"
    for name in ("params", "macs"):
        if getattr(c, name) < 1:
            yield f"cost.{name} is {getattr(c, name)}; it must be at least 1"


def check_measured_costs(r: Record, config: RunConfig) -> Iterator[str]:
    """Check that time, speed and memory are possible for the training."""
    assert r.cost is not None
    c, images, seconds = r.cost, config.budget.images, 3600 * r.cost.accelerator_hours
    if c.peak_memory_bytes < 1:
        yield f"cost.peak_memory_bytes is {c.peak_memory_bytes}; it must be at least 1"
    if c.mfu is not None and not 0 < c.mfu <= 1:
        yield f"cost.mfu is {c.mfu:g}; it is a share of the peak"
    if not images:
        return
    if not seconds > 0 or not (c.images_per_second or 0) > 0:
        yield f"cost has {c.images_per_second} images a second in {c.accelerator_hours} hours; both must be above 0"
        return
    assert c.images_per_second
    if c.images_per_second * seconds < MIN_TIMED_SHARE * images:
        timed = c.images_per_second * seconds
        yield f"cost: {c.images_per_second:,.0f} images a second for {seconds:,.0f} s are {timed:,.0f} of {images:,}"
    if training_flops(float(c.macs), c.images_per_second) > MAX_FLOPS_PER_SECOND * max(
        1, r.environment.get("world_size", 1)
    ):
        limit = f"{MAX_FLOPS_PER_SECOND:.0e}"
        yield f"cost.images_per_second is {c.images_per_second:.3g}; no accelerator computes above {limit} FLOP/s"
    if (c.training_flops or 0) / seconds > MAX_FLOPS_PER_SECOND:
        limit = f"{MAX_FLOPS_PER_SECOND:.0e}"
        yield f"cost: {(c.training_flops or 0) / seconds:.1e} FLOP/s an accelerator; none computes above {limit}"


def check_checkpoint(r: Record, config: RunConfig) -> Iterator[str]:
    """Check which weights were evaluated."""
    checkpoint = r.checkpoint or {}
    for key, right in {"images": config.budget.images, "weights": config.model.weights or "ema"}.items():
        if checkpoint.get(key) != right:
            yield f"checkpoint.{key} is {checkpoint.get(key)!r}; by its config it would be {right!r}"
    if not re.fullmatch(r"[0-9a-f]{8}", str(checkpoint.get("crc32"))):
        yield "checkpoint.crc32 is no checksum of eight hexadecimal digits"


RECORD_CHECKS: tuple[Callable[[Record], Iterator[str]], ...] = (check_metrics, check_origin, check_paths)
FINISHED_MODEL_CHECKS: tuple[Callable[[Record, RunConfig], Iterator[str]], ...] = (
    check_curve,
    check_counted_costs,
    check_measured_costs,
    check_checkpoint,
)
"""Checks of a finished model with a valid config."""
