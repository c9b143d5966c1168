"""Judge measurements against a published number, and a measured order against a published order.

A verdict is `reproduced`, `order reproduced`, `not reproduced` or `not run`.  Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Literal

import numpy as np

from bench.records.ranking import SeedStatistics

Verdict = Literal["reproduced", "order reproduced", "not reproduced", "not run"]
OrderedPair = tuple[str, str]
"""(better, worse)."""

SAMPLED_TOLERANCE = 0.03
"""Allowed relative difference when published weights are sampled again: the authors of DiT got 2.21 for their own
2.27, and re-evaluations of U-ViT and LDM came within 2 %."""
TRAINED_TOLERANCE = 0.08
"""Allowed relative difference when a network is trained again: the authors of DiT got 18.1 for their own 19.47 (7 %),
third parties came within 4 %, and one user called 167.5 for 153.6 (9 %) a failure."""
FRACTION_TOLERANCE = 0.02
"""Allowed absolute difference of precision and recall, which are printed to two decimals: their sampling error at
10,000 reference images is about half of it."""
COUNT_TOLERANCE = 0.01
"""Allowed relative difference of counted costs, beyond the rounding of the printed number: U-ViT's counter adds layer
norms (76.5 for 76.46, printed as 77), and LDM's sizes are printed with and without their class table."""
FRACTION_METRICS = ("precision", "recall")

MIN_TAU = 0.8
"""Smallest Kendall's tau of a reproduced order: nine pairs in ten agree."""
ALPHA = 0.05
"""Significance level: of the p-value of an order, and of the test between two variants."""
MAX_VARIANTS = 9
"""Limit of variants in a partial order, whose p-value enumerates all permutations."""

RULES = f"""\
- `reproduced`: measured in the paper's own setting and within a tolerance of the published value:
  {TRAINED_TOLERANCE:.0%} if a network was trained again, {SAMPLED_TOLERANCE:.0%} if published weights were sampled
  again, {FRACTION_TOLERANCE} for precision and recall, and {COUNT_TOLERANCE:.0%} or the rounding of the printed number
  for counted costs.
- `order reproduced`: the variants are ranked as published, whatever their values. Kendall's tau over the means is at
  least {MIN_TAU}: nine published pairs in ten agree. The same holds among the pairs that differ significantly over the
  seeds (Welch's test, {ALPHA:.0%}), and the exact p-value of the order is at most {ALPHA:.0%}. If a paper orders too
  few pairs for that p-value (two or three variants, or a part of them), every pair must agree and differ
  significantly. If it reports no gain, there must be no significant gain here.
- `not reproduced`: measured, and neither of these, also if the seeds cannot decide.
- `not run`: nothing is measured, or not every line. `reference`: nothing here can be run.

At digits and shapes scale, toy networks have the same switches, and only orders are judged. The reasons for the
tolerances are next to them in `bench/papers/verdicts.py`.
"""


def tolerance(metric: str, published: float, *, trained: bool) -> float:
    """Return the largest absolute difference between a published number and a measurement that reproduces it."""
    return (
        FRACTION_TOLERANCE
        if metric in FRACTION_METRICS
        else (TRAINED_TOLERANCE if trained else SAMPLED_TOLERANCE) * abs(published)
    )


def judge_number(metric: str, published: float, measured: float, *, trained: bool) -> Verdict:
    """Judge a measurement in the paper's own setting: `reproduced` if it is within the tolerance."""
    close = abs(measured - published) <= tolerance(metric, published, trained=trained) + 1e-12
    return "reproduced" if close else "not reproduced"


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderComparison:
    """Agreement of a measured order with a published one."""

    verdict: Verdict
    variants: int
    pairs: int
    """Number of pairs of variants that the paper orders."""
    agree: int
    """Number of pairs whose measured means are in the published order."""
    apart: int
    """Number of pairs that differ significantly (Welch's test over the seeds, 5 %)."""
    apart_agree: int
    """Number of these that are in the published order."""
    tau: float
    """(agreeing - disagreeing) / pairs, which is Kendall's tau if the paper orders all pairs."""
    p: float
    """Share of all permutations of the measured values that agree with at least as many pairs."""
    gains: tuple[OrderedPair, ...] = ()
    """(variant, other) pairs without a gain in the paper and with a significant gain here."""

    def describe(self) -> str:
        """Return the numbers as a sentence."""
        words = f"{self.agree} of {self.pairs} published pairs lie the same way (tau {self.tau:.2f}, "
        words += f"p {_format_p(self.p)}); "
        words += f"the seeds tell {self.apart} apart, of which {self.apart_agree} agree"
        for variant, other in self.gains:
            words += f"; {variant} is better than {other} here, which the paper did not find"
        return words


def _format_p(p: float) -> str:
    return f"{p:.1e}" if p < 1e-3 else f"{p:.3f}"


