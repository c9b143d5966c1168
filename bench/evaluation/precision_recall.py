"""Improved precision and recall (arXiv:1904.06991, Algorithm 1), computed in blocks of bounded memory.

The manifold of a set is the union of balls around its points; a ball's radius is the distance to the point's k-th
nearest neighbour.  Precision is the share of samples inside the reference's manifold.  Recall is the share of
reference images inside the samples' manifold.  Squared distances come from matrix products.  A block of distances
within a set is used for its rows and for its columns; a block between the sets is used for precision and recall.

The standard error of recall is a bootstrap over the samples.  In a resample some neighbours of a sample are absent,
so its ball is larger.  Therefore more than k neighbours are stored for each sample, and for each reference image the
samples whose ball could contain it in a resample.

N samples, M reference images, F features, K neighbours, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.config.metric_specs import DistanceDtype

BLOCK_SIZE = 2500
"""Maximum rows or columns of a block of distances (25 MB)."""
RELATIVE_RESOLUTION = 2e-6
"""Squared distances below this share of the squared norms are rounding errors; such points count as equal."""
KEPT_NEIGHBOURS = 24
"""Neighbours stored for resamples.  All but 2 of 24 are absent from one resample in 10^8."""
KEPT_CANDIDATES = 16
"""Samples stored for each reference image: those whose ball contains it after the fewest neighbours are removed."""


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """Precision and recall, and the radii and memberships that they come from."""

    precision: float
    recall: float
    recall_error: float | None = None
    """Bootstrap standard error of the recall over the samples; None if it was not requested."""
    real_radii: Tensor
    """(M,) squared radii of the reference's balls."""
    fake_radii: Tensor
    """(N,) squared radii of the samples' balls."""
    inside: Tensor
    """(N,) bool: samples inside the reference's manifold."""
    covered: Tensor
    """(M,) bool: reference images inside the samples' manifold."""


@dataclass(frozen=True)
class CoveringPairs:
    """Pairs of a reference image and a sample whose ball contains it, or could in a resample; (P,) each."""

    image: Tensor
    sample: Tensor
    rank: Tensor
    """Number of the sample's neighbours that are nearer to it than the image."""

    @classmethod
    def empty(cls, device: torch.device) -> CoveringPairs:
        return cls(*(torch.zeros(0, dtype=torch.long, device=device) for _ in range(3)))

    def merge(self, image: Tensor, sample: Tensor, rank: Tensor) -> CoveringPairs:
        """Add pairs, and keep the KEPT_CANDIDATES of lowest rank for each image."""
        image, sample, rank = (torch.cat(p) for p in ((self.image, image), (self.sample, sample), (self.rank, rank)))
        order = (image * (KEPT_NEIGHBOURS + 1) + rank).argsort(stable=True)
        image = image[order]
        position = torch.arange(len(image), device=image.device) - torch.searchsorted(image, image)
        keep = position < KEPT_CANDIDATES
        return CoveringPairs(image[keep], sample[order][keep], rank[order][keep])


class PointSet:
    """Points (N, F) whose squared distances are computed in blocks.

    In float32 the points are centred first.  float16 repeats the arithmetic of ADM's evaluator: points, norms and
    each step of |a|^2 - 2ab + |b|^2 are rounded to half precision, without centring.  A block that overflows in half
    precision is computed in float32.
    """

    def __init__(self, x_NF: Tensor, dtype: DistanceDtype, centre: Tensor | None = None) -> None:
        self.dtype = dtype
        self.centre = x_NF.mean(0) if centre is None else centre
        self.x = x_NF - self.centre if dtype == "float32" else x_NF
        self.norms = torch.cat([part.square().sum(1) for part in self.x.split(BLOCK_SIZE)])
        self.blocks = [slice(i, min(i + BLOCK_SIZE, len(x_NF))) for i in range(0, len(x_NF), BLOCK_SIZE)]

    def squared_distances(self, rows: slice, other: PointSet, columns: slice) -> Tensor:
        """Compute the block (rows, columns); distances of equal points may be a rounding error below 0."""
        a, b = self.x[rows], other.x[columns]
        if self.dtype == "float16":
            half = _half_squared_distances(a, b)
            if half.isfinite().all():
                return half
        return torch.addmm(other.norms[columns], a, b.T, alpha=-2).add_(self.norms[rows, None])

    def nearest(self, k: int) -> tuple[Tensor, Tensor]:
        """Find the k nearest other points: squared distances (N, K), ascending, and their row numbers (N, K).

        float32 distances are at least RELATIVE_RESOLUTION times the squared norm.
        """
        distances = torch.full((len(self.x), k), torch.inf, device=self.x.device)
        neighbours = torch.zeros_like(distances, dtype=torch.int32)
        for i, rows in enumerate(self.blocks):
            for columns in self.blocks[i:]:
                block = self.squared_distances(rows, self, columns)
                if rows == columns:
                    block.fill_diagonal_(torch.inf)
                else:
                    _merge_nearest(distances, neighbours, columns, block.T, rows.start)
                _merge_nearest(distances, neighbours, rows, block, columns.start)
        distances.clamp_(min=0)
        if self.dtype == "float32":
            distances = distances.maximum(RELATIVE_RESOLUTION * self.norms[:, None])
        return distances, neighbours


