"""Boards at equal training FLOPs, and what it takes to reach a target, from the evaluation points of each run.

Training FLOPs at a point are the run's, in proportion to the images; so are the accelerator-hours, which holds as
long as a run's speed does.  Weights that others trained have neither, and are left out.  Imports no torch.
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
    """What a line took to reach a target; the median over its seeds, one that did not reach it being last."""

    line: LeaderboardEntry
    flops: float | None
    """None where the median did not reach it."""
    hours: float | None
    at_most: bool
    """Whether it was reached by the first evaluation point already, so that it took no more than this."""
    reached: int
    """Seeds that reached it."""


def training_flops_at(r: Record, images: float) -> float:
    """Training FLOPs of a run after so many images."""
    assert r.cost is not None
    return training_flops(float(r.cost.macs), images)


def accelerator_hours_at(r: Record, images: float) -> float:
    """Accelerator-hours until then, if it was as fast all along."""
    assert r.cost is not None
    return r.cost.accelerator_hours * images / r.curve[-1]["images"]


def has_curve(line: LeaderboardEntry) -> bool:
    return all(r.curve and r.curve[-1]["images"] and r.cost and r.cost.training_flops for r in line.runs)


def table_at_compute(board: LeaderboardTable, flops: float) -> tuple[LeaderboardTable, Mapping[str, int]]:
    """(the board with each line at its evaluation point nearest in ratio to so many FLOPs, group -> images there).

    Only the last point of a run has an interval of its own: a line of one seed is not ranked at an earlier one.
    """
    lines, images = [], {}
    for line in filter(has_curve, board.lines):
        points = [p["images"] for p in line.runs[0].curve]
        nearest = min(points, key=lambda point: abs(math.log(training_flops_at(line.runs[0], point) / flops)))
        images[line.group] = nearest
        lines.append(line if nearest == points[-1] else replace(line, metrics=_metrics_at(line, nearest), place=None))
    return build_table(board.fingerprint, board.protocol, lines, board.references), images


def _metrics_at(line: LeaderboardEntry, images: int) -> dict[str, SeedStatistics]:
    there = [p["metrics"] for r in line.runs for p in r.curve if p["images"] == images]
    names = {name: 0 for metrics in there for name in metrics}
    return {name: seed_statistics([m[name] for m in there if name in m]) for name in names}


def costs_to_target(board: LeaderboardTable, metric: str, value: float) -> list[CostToTarget]:
    """What each line took until a metric was as good as `value`, the cheapest first."""
    found = [_cost_to_target(line, metric, value, board.direction(metric)) for line in board.lines if has_curve(line)]
    return sorted(found, key=lambda f: (f.flops is None, f.flops or 0.0, f.line.label))


def _cost_to_target(line: LeaderboardEntry, metric: str, value: float, direction: str) -> CostToTarget:
    tries = sorted((*images_to_target(r.curve, metric, value, direction), i) for i, r in enumerate(line.runs))
    middle = {tries[(len(tries) - 1) // 2], tries[len(tries) // 2]}
    known = all(math.isfinite(images) for images, *_ in middle)
    flops = [training_flops_at(line.runs[i], images) for images, _, i in middle]
    hours = [accelerator_hours_at(line.runs[i], images) for images, _, i in middle]
    return CostToTarget(
        line=line,
        flops=fmean(flops) if known else None,
        hours=fmean(hours) if known else None,
        at_most=any(first for _, first, _ in middle),
        reached=sum(math.isfinite(images) for images, *_ in tries),
    )


def images_to_target(
    curve: Sequence[Mapping[str, Any]], metric: str, value: float, direction: str
) -> tuple[float, bool]:
    """(images, whether the first point is there already) at which a curve first is as good as `value`.

    Between two points the metric is taken as linear in the logarithm of the images.  Infinity where no point is.
    """
    sign = -1 if direction == "higher" else 1
    points = [(p["images"], sign * p["metrics"][metric]) for p in curve if metric in p["metrics"]]
    goal = sign * value
    if points and points[0][1] <= goal:
        return float(points[0][0]), True
    for (images, before), (later, after) in pairwise(points):
        if after <= goal:
            share = (before - goal) / (before - after)
            return float(math.exp(math.log(images) + share * math.log(later / images))), False
    return math.inf, False


def find_metric(board: LeaderboardTable, name: str) -> str:
    """The board's metric of that name or kind; "" where there is none."""
    return next((m for m in board.metrics if name in (m, metric_type(m))), "")
