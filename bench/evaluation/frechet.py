"""Gaussians fitted to features, and the Frechet distance between two of them (FID, arXiv:1706.08500, equation 6).

    d^2 = |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2))

With S = A A^T, the last trace is the sum of the singular values of A^T B, so no matrix square root is needed.
A is the Cholesky factor if the covariance is positive definite, and scaled eigenvectors if it is singular.
The linear algebra uses torch: numpy was 10 times slower when other processes used the same cores.

N samples, F features, R rank, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

EPS = float(np.finfo(np.float64).eps)
BLOCK_ROWS = 2048
"""Rows that are converted to float64 at a time."""


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Mean and covariance of features."""

    mu: np.ndarray
    """(F,)"""
    sigma: np.ndarray
    """(F, F), unbiased."""
    count: int | None = None
    """Number of samples that it was fitted to; None if unknown."""

    @cached_property
    def root(self) -> Tensor:
        """(F, R) float64 with root @ root.T = sigma."""
        return covariance_root(torch.from_numpy(self.sigma))


class RunningMoments:
    """Running sums of features, for their mean and covariance.

    ADM's evaluator and torch-fidelity both compute the mean in float32, row after row.  The mean here has the same
    bits, for any division of the rows into batches.  The covariance comes from float64 sums of x - (first row),
    which stay exact if the features have a large offset.
    """

    def __init__(self) -> None:
        self.count = 0
        self._pending: list[np.ndarray] = []

    def add(self, x_NF: np.ndarray) -> None:
        """Add rows (N, F)."""
        self._pending.append(x_NF)
        if sum(map(len, self._pending)) >= BLOCK_ROWS:
            self._flush()

    def _flush(self) -> None:
        rows = [part for part in self._pending if len(part)]
        self._pending = []
        if not rows:
            return
        x = np.concatenate(rows).astype(np.float32, copy=False)
        if not self.count:
            width = x.shape[1]
            self._shift, self._total32 = x[0].astype(np.float64), np.zeros(width, np.float32)
            self._total, self._products = np.zeros(width), np.zeros((width, width))
        self._total32 = np.add.reduce(np.concatenate([self._total32[None], x]), axis=0)
        shifted = torch.from_numpy(x - self._shift)
        self._total += shifted.sum(0).numpy()
        self._products += (shifted.T @ shifted).numpy()
        self.count += len(x)

    def gaussian(self) -> Gaussian:
        """Return the fitted Gaussian; ValueError below two rows."""
        self._flush()
        if self.count < 2:
            raise ValueError(f"{self.count} samples; a covariance needs at least 2")
        mean = self._total / self.count
        sigma = (self._products - self.count * np.outer(mean, mean)) / (self.count - 1)
        return Gaussian(mu=self._total32 / np.float32(self.count), sigma=sigma, count=self.count)


