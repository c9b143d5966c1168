"""Improved precision and recall (arXiv:1904.06991, Algorithm 1), in blocks of bounded memory.

A set's manifold is the union of balls around its points, each reaching to the point's k-th neighbour.
Precision is the share of samples inside the reference's manifold, recall the share of reference
images inside the samples'.  Squared distances come from matrix products; a distance block within a
set serves its rows and its columns, and one between the sets serves precision and recall.

A resample of the samples has other balls: without some of its neighbours a point reaches further.  Its
recall comes from the same blocks, by keeping more neighbours of each sample than k, and for each
reference image the samples whose ball may come to hold it.

N points, K neighbours, L candidates, B resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.config.metric_specs import DistanceDtype

BLOCK_SIZE = 2500
"""Most rows or columns of one block of distances (25 MB)."""
RELATIVE_RESOLUTION = 2e-6
"""Squared distances below this share of the squared norms are rounding: such points are the same."""
KEPT_NEIGHBOURS = 24
"""Kept for resamples: of 24 points all but 2 are missing from a resample once in 10^8."""
KEPT_CANDIDATES = 16
"""Kept for each reference image, those first whose ball holds it soonest."""


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """What was found."""

    precision: float
    recall: float
    deviation: float | None = None
    """Of the recall, over resamples of the samples."""
    real_radii: Tensor
    """(M,) squared."""
    fake_radii: Tensor
    """(N,) squared."""
    inside: Tensor
    """(N,) bool: samples in the reference's manifold."""
    covered: Tensor
    """(M,) bool: reference images in the samples' manifold."""


@dataclass(frozen=True)
class CoveringPairs:
    """Samples whose ball holds a reference image, or may in a resample; (P,) each."""

    image: Tensor
    sample: Tensor
    rank: Tensor
    """Neighbours of the sample that are nearer to it than the image is."""

    @classmethod
    def none(cls, device: torch.device) -> CoveringPairs:
        return cls(*(torch.zeros(0, dtype=torch.long, device=device) for _ in range(3)))

    def with_more(self, image: Tensor, sample: Tensor, rank: Tensor) -> CoveringPairs:
        """The L of lowest rank for each image, of these and others."""
        image, sample, rank = (torch.cat(p) for p in ((self.image, image), (self.sample, sample), (self.rank, rank)))
        order = (image * (KEPT_NEIGHBOURS + 1) + rank).argsort(stable=True)
        image = image[order]
        place = torch.arange(len(image), device=image.device) - torch.searchsorted(image, image)
        keep = place < KEPT_CANDIDATES
        return CoveringPairs(image[keep], sample[order][keep], rank[order][keep])


class PointSet:
    """A set of points about a centre, measured in blocks.

    float16 is the published evaluator's arithmetic: rows, norms and each step of |a|^2 - 2ab + |b|^2
    rounded to half precision, uncentred, with a block in float32 where that overflows.
    """

    def __init__(self, x_NF: Tensor, dtype: DistanceDtype, centre: Tensor | None = None) -> None:
        self.dtype = dtype
        self.centre = x_NF.mean(0) if centre is None else centre
        self.x = x_NF - self.centre if dtype == "float32" else x_NF
        self.norms = torch.cat([part.square().sum(1) for part in self.x.split(BLOCK_SIZE)])
        self.blocks = [slice(i, min(i + BLOCK_SIZE, len(x_NF))) for i in range(0, len(x_NF), BLOCK_SIZE)]

    def squared(self, rows: slice, other: PointSet, columns: slice) -> Tensor:
        """(rows, columns) squared distances; those of equal points may be a rounding error below 0."""
        a, b = self.x[rows], other.x[columns]
        if self.dtype == "float16":
            half = _half(a, b)
            if half.isfinite().all():
                return half
        return torch.addmm(other.norms[columns], a, b.T, alpha=-2).add_(self.norms[rows, None])

    def nearest(self, k: int) -> tuple[Tensor, Tensor]:
        """(N, K) squared distances to the k nearest other points, ascending, and their places.

        No distance is below what float32 can tell from 0.
        """
        out = torch.full((len(self.x), k), torch.inf, device=self.x.device)
        places = torch.zeros_like(out, dtype=torch.int32)
        for i, rows in enumerate(self.blocks):
            for columns in self.blocks[i:]:
                distance = self.squared(rows, self, columns)
                if rows == columns:
                    distance.fill_diagonal_(torch.inf)
                else:
                    _keep(out, places, columns, distance.T, rows.start)
                _keep(out, places, rows, distance, columns.start)
        out.clamp_(min=0)
        return (out if self.dtype == "float16" else out.maximum(RELATIVE_RESOLUTION * self.norms[:, None])), places