def judge_order(
    pairs: Sequence[OrderedPair],
    measured: Mapping[str, SeedStatistics],
    *,
    lower: bool,
    no_gain: Sequence[OrderedPair] = (),
) -> OrderComparison:
    """Judge a published order, given as (better, worse) pairs, and (variant, other) pairs without a gain.

    `measured` are the statistics by variant; `lower` says that lower is better.  The order is reproduced if tau is at
    least MIN_TAU, also among the significantly different pairs, and p is at most ALPHA.  Two or three variants have too
    few pairs for that p; their order is reproduced if every pair agrees and differs significantly.  A significant gain
    in a `no_gain` pair makes the verdict `not reproduced`.
    """
    sign = 1 if lower else -1
    values = {name: sign * m.mean for name, m in measured.items()}
    agree = [values[better] < values[worse] for better, worse in pairs]
    significant = [differ_significantly(measured[a], measured[b]) for a, b in pairs]
    both = sum(a and s for a, s in zip(agree, significant, strict=True))
    ties = sum(values[a] == values[b] for a, b in pairs)
    tau = (2 * sum(agree) + ties - len(pairs)) / len(pairs)
    names = sorted({name for pair in pairs for name in pair})
    p = order_p_value(pairs, sum(agree))
    gains = tuple(
        (a, b) for a, b in no_gain if values[a] < values[b] and differ_significantly(measured[a], measured[b])
    )
    too_few = order_p_value(pairs, len(pairs)) > ALPHA
    holds = all(agree) and all(significant) if too_few else tau >= MIN_TAU and p <= ALPHA
    holds_where_significant = 2 * both - sum(significant) >= MIN_TAU * sum(significant)
    return OrderComparison(
        verdict="order reproduced" if holds and holds_where_significant and not gains else "not reproduced",
        variants=len(names),
        pairs=len(pairs),
        agree=sum(agree),
        apart=sum(significant),
        apart_agree=both,
        tau=tau,
        p=p,
        gains=gains,
    )


def differ_significantly(a: SeedStatistics, b: SeedStatistics) -> bool:
    """Test whether two variants differ: Welch's two-sided t-test over the seeds at ALPHA; False for a single seed."""
    if a.std is None or b.std is None:
        return False
    if a.std == b.std == 0:
        return a.mean != b.mean
    from scipy import stats  # takes a second to import

    test = stats.ttest_ind_from_stats(a.mean, a.std, a.n, b.mean, b.std, b.n, equal_var=False)
    return bool(test.pvalue <= ALPHA)


def order_p_value(pairs: Sequence[OrderedPair], agree: int) -> float:
    """Compute the exact probability that a random order of the variants agrees with at least `agree` pairs.

    For a complete order this is Kendall's distribution; for a partial order all permutations are enumerated.
    """
    names = sorted({name for pair in pairs for name in pair})
    n = len(names)
    if len({frozenset(pair) for pair in pairs}) == comb(n, 2) and _consistent(pairs, n):
        return _kendall_p_value(n, agree)
    assert n <= MAX_VARIANTS, f"{n} variants in a partial order; exact counting ends at {MAX_VARIANTS}"
    ranks = _permutations(n)
    at = {name: i for i, name in enumerate(names)}
    hits = sum((ranks[:, at[a]] < ranks[:, at[b]]).astype(np.int64) for a, b in pairs)
    return float(np.mean(hits >= agree))


def _consistent(pairs: Sequence[OrderedPair], n: int) -> bool:
    """Return whether pairs of all variants have no cycle, which means that the numbers of wins are 0 to n - 1."""
    wins = {name: sum(better == name for better, _ in pairs) for pair in pairs for name in pair}
    return sorted(wins.values()) == list(range(n))


def _kendall_p_value(n: int, agree: int) -> float:
    """Compute the exact one-sided p-value of Kendall's tau for n variants without ties, if `agree` pairs are in order.

    scipy needs two rankings, so a ranking with that many pairs in order is constructed.
    """
    from scipy import stats  # takes a second to import

    order, remaining, discordant = [], list(range(n)), comb(n, 2) - agree
    for last in reversed(range(n)):
        smaller = min(discordant, last)
        order.append(remaining.pop(smaller))  # precedes so many smaller ones
        discordant -= smaller
    return float(stats.kendalltau(range(n), order, method="exact", alternative="greater").pvalue)


def _permutations(n: int) -> np.ndarray:
    """Return all n! permutations, (n!, n)."""
    permutations = np.zeros((1, 1), dtype=np.int8)
    for size in range(1, n):
        permutations = np.concatenate([np.insert(permutations, i, size, axis=1) for i in range(size + 1)])
    return permutations


def published_pairs(published: Mapping[str, float], *, lower: bool) -> list[OrderedPair]:
    """Return (better, worse) pairs of all variants with different published numbers."""
    sign = 1 if lower else -1
    best = sorted(published, key=lambda name: sign * published[name])
    return [(a, b) for a, b in combinations(best, 2) if published[a] != published[b]]
