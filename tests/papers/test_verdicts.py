"""Test the verdicts on measured numbers and on measured orders."""

from itertools import combinations, permutations
from math import factorial

import pytest
from scipy import stats

from bench.papers import verdicts
from bench.records.ranking import SeedStatistics
from bench.records.record import Interval, Metric


def measured(value, deviation=0.01, seeds=3):
    return SeedStatistics(mean=value, std=deviation if seeds > 1 else None, n=seeds, low=None, high=None)


def metrics(*values):
    intervals = [Interval(low=v - 1, high=v + 1, method="test") for v in values]
    return [Metric(value=v, direction="lower", samples=100, interval=i) for v, i in zip(values, intervals, strict=True)]


@pytest.mark.parametrize(
    "metric, published, value, trained, verdict",
    [
        # reproductions by others, from results/published/results.csv
        ("FID", 19.47, 18.1, True, "reproduced"),
        ("FID", 68.38, 68.9, True, "reproduced"),
        ("FID", 23.33, 23.27, True, "reproduced"),
        ("FID", 3.40, 3.52, True, "reproduced"),
        ("FID", 153.60, 167.51, True, "not reproduced"),
        ("FID", 2.27, 2.21, False, "reproduced"),
        ("FID", 3.60, 3.31, False, "not reproduced"),
        ("precision", 0.83, 0.85, False, "reproduced"),
        ("recall", 0.57, 0.54, True, "not reproduced"),
    ],
)
def test_a_number_is_reproduced_within_its_tolerance(metric, published, value, trained, verdict):
    assert verdicts.judge_number(metric, published, value, trained=trained) == verdict


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_tau_and_p_are_kendalls(order):
    """p is counted over all permutations."""
    names = "abcd"
    pairs = verdicts.published_pairs(dict(zip(names, range(4), strict=True)), lower=True)
    statistics = verdicts.judge_order(pairs, {n: measured(v) for n, v in zip(names, order, strict=True)}, lower=True)
    assert statistics.tau == pytest.approx(stats.kendalltau(range(4), order).statistic)
    assert statistics.p == pytest.approx(sum(in_order(o) >= in_order(order) for o in permutations(range(4))) / 24)


def in_order(order):
    return sum(a < b for a, b in combinations(order, 2))


@pytest.mark.parametrize("discordant, orders", [(0, 1), (1, 1 + 11), (2, 12 + 65), (3, 77 + 274), (66, factorial(12))])
def test_twelve_variants_have_an_exact_p(discordant, orders):
    """Of n variants 1, n - 1, (n - 2)(n + 1) / 2 and n(n^2 - 7) / 6 orders have 0, 1, 2 and 3 discordant pairs."""
    pairs = verdicts.published_pairs({f"v{i}": i for i in range(12)}, lower=True)
    assert verdicts.order_p_value(pairs, 66 - discordant) == pytest.approx(orders / factorial(12))


@pytest.mark.parametrize(
    "pairs, agree, p",
    [
        ([("a", "b")], 1, 1 / 2),
        ([("a", "b"), ("a", "c")], 2, 1 / 3),  # the best of three
        ([("a", "b"), ("a", "c"), ("a", "d"), ("a", "e")], 4, 1 / 5),
        ([("a", "b"), ("a", "c"), ("a", "d"), ("a", "e")], 0, 1),
        ([("a", "b"), ("c", "d")], 2, 1 / 4),
    ],
)
def test_p_of_a_partial_order_is_its_share_of_permutations(pairs, agree, p):
    assert verdicts.order_p_value(pairs, agree) == pytest.approx(p)


FIVE = dict(zip("abcde", (1.0, 2.0, 3.0, 4.0, 5.0), strict=True))
PAIRS = verdicts.published_pairs(FIVE, lower=True)


@pytest.mark.parametrize(
    "values, deviation, verdict",
    [
        ((1, 2, 3, 4, 5), 0.01, "order reproduced"),
        (
            (1, 2, 3, 4, 5),
            9.0,
            "order reproduced",
        ),  # no pair differs significantly; a random order agrees 1 time in 120
        ((1, 2, 3, 5, 4), 0.9, "order reproduced"),  # one pair of ten disagrees, without a significant difference
        ((2, 1, 3, 5, 4), 0.9, "not reproduced"),
        ((5, 4, 3, 2, 1), 0.01, "not reproduced"),
    ],
)
def test_an_order_holds_if_nine_pairs_in_ten_agree(values, deviation, verdict):
    statistics = {n: measured(v, deviation) for n, v in zip(FIVE, values, strict=True)}
    assert verdicts.judge_order(PAIRS, statistics, lower=True).verdict == verdict


def test_higher_can_be_better():
    best = {n: measured(-v) for n, v in FIVE.items()}
    pairs = verdicts.published_pairs({n: -v for n, v in FIVE.items()}, lower=False)
    assert verdicts.judge_order(pairs, best, lower=False).verdict == "order reproduced"


@pytest.mark.parametrize("seeds, deviation, verdict", [(3, 0.01, "order"), (3, 5.0, "not"), (1, 0.0, "not")])
def test_two_variants_need_a_significant_difference(seeds, deviation, verdict):
    statistics = {"a": measured(1.0, deviation, seeds), "b": measured(2.0, deviation, seeds)}
    order = verdicts.judge_order([("a", "b")], statistics, lower=True)
    assert order.verdict == f"{verdict} reproduced"
    assert order.apart == (verdict == "order")


def test_a_gain_that_the_paper_did_not_find_is_named():
    statistics = {"small": measured(3.0), "chosen": measured(2.0), "large": measured(1.0)}
    order = verdicts.judge_order([("chosen", "small")], statistics, lower=True, no_gain=[("large", "chosen")])
    assert order.verdict == "not reproduced"
    assert "large is better than chosen here" in order.describe()


def test_equal_values_are_no_order():
    statistics = {n: measured(1.0) for n in FIVE}
    order = verdicts.judge_order(PAIRS, statistics, lower=True)
    assert (order.verdict, order.agree, order.tau) == ("not reproduced", 0, 0)
