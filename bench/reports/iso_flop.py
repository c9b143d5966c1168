"""Read FIDs off the training curves at equal training compute, for iso-FLOP lines.  Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from bench.records.equal_compute import training_flops_at
from bench.records.record import Record
from bench.reports.figure_schema import Point
from bench.reports.run_groups import VariantRuns, fid_curve

COMPUTE_LEVELS = tuple(m * 10.0**e for e in range(9, 27) for m in (1, 1.5, 2, 3, 5, 7))
"""Candidate training FLOPs of iso-FLOP lines; those that most networks reach are shown."""
MAX_LEVELS = 4
MIN_LEVEL_RATIO = 1.6
"""Minimum ratio of two shown levels, so that their lines are distinguishable."""


def common_levels(families: Iterable[Sequence[VariantRuns]]) -> list[float]:
    """Select up to MAX_LEVELS levels of training compute that most networks reach, MIN_LEVEL_RATIO apart."""
    groups = list(families)
    counts = {
        level: max((len(list(points_at_compute(g, level))) for g in groups), default=0) for level in COMPUTE_LEVELS
    }
    chosen: list[float] = []
    for level in sorted((level for level, count in counts.items() if count > 1), key=lambda level: -counts[level]):
        if all(max(level, other) / min(level, other) > MIN_LEVEL_RATIO for other in chosen):
            chosen.append(level)
    return sorted(chosen[:MAX_LEVELS])


def points_at_compute(variants: Sequence[VariantRuns], level: float) -> Iterator[Point]:
    """Yield the FID of each variant at `level` training FLOPs, if the curves of all its seeds span it."""
    for v in variants:
        if all(_spans(r, level) for r in v.runs):
            yield v.mean_point(v.macs, partial(_fid_at_compute, level))


def _spans(r: Record, level: float) -> bool:
    compute = [training_flops_at(r, images) for images, _ in fid_curve(r)]
    return bool(compute) and compute[0] <= level <= compute[-1]


def _fid_at_compute(level: float, r: Record) -> float:
    """Interpolate the FID at `level` training FLOPs, linearly in both logarithms."""
    images, values = zip(*fid_curve(r), strict=True)
    compute = [training_flops_at(r, i) for i in images]
    return float(np.exp(np.interp(np.log(level), np.log(compute), np.log(values))))
