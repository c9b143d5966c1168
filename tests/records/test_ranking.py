"""Ranks and intervals."""

import math

import numpy as np
import pytest
from factories import metric

from bench.records import ranking
from bench.records.ranking import SeedStatistics


def places(*ends, direction="lower"):
    spreads = [e and SeedStatistics(mean=sum(e) / 2, n=1, low=e[0], high=e[1]) for e in ends]
    return [p and (p.best, p.worst) for p in ranking.assign_ranks(spreads, direction)]


CHAINS = {
    "apart": ([(0, 1), (2, 3), (4, 5)], [(1, 1), (2, 2), (3, 3)]),
    "a chain does not make a tie of its ends": ([(0, 2), (1, 4), (3, 6)], [(1, 2), (1, 3), (2, 3)]),
    "all overlap": ([(0, 9), (1, 8), (2, 7)], [(1, 3)] * 3),
    "one wide interval ties with all, and hides nothing": ([(0, 1), (2, 3), (0, 9)], [(1, 2), (2, 3), (1, 3)]),
    "what only touches overlaps": ([(0, 1), (1, 2)], [(1, 2), (1, 2)]),
    "points": ([(1, 1), (1, 1), (2, 2)], [(1, 2), (1, 2), (3, 3)]),
    "without an interval": ([(0, 1), None, (2, 3)], [(1, 1), None, (2, 2)]),
    "one": ([(0, 1)], [(1, 1)]),
}


@pytest.mark.parametrize("case", CHAINS)
def test_rank_is_one_more_than_the_number_of_better_rows(case):
    ends, expected = CHAINS[case]
    assert places(*ends) == expected
    mirrored = [e and (-e[1], -e[0]) for e in ends]
    assert places(*mirrored, direction="higher") == expected


def test_ranks_agree_with_comparing_every_pair():
    rng = np.random.default_rng(0)
    ends = [tuple(sorted(rng.integers(0, 12, size=2))) for _ in range(60)]
    better = [sum(other[1] < end[0] for other in ends) for end in ends]
    worse = [sum(other[0] > end[1] for other in ends) for end in ends]
    assert places(*ends) == [(1 + b, len(ends) - w) for b, w in zip(better, worse, strict=True)]


def test_interval_of_several_seeds_is_students_t():
    statistics = ranking.seed_statistics([1.0, 2.0, 3.0])
    assert (statistics.mean, statistics.std, statistics.n) == (2.0, 1.0, 3)
    assert [statistics.low, statistics.high] == pytest.approx(
        [2 + sign * 4.302652729911275 / math.sqrt(3) for sign in (-1, 1)]
    )


def test_interval_over_seeds_covers_the_mean_95_percent():
    rng = np.random.default_rng(1)
    for n in (2, 3, 5):
        studies = [ranking.seed_statistics(list(rng.normal(size=n))) for _ in range(4000)]
        assert np.mean([s.low <= 0 <= s.high for s in studies]) == pytest.approx(0.95, abs=0.011)


@pytest.mark.parametrize(("interval", "low"), [(True, 1.9), (False, None)])
def test_interval_of_one_seed_is_the_records_own(interval, low):
    statistics = ranking.metric_statistics([metric(2.0, interval)])
    assert (statistics.mean, statistics.n, statistics.std) == (2.0, 1, None) and statistics.low == (
        low and pytest.approx(low)
    )
