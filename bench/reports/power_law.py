"""Fit a power law with offset to a few noisy points: y = a + b (x / scale)^-c with a, b, c >= 0.

`scale` is the geometric mean of x, so b is the reducible part of y at that x.  For a fixed c the fit is linear in
a and b, so c is searched on a grid and no starting point is needed.  The fit minimizes the squared relative error
because the FIDs of one figure span decades.  Shapes: K exponents, N points.  Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

EXPONENTS = np.geomspace(0.01, 10, 200)
"""Grid of c.  A best c at either end means that the points do not determine it, for example if y is linear in log x."""
MIN_POINTS = 5
"""Minimum number of distinct x for the three parameters; with four, a single residual would measure the error."""
MIN_RESAMPLED_POINTS = 4
"""Minimum number of distinct x in a bootstrap resample; with five points, MIN_POINTS would allow no repetition."""
RESAMPLES = 1000
INTERVAL_PERCENT = 95
"""Coverage of bands and intervals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerLaw:
    """Parameters of y = a + b (x / scale)^-c."""

    a: float
    b: float
    c: float
    scale: float
    rms_error: float
    """Root mean square of the relative residuals."""

    @property
    def determined(self) -> bool:
        """Whether the law falls and its exponent lies inside the searched range."""
        return bool(self.b > 0 and EXPONENTS[0] * 1.05 < self.c < EXPONENTS[-1] / 1.05)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """Compute y at each x."""
        return self.a + self.b * (x / self.scale) ** -self.c


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """Pearson's r of log x and y."""

    r: float
    p: float
    """Two-sided p-value of the null hypothesis r = 0."""
    low: float
    high: float
    """95 % interval by Fisher's transformation; NaN for three points."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BootstrapBand:
    """95 % band of the resampled laws at each x, and 95 % intervals of their parameters a and c."""

    x: np.ndarray
    low: np.ndarray
    high: np.ndarray
    a: tuple[float, float]
    c: tuple[float, float]
    undetermined: float
    """Share of the resamples that determine no exponent."""


def pearson_correlation(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Compute Pearson's r of log x and y, as arXiv:2212.09748 Figure 8 does for Gflops and FID (-0.93).

    Raises ValueError for fewer than three points, values that are not positive, or a constant x or y.
    """
    xs, ys = _check_points(x, y, 3)
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        raise ValueError("a correlation needs x and y that vary")
    result = stats.pearsonr(np.log(xs), ys)
    low, high = result.confidence_interval(INTERVAL_PERCENT / 100) if len(xs) > 3 else (np.nan, np.nan)
    return Correlation(r=float(result.statistic), p=float(result.pvalue), low=float(low), high=float(high))


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fit the law of least squared relative error.

    Raises ValueError for fewer than MIN_POINTS different x, or values that are not positive.
    """
    xs, ys = _check_points(x, y, MIN_POINTS)
    if (different := len(set(xs))) < MIN_POINTS:
        raise ValueError(f"{different} points of different x; a power law with offset needs {MIN_POINTS}")
    return _fit_checked(xs, ys)


def _check_points(x: Sequence[float], y: Sequence[float], minimum: int) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if len(xs) < minimum:
        raise ValueError(f"{len(xs)} points; this needs {minimum}")
    if not (np.isfinite(xs).all() and np.isfinite(ys).all() and (xs > 0).all() and (ys > 0).all()):
        raise ValueError("x and y must be positive and finite")
    return xs, ys


def _fit_checked(x: np.ndarray, y: np.ndarray) -> PowerLaw:
    """Search c on the grid, then on a finer grid around the best."""
    scale = float(np.exp(np.log(x).mean()))
    coarse = EXPONENTS
    best = int(np.argmin(_solve_linear(coarse, x / scale, y)[2]))
    fine = np.linspace(coarse[max(best - 1, 0)], coarse[min(best + 1, len(coarse) - 1)], 41)
    a, b, loss = _solve_linear(fine, x / scale, y)
    k = int(np.argmin(loss))
    rms = float(np.sqrt(max(loss[k], 0) / len(x)))
    return PowerLaw(a=float(a[k]), b=float(b[k]), c=float(fine[k]), scale=scale, rms_error=rms)


def _solve_linear(c: np.ndarray, u: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the best non-negative a (K,) and b (K,) for each exponent, and their summed squared relative error (K,).

    If the unconstrained optimum is negative, the better of the edges a = 0 and b = 0 is the solution.
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


def bootstrap_band(
    x: Sequence[float], seeds: Sequence[Sequence[float]], at: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> BootstrapBand:
    """Bootstrap the fit over points, and over the training seeds within each point.

    `seeds` holds the values of each point, whose mean is its y; `at` holds the x of the band.  A resample with fewer
    than MIN_RESAMPLED_POINTS different x is drawn again.  Raises ValueError as `fit_power_law` does.
    """
    xs, groups = np.asarray(x, float), [np.asarray(s, float) for s in seeds]
    fit_power_law(x, [g.mean() for g in groups])
    rng = np.random.default_rng(seed)
    laws: list[PowerLaw] = []
    while len(laws) < resamples:
        sample = rng.integers(0, len(xs), len(xs))
        if len(set(xs[sample])) >= MIN_RESAMPLED_POINTS:
            means = np.array([rng.choice(groups[i], len(groups[i])).mean() for i in sample])
            laws.append(_fit_checked(xs[sample], means))
    low, high = _percentiles(np.stack([law.evaluate(at) for law in laws]))
    undetermined = sum(not law.determined for law in laws) / len(laws)
    a, c = _interval([law.a for law in laws]), _interval([law.c for law in laws])
    return BootstrapBand(x=at, low=low, high=high, a=a, c=c, undetermined=undetermined)


def _interval(values: list[float]) -> tuple[float, float]:
    low, high = _percentiles(np.array(values))
    return float(low), float(high)


def _percentiles(values: np.ndarray) -> np.ndarray:
    return np.percentile(values, [50 - INTERVAL_PERCENT / 2, 50 + INTERVAL_PERCENT / 2], axis=0)
