"""What several seeds say together, and ranks that claim no more than intervals allow.

A row's interval (95 %) is, of one seed, its record's own, over the samples; of several, Student's t interval of the
mean over the seeds, mean -+ t(n - 1) s / sqrt(n), of which n = 2 makes little: t is 12.7, and 4.3 with three.

A row is better than another when its interval lies wholly on the better side of the other's.  Its rank is one more
than the number of rows that are better than it; the worst rank it may have is the number of rows that are not worse.
So a tie never chains: of a, b, c where a and b overlap, and b and c, but not a and c, the ranks are 1, 1 and 2, and
they may be 1 to 2, 1 to 3 and 2 to 3.  Imports no torch.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from scipy.special import stdtrit

from bench.records.record import Metric

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedStatistics:
    """One metric of runs that differ in nothing but their seed."""

    mean: float
    deviation: float | None = None
    """Of the sample (n - 1); None for one seed."""
    n: int
    low: float | None = None
    """Of the interval that ranks are made from; None where none is known."""
    high: float | None = None

    def words(self) -> str:
        """0.873 ± 0.021, half the interval's width; of several seeds mean ± deviation (n)."""
        if self.deviation is not None:
            return f"{self.mean:.3f} ± {self.deviation:.3f} ({self.n})"
        if self.low is None or self.high is None:
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} ± {(self.high - self.low) / 2:.3f}"

    def interval(self) -> str:
        """0.852 to 0.894."""
        return "" if self.low is None or self.high is None else f"{self.low:.3f} to {self.high:.3f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """A rank, and how far down it may be."""

    best: int
    worst: int

    @property
    def tied(self) -> bool:
        """Whether its interval overlaps another row's."""
        return self.worst > self.best

    def words(self) -> str:
        return f"{self.best}{'=' if self.tied else ''}"

    def range(self) -> str:
        return f"{self.best} to {self.worst}" if self.tied else str(self.best)


def seed_statistics(values: Sequence[float]) -> SeedStatistics:
    """Mean, deviation and t interval of one value a seed; of a single one there is no interval."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return SeedStatistics(mean=mean, n=1)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    reach = t_quantile(n - 1) * deviation / math.sqrt(n)
    return SeedStatistics(mean=mean, deviation=deviation, n=n, low=mean - reach, high=mean + reach)


def metric_statistics(metrics: Sequence[Metric]) -> SeedStatistics:
    """The same of measured metrics, where a single one has its own interval."""
    own = metrics[0].interval
    if len(metrics) > 1 or own is None:
        return seed_statistics([m.value for m in metrics])
    return SeedStatistics(mean=metrics[0].value, n=1, low=own.low, high=own.high)


@cache
def t_quantile(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches, by Student's t."""
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def assign_ranks(spreads: Sequence[SeedStatistics | None], direction: str) -> list[Rank | None]:
    """The rank of each; None for what has no interval, which neither has a rank nor changes one."""
    ends = [(s.low, s.high) if s and s.low is not None and s.high is not None else None for s in spreads]
    if direction == "higher":
        ends = [e and (-e[1], -e[0]) for e in ends]
    known = [e for e in ends if e]
    lows, highs = sorted(low for low, _ in known), sorted(high for _, high in known)
    found: list[Rank | None] = []
    for e in ends:
        better, not_worse = (bisect_left(highs, e[0]), bisect_right(lows, e[1])) if e else (0, 0)
        found.append(Rank(best=1 + better, worst=not_worse) if e else None)
    return found
