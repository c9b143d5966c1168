"""Leaderboard tables at equal training FLOPs, and the cost to reach a target, from the curves of runs.

A curve has the metrics at each evaluation point.  Accelerator-hours at a point are in proportion to the images, which
assumes constant throughput.  Published weights have no training cost and are left out.  Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

from bench.config.metric_specs import metric_type
from bench.costs.flops import training_flops
from bench.records.leaderboard import LeaderboardEntry, LeaderboardTable, build_table
from bench.records.ranking import SeedStatistics, seed_statistics
from bench.records.record import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class CostToTarget:
    """Cost at which an entry reached a target: the median over its seeds, where not reaching it counts as infinite."""

    entry: LeaderboardEntry
    flops: float | None
    """Training FLOPs; None if the median did not reach the target."""
    hours: float | None
    """Accelerator-hours; None likewise."""
    at_most: bool
    """Whether the first evaluation point had reached it, so that the cost is an upper bound."""
    seeds_reached: int
    """Number of seeds that reached it."""


def training_flops_at(r: Record, images: float) -> float:
    """Training FLOPs of a run after so many images."""
    assert r.cost is not None
    return training_flops(float(r.cost.macs), images)


def accelerator_hours_at(r: Record, images: float) -> float:
    """Accelerator-hours of a run after so many images, at constant throughput."""
    assert r.cost is not None
    return r.cost.accelerator_hours * images / r.curve[-1]["images"]


def has_curve(entry: LeaderboardEntry) -> bool:
    """Whether every run of an entry was trained here and has evaluation points."""
    return all(r.curve and r.curve[-1]["images"] and r.cost and r.cost.training_flops for r in entry.runs)


def table_at_compute(table: LeaderboardTable, flops: float) -> tuple[LeaderboardTable, Mapping[str, int]]:
    """Replace each entry by its evaluation point whose training FLOPs are nearest in ratio, and rank these.

    Returns the table, and the images at that point by entry group.  Only the last point of a run has an interval over
    the samples, so an entry of one seed has no rank at an earlier point.
    """
    entries, images = [], {}
    for entry in filter(has_curve, table.entries):
        points = [p["images"] for p in entry.runs[0].curve]
        nearest = min(points, key=lambda point: abs(math.log(training_flops_at(entry.runs[0], point) / flops)))
        images[entry.group] = nearest
        is_last = nearest == points[-1]
        entries.append(entry if is_last else replace(entry, metrics=_metrics_at(entry, nearest), rank=None))
    return build_table(table.fingerprint, table.protocol, entries, table.references), images


def tables_at_compute(
    tables: Sequence[LeaderboardTable], flops: float
) -> tuple[list[LeaderboardTable], dict[str, int]]:
    """`table_at_compute` of several tables."""
    pairs = [table_at_compute(table, flops) for table in tables]
    return [table for table, _ in pairs], {group: n for _, images in pairs for group, n in images.items()}


def _metrics_at(entry: LeaderboardEntry, images: int) -> dict[str, SeedStatistics]:
    by_seed = [p["metrics"] for r in entry.runs for p in r.curve if p["images"] == images]
    names = {name: 0 for metrics in by_seed for name in metrics}
    return {name: seed_statistics([m[name] for m in by_seed if name in m]) for name in names}


def costs_to_target(table: LeaderboardTable, metric: str, value: float) -> list[CostToTarget]:
    """The cost at which the metric of each entry reached `value`, cheapest first."""
    direction = table.direction(metric)
    costs = [_cost_to_target(entry, metric, value, direction) for entry in table.entries if has_curve(entry)]
    return sorted(costs, key=lambda c: (c.flops is None, c.flops or 0.0, c.entry.label))


def _cost_to_target(entry: LeaderboardEntry, metric: str, value: float, direction: str) -> CostToTarget:
    by_seed = sorted((*images_to_target(r.curve, metric, value, direction), i) for i, r in enumerate(entry.runs))
    median = {by_seed[(len(by_seed) - 1) // 2], by_seed[len(by_seed) // 2]}
    reached = all(math.isfinite(images) for images, *_ in median)
    flops = [training_flops_at(entry.runs[i], images) for images, _, i in median]
    hours = [accelerator_hours_at(entry.runs[i], images) for images, _, i in median]
    return CostToTarget(
        entry=entry,
        flops=fmean(flops) if reached else None,
        hours=fmean(hours) if reached else None,
        at_most=any(at_first for _, at_first, _ in median),
        seeds_reached=sum(math.isfinite(images) for images, *_ in by_seed),
    )


def images_to_target(
    curve: Sequence[Mapping[str, Any]], metric: str, value: float, direction: str
) -> tuple[float, bool]:
    """Images at which a curve first reaches `value`, and whether its first point had reached it already.

    The metric is interpolated linearly in the logarithm of the images.  Infinity if no point reaches the value.
    """
    sign = -1 if direction == "higher" else 1
    points = [(p["images"], sign * p["metrics"][metric]) for p in curve if metric in p["metrics"]]
    target = sign * value
    if points and points[0][1] <= target:
        return float(points[0][0]), True
    for (images, before), (later, after) in pairwise(points):
        if after <= target:
            share = (before - target) / (before - after)
            return float(math.exp(math.log(images) + share * math.log(later / images))), False
    return math.inf, False


def find_metric(table: LeaderboardTable, name: str) -> str:
    """The metric of a table with this name or type; "" if it has none."""
    return next((m for m in table.metrics if name in (m, metric_type(m))), "")


def parse_flops(text: str) -> float:
    """Read the value of --at-compute; ValueError unless it is a positive number."""
    try:
        flops = float(text)
    except ValueError:
        flops = math.nan
    if not (math.isfinite(flops) and flops > 0):
        raise ValueError(f"--at-compute is {text}; it must be a number above 0, as 4e12")
    return flops


def parse_target(text: str) -> tuple[str, float]:
    """Read the METRIC=VALUE of --target; ValueError unless the value is a positive number."""
    name, equals, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not equals or not math.isfinite(value) or value <= 0:
        raise ValueError(f"--target is {text}; write METRIC=VALUE with a positive value, for example fid=1")
    return name, value