def _merge_nearest(distances_NK: Tensor, neighbours_NK: Tensor, rows: slice, block: Tensor, first: int) -> None:
    """Update the k nearest of some rows, in place, by a block of distances to the points from `first` on."""
    k = distances_NK.shape[1]
    candidates = block.topk(min(k, block.shape[1]), dim=1, largest=False)
    values = torch.cat([distances_NK[rows], candidates.values], dim=1)
    best = values.topk(k, dim=1, largest=False)
    indices = torch.cat([neighbours_NK[rows], (candidates.indices + first).int()], dim=1)
    distances_NK[rows], neighbours_NK[rows] = best.values, indices.gather(1, best.indices)


def _half_squared_distances(a_NF: Tensor, b_MF: Tensor) -> Tensor:
    a, b = a_NF.half(), b_MF.half()
    norm_a, norm_b = (x.square().float().sum(1).half() for x in (a, b))
    products = (2 * (a.float() @ b.float().T)).half()
    return ((norm_a[:, None] - products) + norm_b).clamp(min=0).float()


def compute_precision_recall(
    real_MF: Tensor, fake_NF: Tensor, *, k: int = 3, dtype: DistanceDtype = "float32", resamples: int = 0
) -> PrecisionRecall:
    """Compute precision and recall of float32 features (N, F) against (M, F), on the device that holds them.

    If `resamples` is not 0, the standard error of the recall is computed too.  ValueError if a set has at most k
    rows or the widths differ.
    """
    _check(real_MF, fake_NF, k)
    near_NK, neighbours = PointSet(fake_NF, dtype).nearest(min(KEPT_NEIGHBOURS, len(fake_NF) - 1) if resamples else k)
    real = PointSet(real_MF, dtype)
    real_radii = real.nearest(k)[0][:, k - 1]
    fake = PointSet(fake_NF, dtype, centre=real.centre)
    inside, covered, pairs = _memberships(fake, real, near_NK, k, real_radii)
    return PrecisionRecall(
        precision=_mean(inside),
        recall=_mean(covered),
        recall_error=bootstrap_recall_error(pairs, neighbours, len(real_MF), k, resamples) if resamples else None,
        real_radii=real_radii,
        fake_radii=near_NK[:, k - 1].clone(),
        inside=inside,
        covered=covered,
    )


def _memberships(
    fake: PointSet, real: PointSet, near_NK: Tensor, k: int, real_radii: Tensor
) -> tuple[Tensor, Tensor, CoveringPairs]:
    """Find the samples inside (N,), the reference images covered (M,), and the pairs that resamples need.

    Pairs are only collected if more than k neighbours are known.
    """
    inside = torch.zeros(len(fake.x), dtype=torch.bool, device=fake.x.device)
    covered, pairs = inside.new_zeros(len(real.x)), CoveringPairs.empty(inside.device)
    for rows in fake.blocks:
        for columns in real.blocks:
            block = fake.squared_distances(rows, real, columns)
            inside[rows] |= (block <= real_radii[columns]).any(1)
            covered[columns] |= (block <= near_NK[rows, k - 1, None]).any(0)
            if near_NK.shape[1] > k:
                i, j = (block <= near_NK[rows, -1:]).nonzero(as_tuple=True)
                rank = (near_NK[rows][i] < block[i, j, None]).sum(1)
                pairs = pairs.merge(j + columns.start, i + rows.start, rank)
    return inside, covered, pairs


def bootstrap_recall_error(
    pairs: CoveringPairs, neighbours_NK: Tensor, real_count: int, k: int, resamples: int
) -> float:
    """Bootstrap the standard error of the recall over the samples; a sample drawn twice counts once.

    A copy would be its own nearest neighbour at distance 0 and shrink the balls.  A resample is therefore the set
    of the n of N samples that were drawn, with its own radii.  Its spread is that of a delete-d jackknife, which
    is scaled by sqrt(n / (N - n)) (Shao and Wu 1989).
    """
    count, device, rng = len(neighbours_NK), neighbours_NK.device, np.random.default_rng(0)
    recalls, scales = [], []
    for _ in range(resamples):
        drawn = torch.zeros(count, dtype=torch.bool, device=device)
        drawn[torch.from_numpy(rng.integers(count, size=count)).to(device)] = True
        # Neighbours before the k-th drawn one.  A ball contains an image that has at most so many nearer neighbours.
        reach = (drawn[neighbours_NK.long()].cumsum(1) < k).sum(1)
        contains = drawn[pairs.sample] & (pairs.rank <= reach[pairs.sample])
        covered = torch.zeros(real_count, dtype=torch.bool, device=device)
        covered[pairs.image[contains]] = True
        recalls.append(_mean(covered))
        n = int(drawn.sum())
        scales.append(n / max(1, count - n))
    return float(np.std(recalls) * np.mean(scales) ** 0.5)


def _mean(flags: Tensor) -> float:
    return float(flags.double().mean())


def _check(real_MF: Tensor, fake_NF: Tensor, k: int) -> None:
    if real_MF.shape[1] != fake_NF.shape[1]:
        raise ValueError(
            f"features are {fake_NF.shape[1]} and {real_MF.shape[1]} wide; both sample sets need the same ones"
        )
    for name, x in (("reference images", real_MF), ("samples", fake_NF)):
        if len(x) <= k:
            raise ValueError(f"{len(x)} {name}; precision and recall with k = {k} need at least {k + 1}")
