"""What a measurement says about a published number, and about a published order.

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
"""Relative difference allowed when published weights are sampled again: the authors of DiT got 2.21 for their own
2.27, and re-evaluations of U-ViT and LDM came within 2 %."""
TRAINED_TOLERANCE = 0.08
"""The same when a network is trained again: the authors of DiT got 18.1 for their own 19.47 (7 %), third parties
came within 4 %, and the 167.5 for 153.6 (9 %) of one user was called a failure by that user."""
FRACTION_TOLERANCE = 0.02
"""Absolute difference allowed of precision and recall, which are printed to two decimals: their sampling error at
10,000 reference images is about half of it."""
COUNT_TOLERANCE = 0.01
"""Relative difference allowed of counted costs, beyond the rounding of the printed number: U-ViT's counter adds layer
norms (76.5 for 76.46, printed as 77), and LDM's sizes are printed with and without their class table."""
FRACTION_METRICS = ("precision", "recall")

MIN_TAU = 0.8
"""Kendall's tau of an order that holds: nine pairs in ten."""
ALPHA = 0.05
"""Chance of so good an order among variants that do not differ, above which it proves nothing; and of each test
of two variants."""
MAX_VARIANTS = 9
"""Variants up to which all permutations are gone through."""

RULES = f"""\
- `reproduced`: measured in the paper's own setting and within {TRAINED_TOLERANCE:.0%} of the published value \
where a network was
  trained again, {SAMPLED_TOLERANCE:.0%} where published weights were sampled again; \
precision and recall within {FRACTION_TOLERANCE};
  counted costs within {COUNT_TOLERANCE:.0%} or the rounding of the printed number.
- `order reproduced`: the ranking of the variants holds, whatever the values. Kendall's tau over the means is at least
  {MIN_TAU}, which is nine published pairs in ten lying the same way; as many do of the pairs that the seeds tell
  apart (Welch's test, {ALPHA:.0%}); and the exact chance p of so good an order is at most {ALPHA:.0%}. Where a paper
  orders too few
  pairs to get there (two or three variants, or a part of them), each must lie the same way and be told apart by the
  seeds. Where it says that nothing is gained, the seeds must not tell a gain.
- `not reproduced`: measured, and neither holds, also where the seeds cannot tell.
- `not run`: nothing is measured, or not every line. `reference`: nothing here can be run.

At digits and shapes scale toy networks take the same switches, and only orders are judged. Why the tolerances are
what they are stands beside them in `bench/papers/verdicts.py`.
"""


def tolerance(metric: str, published: float, *, trained: bool) -> float:
    """How far a measurement may be from a published number and still be the same."""
    return (
        FRACTION_TOLERANCE
        if metric in FRACTION_METRICS
        else (TRAINED_TOLERANCE if trained else SAMPLED_TOLERANCE) * abs(published)
    )


def judge_number(metric: str, published: float, measured: float, *, trained: bool) -> Verdict:
    """`reproduced` where the difference is within what is allowed; only for the paper's own setting."""
    close = abs(measured - published) <= tolerance(metric, published, trained=trained) + 1e-12
    return "reproduced" if close else "not reproduced"


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderComparison:
    """How a measured order compares with a published one."""

    verdict: Verdict
    variants: int
    pairs: int
    """Pairs of variants that the paper orders."""
    agree: int
    """Of them, those whose means lie the same way."""
    apart: int
    """Of them, those that the seeds tell apart (Welch's test, 5 %)."""
    apart_agree: int
    tau: float
    """(agreeing - disagreeing) / pairs; Kendall's tau where the paper orders all."""
    p: float
    """Share of all permutations of the measured values that agree at least as well."""
    gains: tuple[OrderedPair, ...] = ()
    """(variant, other) that the paper finds no better than the other, and the seeds do."""

    def sentence(self) -> str:
        """The figures in words."""
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
    """Judge a published order: pairs of (better, worse), and of (variant, other) where no gain was found.

    It holds where tau is at least LEAST_TAU, among the pairs that the seeds tell apart too, and chance does as well
    with a probability of at most ALPHA.  Too few pairs for that, as two or three variants have, hold where all lie
    the same way and the seeds tell each apart.
    """
    sign = 1 if lower else -1
    values = {name: sign * m.mean for name, m in measured.items()}
    agree = [values[better] < values[worse] for better, worse in pairs]
    apart = [differ_significantly(measured[a], measured[b]) for a, b in pairs]
    apart_agree = sum(a and t for a, t in zip(agree, apart, strict=True))
    ties = sum(values[a] == values[b] for a, b in pairs)
    tau = (2 * sum(agree) + ties - len(pairs)) / len(pairs)
    names = sorted({name for pair in pairs for name in pair})
    p = order_p_value(pairs, sum(agree))
    gains = tuple(
        (a, b) for a, b in no_gain if values[a] < values[b] and differ_significantly(measured[a], measured[b])
    )
    few = order_p_value(pairs, len(pairs)) > ALPHA
    clear = all(agree) and all(apart) if few else tau >= MIN_TAU and p <= ALPHA
    steady = 2 * apart_agree - sum(apart) >= MIN_TAU * sum(apart)
    return OrderComparison(
        verdict="order reproduced" if clear and steady and not gains else "not reproduced",
        variants=len(names),
        pairs=len(pairs),
        agree=sum(agree),
        apart=sum(apart),
        apart_agree=apart_agree,
        tau=tau,
        p=p,
        gains=gains,
    )


def differ_significantly(a: SeedStatistics, b: SeedStatistics) -> bool:
    """Whether the seeds tell two variants apart: Welch's two-sided test at ALPHA; one seed tells nothing."""
    if a.std is None or b.std is None:
        return False
    if a.std == b.std == 0:
        return a.mean != b.mean
    from scipy import stats  # takes a second to import

    test = stats.ttest_ind_from_stats(a.mean, a.std, a.n, b.mean, b.std, b.n, equal_var=False)
    return bool(test.pvalue <= ALPHA)


def order_p_value(pairs: Sequence[OrderedPair], agree: int) -> float:
    """Exact probability that a random order of the variants agrees with at least so many pairs.

    A complete order has Kendall's distribution; of others, all permutations are counted.
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
    """Whether pairs, all there, are one ranking without circles: then each variant beats another number of others."""
    wins = {name: sum(better == name for better, _ in pairs) for pair in pairs for name in pair}
    return sorted(wins.values()) == list(range(n))


def _kendall_p_value(n: int, agree: int) -> float:
    """Exact one-sided p-value of Kendall's tau for n variants, of whose pairs `agree` lie in order and no pair is tied.

    scipy takes two rankings, so one with that many pairs in order is built.
    """
    from scipy import stats  # takes a second to import

    order, rest, discordant = [], list(range(n)), comb(n, 2) - agree
    for last in reversed(range(n)):
        place = min(discordant, last)
        order.append(rest.pop(place))  # comes before `place` smaller ones
        discordant -= place
    return float(stats.kendalltau(range(n), order, method="exact", alternative="greater").pvalue)


def _permutations(n: int) -> np.ndarray:
    """All n! permutations, (n!, n)."""
    found = np.zeros((1, 1), dtype=np.int8)
    for size in range(1, n):
        found = np.concatenate([np.insert(found, i, size, axis=1) for i in range(size + 1)])
    return found


def published_pairs(published: Mapping[str, float], *, lower: bool) -> list[OrderedPair]:
    """(better, worse) of all variants whose published numbers differ."""
    sign = 1 if lower else -1
    best = sorted(published, key=lambda name: sign * published[name])
    return [(a, b) for a, b in combinations(best, 2) if published[a] != published[b]]
