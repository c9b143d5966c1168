"""Statistics over seeds, and ranks that claim no more than the intervals allow.

The 95 % interval of a row with one seed is its record's own, over the samples.  With several seeds it is Student's t
interval of the mean, mean -+ t(n - 1) s / sqrt(n); t is 12.7 for two seeds and 4.3 for three.

A row is better than another if its interval lies wholly on the better side of the other's.  Its best rank is one more
than the number of rows that are better; its worst rank is the number of rows that are not worse.  Ties are therefore
not transitive: if a overlaps b and b overlaps c, but a is better than c, the ranks are 1 to 2, 1 to 3 and 2 to 3.
Imports no torch.
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
    """Mean and interval of one metric over runs that differ only in their seed."""

    mean: float
    std: float | None = None
    """Sample standard deviation (n - 1); None for one seed."""
    n: int
    """Number of seeds."""
    low: float | None = None
    """Lower end of the interval that ranks are computed from; None without an interval."""
    high: float | None = None

    def format(self) -> str:
        """Mean ± half the interval's width (0.873 ± 0.021), or for several seeds mean ± std (n)."""
        if self.std is not None:
            return f"{self.mean:.3f} ± {self.std:.3f} ({self.n})"
        if self.low is None or self.high is None:
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} ± {(self.high - self.low) / 2:.3f}"

    def format_interval(self) -> str:
        """0.852 to 0.894; "" without an interval."""
        return "" if self.low is None or self.high is None else f"{self.low:.3f} to {self.high:.3f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """The range of ranks that a row may have."""

    best: int
    worst: int

    @property
    def tied(self) -> bool:
        """Whether the row's interval overlaps another row's."""
        return self.worst > self.best

    def format(self) -> str:
        """The best rank, with = for a tie."""
        return f"{self.best}{'=' if self.tied else ''}"

    def format_range(self) -> str:
        """2 to 3, or 2 without a tie."""
        return f"{self.best} to {self.worst}" if self.tied else str(self.best)


def seed_statistics(values: Sequence[float]) -> SeedStatistics:
    """Mean, standard deviation and t interval of one value per seed; a single value has no interval."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return SeedStatistics(mean=mean, n=1)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half_width = t_quantile(n - 1) * std / math.sqrt(n)
    return SeedStatistics(mean=mean, std=std, n=n, low=mean - half_width, high=mean + half_width)


def metric_statistics(metrics: Sequence[Metric]) -> SeedStatistics:
    """Statistics of one metric per seed; a single metric keeps its own interval."""
    interval = metrics[0].interval
    if len(metrics) > 1 or interval is None:
        return seed_statistics([m.value for m in metrics])
    return SeedStatistics(mean=metrics[0].value, n=1, low=interval.low, high=interval.high)


@cache
def t_quantile(degrees_of_freedom: int) -> float:
    """Half-width of a 95 % interval in standard errors, by Student's t distribution."""
    return float(stdtrit(degrees_of_freedom, (1 + CONFIDENCE) / 2))


def assign_ranks(statistics: Sequence[SeedStatistics | None], direction: str) -> list[Rank | None]:
    """Rank rows by their intervals; a row without an interval has rank None and does not change other ranks.

    `direction` is the better one, lower or higher.
    """
    intervals = [(s.low, s.high) if s and s.low is not None and s.high is not None else None for s in statistics]
    if direction == "higher":
        intervals = [i and (-i[1], -i[0]) for i in intervals]
    known = [i for i in intervals if i]
    lows, highs = sorted(low for low, _ in known), sorted(high for _, high in known)
    ranks: list[Rank | None] = []
    for interval in intervals:
        if interval is None:
            ranks.append(None)
            continue
        better, not_worse = bisect_left(highs, interval[0]), bisect_right(lows, interval[1])
        ranks.append(Rank(best=1 + better, worst=not_worse))
    return ranks
