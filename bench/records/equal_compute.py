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

from bench.config.metric_specs import kind_of
from bench.records.leaderboard import Board, Line, ranked
from bench.records.ranking import Spread, over_seeds
from bench.records.record import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """What a line took to reach a target; the median over its seeds, one that did not reach it being last."""

    line: Line
    flops: float | None
    """None where the median did not reach it."""
    hours: float | None
    at_most: bool
    """Whether it was reached by the first evaluation point already, so that it took no more than this."""
    reached: int
    """Seeds that reached it."""


def flops_at(r: Record, images: float) -> float:
    """Training FLOPs of a run when it has seen that many images."""
    assert r.cost is not None and r.cost.training_flops is not None
    return r.cost.training_flops * images / r.curve[-1]["images"]


def hours_at(r: Record, images: float) -> float:
    """Accelerator-hours until then, if it was as fast all along."""
    assert r.cost is not None
    return r.cost.accelerator_hours * images / r.curve[-1]["images"]


def has_curve(line: Line) -> bool:
    return all(r.curve and r.curve[-1]["images"] and r.cost and r.cost.training_flops for r in line.runs)


def at_compute(board: Board, flops: float) -> tuple[Board, Mapping[str, int]]:
    """(the board with each line at its evaluation point nearest in ratio to so many FLOPs, group -> images there).

    Only the last point of a run has an interval of its own: a line of one seed is not ranked at an earlier one.
    """
    lines, images = [], {}
    for line in filter(has_curve, board.lines):
        points = [p["images"] for p in line.runs[0].curve]
        nearest = min(points, key=lambda point: abs(math.log(flops_at(line.runs[0], point) / flops)))
        images[line.group] = nearest
        lines.append(line if nearest == points[-1] else replace(line, metrics=_metrics_at(line, nearest), place=None))
    return ranked(board.fingerprint, board.protocol, lines, board.references), images


def _metrics_at(line: Line, images: int) -> dict[str, Spread]:
    there = [p["metrics"] for r in line.runs for p in r.curve if p["images"] == images]
    names = {name: 0 for metrics in there for name in metrics}
    return {name: over_seeds([m[name] for m in there if name in m]) for name in names}


def to_reach(board: Board, metric: str, value: float) -> list[Reached]:
    """What each line took until a metric was as good as `value`, the cheapest first."""
    found = [_reached(line, metric, value, board.direction(metric)) for line in board.lines if has_curve(line)]
    return sorted(found, key=lambda f: (f.flops is None, f.flops or 0.0, f.line.label))


def _reached(line: Line, metric: str, value: float, direction: str) -> Reached:
    tries = sorted((*reach(r.curve, metric, value, direction), i) for i, r in enumerate(line.runs))
    middle = {tries[(len(tries) - 1) // 2], tries[len(tries) // 2]}
    known = all(math.isfinite(images) for images, *_ in middle)
    flops = [flops_at(line.runs[i], images) for images, _, i in middle]
    hours = [hours_at(line.runs[i], images) for images, _, i in middle]
    return Reached(
        line=line,
        flops=fmean(flops) if known else None,
        hours=fmean(hours) if known else None,
        at_most=any(first for _, first, _ in middle),
        reached=sum(math.isfinite(images) for images, *_ in tries),
    )


def reach(curve: Sequence[Mapping[str, Any]], metric: str, value: float, direction: str) -> tuple[float, bool]:
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


def metric_of(board: Board, name: str) -> str:
    """The board's metric of that name or kind; "" where there is none."""
    return next((m for m in board.metrics if name in (m, kind_of(m))), "")