def _keep(out_NK: Tensor, places_NK: Tensor, rows: slice, distance: Tensor, origin: int) -> None:
    """Put a block's nearest among those kept."""
    k = out_NK.shape[1]
    found = distance.topk(min(k, distance.shape[1]), dim=1, largest=False)
    both = torch.cat([out_NK[rows], found.values], dim=1)
    best = both.topk(k, dim=1, largest=False)
    places = torch.cat([places_NK[rows], (found.indices + origin).int()], dim=1)
    out_NK[rows], places_NK[rows] = best.values, places.gather(1, best.indices)


def _half(a_NF: Tensor, b_NF: Tensor) -> Tensor:
    a, b = a_NF.half(), b_NF.half()
    norm_a, norm_b = (x.square().float().sum(1).half() for x in (a, b))
    products = (2 * (a.float() @ b.float().T)).half()
    return ((norm_a[:, None] - products) + norm_b).clamp(min=0).float()


def compute_precision_recall(
    real_MF: Tensor, fake_NF: Tensor, *, k: int = 3, dtype: DistanceDtype = "float32", resamples: int = 0
) -> PrecisionRecall:
    """Precision and recall of samples against a reference; float32, on the device the features are on.

    With `resamples`, also the recall's deviation.  ValueError where a set has k rows or fewer, or the
    widths differ.
    """
    _check(real_MF, fake_NF, k)
    near, places = PointSet(fake_NF, dtype).nearest(min(KEPT_NEIGHBOURS, len(fake_NF) - 1) if resamples else k)
    real = PointSet(real_MF, dtype)
    real_radii = real.nearest(k)[0][:, k - 1]
    fake = PointSet(fake_NF, dtype, centre=real.centre)
    inside, covered, pairs = _between(fake, real, near, k, real_radii)
    return PrecisionRecall(
        precision=_share(inside),
        recall=_share(covered),
        deviation=bootstrap_recall_error(pairs, places, len(real_MF), k, resamples) if resamples else None,
        real_radii=real_radii,
        fake_radii=near[:, k - 1].clone(),
        inside=inside,
        covered=covered,
    )


def _between(
    fake: PointSet, real: PointSet, near_NK: Tensor, k: int, real_radii: Tensor
) -> tuple[Tensor, Tensor, CoveringPairs]:
    """(N,) samples inside the reference's manifold; (M,) reference images in the samples'; whose they may be.

    Pairs are only looked for where more than k neighbours are known.
    """
    inside = torch.zeros(len(fake.x), dtype=torch.bool, device=fake.x.device)
    covered, pairs = inside.new_zeros(len(real.x)), CoveringPairs.none(inside.device)
    for rows in fake.blocks:
        for columns in real.blocks:
            distance = fake.squared(rows, real, columns)
            inside[rows] |= (distance <= real_radii[columns]).any(1)
            covered[columns] |= (distance <= near_NK[rows, k - 1, None]).any(0)
            if near_NK.shape[1] > k:
                i, j = (distance <= near_NK[rows, -1:]).nonzero(as_tuple=True)
                rank = (near_NK[rows][i] < distance[i, j, None]).sum(1)
                pairs = pairs.with_more(j + columns.start, i + rows.start, rank)
    return inside, covered, pairs


def bootstrap_recall_error(pairs: CoveringPairs, places_NK: Tensor, images: int, k: int, resamples: int) -> float:
    """Deviation of the recall over bootstrap resamples of the samples, a sample drawn twice being one.

    A copy would be its own nearest neighbour, at distance 0, and shrink the balls; so a resample is
    the set of the n of N samples that were drawn, with radii of its own, and its spread is
    that of a delete-d jackknife: times sqrt(n / (N - n)) (Shao and Wu 1989).
    """
    count, device, rng = len(places_NK), places_NK.device, np.random.default_rng(0)
    recalls, scale = [], []
    for _ in range(resamples):
        drawn = torch.zeros(count, dtype=torch.bool, device=device)
        drawn[torch.from_numpy(rng.integers(count, size=count)).to(device)] = True
        # The k-th neighbour drawn: an image is in the ball when no more neighbours are nearer than those before it.
        reach = (drawn[places_NK.long()].cumsum(1) < k).sum(1)
        holds = drawn[pairs.sample] & (pairs.rank <= reach[pairs.sample])
        covered = torch.zeros(images, dtype=torch.bool, device=device)
        covered[pairs.image[holds]] = True
        recalls.append(_share(covered))
        n = int(drawn.sum())
        scale.append(n / max(1, count - n))
    return float(np.std(recalls) * np.mean(scale) ** 0.5)


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def _check(real_MF: Tensor, fake_NF: Tensor, k: int) -> None:
    if real_MF.shape[1] != fake_NF.shape[1]:
        raise ValueError(f"features are {fake_NF.shape[1]} and {real_MF.shape[1]} wide; both sides need the same ones")
    for name, x in (("reference images", real_MF), ("samples", fake_NF)):
        if len(x) <= k:
            raise ValueError(f"{len(x)} {name}; precision and recall with k = {k} need at least {k + 1}")