def fit_gaussian(x_NF: np.ndarray) -> Gaussian:
    """Fit a Gaussian to features (N, F) in memory; ValueError below two rows."""
    moments = RunningMoments()
    for start in range(0, len(x_NF), BLOCK_ROWS):
        moments.add(x_NF[start : start + BLOCK_ROWS])
    return moments.gaussian()


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Compute the squared Frechet distance; it agrees with the published evaluators to 1e-6 relative."""
    difference = a.mu.astype(np.float64) - b.mu.astype(np.float64)
    traces = float(np.trace(a.sigma) + np.trace(b.sigma))
    return float(difference @ difference) + traces - 2 * nuclear_norm(a.root.T @ b.root)


def covariance_root(sigma_FF: Tensor) -> Tensor:
    """Compute a root (F, R) of a covariance: Cholesky, or scaled eigenvectors if it is singular to rounding."""
    lower, failed = torch.linalg.cholesky_ex(sigma_FF)
    if not failed and lower.diagonal().square().min() > len(sigma_FF) * EPS * sigma_FF.diagonal().max():
        return lower
    values, vectors = torch.linalg.eigh(sigma_FF)
    keep = values > (len(sigma_FF) * EPS * values[-1]).clamp(min=0)
    return vectors[:, keep] * values[keep].sqrt()


def nuclear_norm(k: Tensor) -> float:
    """Compute the sum of the singular values of a matrix.

    The roots of the eigenvalues of the smaller Gram matrix are used if they are accurate enough.  An eigenvalue has
    an error of about eps times the largest one, which the root may magnify.  If that could exceed 1e-9 relative,
    the slower singular value decomposition is used.
    """
    if not k.numel():
        return 0.0
    values = torch.linalg.eigvalsh(k @ k.T if k.shape[0] <= k.shape[1] else k.T @ k)
    roots, error = values.clamp(min=0).sqrt(), 4 * EPS * values[-1]
    if error.sqrt().minimum(error / (2 * roots + 1e-300)).sum() <= 1e-9 * roots.sum():
        return float(roots.sum())
    return float(torch.linalg.svdvals(k).sum())


def leave_group_out_distances(x_NF: np.ndarray, group_N: np.ndarray, reference: Gaussian) -> list[float]:
    """Compute the [G] distances to the reference with one group of samples left out at a time.

    `group_N` holds group numbers from 0.  The sums over a group are subtracted from those over all samples.  If there
    are at most R samples, the distances come from the samples' Gram matrix instead.
    """
    root, mu = reference.root, _mean(reference)
    groups = [np.flatnonzero(group_N == g) for g in range(int(group_N.max()) + 1)]
    if len(x_NF) <= root.shape[1]:
        trace = float(np.trace(reference.sigma))
        return [trace + _gram_distance(np.delete(x_NF, rows, axis=0), root, mu) for rows in groups]
    total_sums = _projected_sums(x_NF, np.arange(len(x_NF)), root, mu)
    distances = []
    for rows in groups:
        group_sums = _projected_sums(x_NF, rows, root, mu)
        total, squares, products = (t - g for t, g in zip(total_sums, group_sums, strict=True))
        distances.append(_distance_from_sums(len(x_NF) - len(rows), total, squares, products, reference))
    return distances


def subset_distances(x_NF: np.ndarray, subsets: Sequence[np.ndarray], reference: Gaussian) -> list[float]:
    """Compute the distances to the reference of subsets of the samples, each an array of row numbers.

    The features are projected by the reference's root.  A subset then needs one product and one eigenvalue
    problem of size R, instead of a fit and a distance.
    """
    root, mu = reference.root, _mean(reference)
    return [_distance_from_sums(len(rows), *_projected_sums(x_NF, rows, root, mu), reference) for rows in subsets]


def _mean(reference: Gaussian) -> Tensor:
    return torch.from_numpy(reference.mu.astype(np.float64))


def _distance_from_sums(n: int, total: Tensor, squares: Tensor, products: Tensor, reference: Gaussian) -> float:
    """Compute the distance of n samples to the reference from their `_projected_sums`."""
    mean = total / n
    trace = (squares - n * mean @ mean) / (n - 1)
    projected = mean @ reference.root
    values = torch.linalg.eigvalsh((products - n * torch.outer(projected, projected)) / (n - 1))
    reference_trace = float(np.trace(reference.sigma))
    return reference_trace + float(mean @ mean + trace - 2 * values.clamp(min=0).sqrt().sum())


def _projected_sums(x_NF: np.ndarray, rows: np.ndarray, root: Tensor, mu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over rows: x - mu (F,), its squared norm (), and the outer product of (x - mu) root with itself (R, R)."""
    width, rank = root.shape
    total, squares, products = mu.new_zeros(width), mu.new_zeros(()), mu.new_zeros(rank, rank)
    for start in range(0, len(rows), BLOCK_ROWS):
        shifted = torch.from_numpy(x_NF[rows[start : start + BLOCK_ROWS]]) - mu
        total += shifted.sum(0)
        squares += shifted.square().sum()
        projected = shifted @ root
        products += projected.T @ projected
    return total, squares, products


def _gram_distance(x_NF: np.ndarray, root: Tensor, mu: Tensor) -> float:
    """Compute the distance without the reference's trace from the Gram matrix of the projected samples."""
    shifted = torch.from_numpy(x_NF) - mu
    mean = shifted.mean(0)
    centred = (shifted - mean) / (len(x_NF) - 1) ** 0.5
    projected = centred @ root
    values = torch.linalg.eigvalsh(projected @ projected.T)
    return float(mean @ mean + centred.square().sum() - 2 * values.clamp(min=0).sqrt().sum())
