"""A power law with offset through a few noisy points: y = a + b (x / scale)^-c, all of a, b, c >= 0.

`scale` is the geometric mean of x, so that b is the part of y there that more x takes away.  For a given c the
rest is linear, so c is searched on a grid and nothing depends on a starting point.  What is made small is the
relative error, as FIDs of one figure span decades.  K exponents, N points.  Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

EXPONENTS = np.geomspace(0.01, 10, 200)
"""A law that is best at an end of these is not determined, as where y is straight in log x."""
FEWEST = 5
"""Points of different x that three parameters need: with four, one residual would say how well it fits."""
FEWEST_DRAWN = 4
"""Of a resample, which would else have to hold all of five points."""
RESAMPLES = 1000
WIDTH = 95
"""Percent that bands and intervals hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """y = a + b (x / scale)^-c."""

    a: float
    b: float
    c: float
    scale: float
    error: float
    """Root mean square of the relative residuals."""

    @property
    def determined(self) -> bool:
        """Whether the best exponent lies within those that were searched, and the law falls."""
        return bool(self.b > 0 and EXPONENTS[0] * 1.05 < self.c < EXPONENTS[-1] / 1.05)

    def at(self, x: np.ndarray) -> np.ndarray:
        return self.a + self.b * (x / self.scale) ** -self.c


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """Pearson's r of log x and y."""

    r: float
    p: float
    """Of no correlation, two-sided."""
    low: float
    high: float
    """95 % interval by Fisher's transformation; NaN for three points."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """What the resamples hold: 95 % of the laws at each x, and of their parameters."""

    x: np.ndarray
    low: np.ndarray
    high: np.ndarray
    a: tuple[float, float]
    c: tuple[float, float]
    undetermined: float
    """Share of the resamples whose exponent was not determined."""


def correlation(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Pearson's r of log x and y, as arXiv:2212.09748 Figure 8 has it of Gflops and FID (-0.93).

    ValueError for fewer than three points, x that is not positive, or what does not vary.
    """
    xs, ys = _checked(x, y, 3)
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        raise ValueError("a correlation needs x and y that vary")
    found = stats.pearsonr(np.log(xs), ys)
    low, high = found.confidence_interval(WIDTH / 100) if len(xs) > 3 else (np.nan, np.nan)
    return Correlation(r=float(found.statistic), p=float(found.pvalue), low=float(low), high=float(high))


def fit(x: Sequence[float], y: Sequence[float]) -> Law:
    """The law of least squared relative error; ValueError for fewer than FEWEST different x, or x or y <= 0."""
    xs, ys = _checked(x, y, FEWEST)
    if (different := len(set(xs))) < FEWEST:
        raise ValueError(f"{different} points of different x; a power law with offset needs {FEWEST}")
    return _fit(xs, ys)


def _checked(x: Sequence[float], y: Sequence[float], fewest: int) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if len(xs) < fewest:
        raise ValueError(f"{len(xs)} points; this needs {fewest}")
    if not (np.isfinite(xs).all() and np.isfinite(ys).all() and (xs > 0).all() and (ys > 0).all()):
        raise ValueError("x and y must be positive and finite")
    return xs, ys


def _fit(x: np.ndarray, y: np.ndarray) -> Law:
    scale = float(np.exp(np.log(x).mean()))
    coarse = EXPONENTS
    best = int(np.argmin(_linear(coarse, x / scale, y)[2]))
    fine = np.linspace(coarse[max(best - 1, 0)], coarse[min(best + 1, len(coarse) - 1)], 41)
    a, b, loss = _linear(fine, x / scale, y)
    k = int(np.argmin(loss))
    return Law(
        a=float(a[k]), b=float(b[k]), c=float(fine[k]), scale=scale, error=float(np.sqrt(max(loss[k], 0) / len(x)))
    )


def _linear(c: np.ndarray, u: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K,) best a and b, neither negative, and the summed squared relative error, for each exponent.

    The best of the two edges a = 0 and b = 0 stands where the free optimum is negative.
    """
    one, power = 1 / y, u ** -c[:, None] / y
    s11, s12, s22 = one @ one, power @ one, (power * power).sum(1)
    t1, t2 = one.sum(), power.sum(1)
    determinant = np.maximum(s11 * s22 - s12**2, 1e-12 * s11 * s22)
    candidates = [
        ((s22 * t1 - s12 * t2) / determinant, (s11 * t2 - s12 * t1) / determinant),
        (np.zeros_like(c), t2 / s22),
        (np.full_like(c, t1 / s11), np.zeros_like(c)),
    ]
    a, b = (np.stack(parts) for parts in zip(*candidates, strict=True))
    loss = ((a[..., None] * one + b[..., None] * power - 1) ** 2).sum(-1)
    pick = np.argmin(np.where((a < 0) | (b < 0), np.inf, loss), axis=0)
    chosen = (pick, np.arange(len(c)))
    return a[chosen], b[chosen], loss[chosen]


def band(
    x: Sequence[float], seeds: Sequence[Sequence[float]], at: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> Band:
    """Bootstrap of points and of the seeds within each: `seeds` holds each point's numbers, whose mean is its y.

    A resample without FEWEST_DRAWN different x is drawn again.  ValueError as `fit`.
    """
    xs, groups = np.asarray(x, float), [np.asarray(s, float) for s in seeds]
    fit(x, [g.mean() for g in groups])
    rng = np.random.default_rng(seed)
    laws: list[Law] = []
    while len(laws) < resamples:
        drawn = rng.integers(0, len(xs), len(xs))
        if len(set(xs[drawn])) >= FEWEST_DRAWN:
            laws.append(_fit(xs[drawn], np.array([rng.choice(groups[i], len(groups[i])).mean() for i in drawn])))
    low, high = _percentiles(np.stack([law.at(at) for law in laws]))
    lost = sum(not law.determined for law in laws) / len(laws)
    a, c = _ends([law.a for law in laws]), _ends([law.c for law in laws])
    return Band(x=at, low=low, high=high, a=a, c=c, undetermined=lost)


def _ends(values: list[float]) -> tuple[float, float]:
    low, high = _percentiles(np.array(values))
    return float(low), float(high)


def _percentiles(values: np.ndarray) -> np.ndarray:
    return np.percentile(values, [50 - WIDTH / 2, 50 + WIDTH / 2], axis=0)
