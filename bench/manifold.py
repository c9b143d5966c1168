"""Improved precision and recall (arXiv:1904.06991, Algorithm 1), in blocks of bounded memory.

A set's manifold is the union of balls around its points, each reaching to the point's k-th neighbour.
Precision is the share of samples inside the reference's manifold, recall the share of reference
images inside the samples'.  Squared distances come from matrix products; a distance block within a
set serves its rows and its columns, and one between the sets serves precision and recall.

Neighbours are kept by group of samples, so that the manifolds with one group left out, which a
jackknife needs, come from the same blocks.

N points, T spans, K neighbours, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Precision = Literal["float32", "float16"]
TILE = 2500
"""Most rows or columns of one block of distances (25 MB)."""
RESOLUTION = 2e-6
"""Squared distances below this share of the squared norms are rounding: such points are the same."""


@dataclass(frozen=True, kw_only=True)
class Manifolds:
    """What was found."""

    precision: float
    recall: float
    left_out: list[tuple[float, float]] = field(default_factory=list)
    """[G] (precision, recall) with one group of samples left out."""
    real_radii: Tensor
    """(M,) squared."""
    fake_radii: Tensor
    """(N,) squared."""
    inside: Tensor
    """(N,) bool: samples in the reference's manifold."""
    covered: Tensor
    """(M,) bool: reference images in the samples' manifold."""


@dataclass(frozen=True)
class Span:
    """Consecutive rows of one group."""

    group: int
    start: int
    stop: int


class Cloud:
    """A set of points about a centre, its rows ordered by group and cut into blocks of whole or one group.

    float16 is the published evaluator's arithmetic: rows, norms and each step of |a|^2 - 2ab + |b|^2
    rounded to half precision, uncentred, with a block in float32 where that overflows.
    """

    def __init__(self, x_NF: Tensor, dtype: Precision, groups: np.ndarray | None, centre: Tensor | None = None) -> None:
        owner = np.zeros(len(x_NF), int) if groups is None else groups
        self.order = torch.from_numpy(np.argsort(owner, kind="stable")).to(x_NF.device)
        self.dtype = dtype
        self.centre = x_NF.mean(0) if centre is None else centre
        self.x = x_NF.clone() if groups is None else x_NF[self.order]
        if dtype == "float32":
            self.x -= self.centre
        self.norms = torch.cat([part.square().sum(1) for part in self.x.split(TILE)])
        ends = np.cumsum(np.bincount(owner))
        self.spans = [
            Span(g, start, min(start + TILE, int(end)))
            for g, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))
            for start in range(int(begin), int(end), TILE)
        ]
        self.blocks: list[list[int]] = [[]]
        for i, span in enumerate(self.spans):
            if self.blocks[-1] and span.stop - self.spans[self.blocks[-1][0]].start > TILE:
                self.blocks.append([])
            self.blocks[-1].append(i)

    def rows(self, block: list[int]) -> slice:
        return slice(self.spans[block[0]].start, self.spans[block[-1]].stop)

    def squared(self, rows: slice, other: Cloud, columns: slice) -> Tensor:
        """(rows, columns) squared distances; those of equal points may be a rounding error below 0."""
        a, b = self.x[rows], other.x[columns]
        if self.dtype == "float16":
            half = _half(a, b)
            if half.isfinite().all():
                return half
        return torch.addmm(other.norms[columns], a, b.T, alpha=-2).add_(self.norms[rows, None])

    def nearest(self, k: int) -> Tensor:
        """(N, T, K) squared distances to the k nearest other points of each span; infinity where it has fewer."""
        out = torch.full((len(self.x), len(self.spans), k), torch.inf, device=self.x.device)
        for i, left in enumerate(self.blocks):
            for right in self.blocks[i:]:
                rows, columns = self.rows(left), self.rows(right)
                distance = self.squared(rows, self, columns)
                if rows == columns:
                    distance.fill_diagonal_(torch.inf)
                else:
                    self._put(out, columns, left, distance.T, k)
                self._put(out, rows, right, distance, k)
        return out

    def _put(self, out_NTK: Tensor, rows: slice, block: list[int], distance: Tensor, k: int) -> None:
        origin = self.spans[block[0]].start
        for t in block:
            part = distance[:, self.spans[t].start - origin : self.spans[t].stop - origin]
            least = min(k, part.shape[1])
            out_NTK[rows, t, :least] = part.topk(least, dim=1, largest=False).values

    def radii(self, nearest_NTK: Tensor, k: int, without: int | None = None) -> Tensor:
        """(N,) squared distance to the k-th neighbour outside a group, at least what float32 can tell from 0."""
        keep = [t for t, span in enumerate(self.spans) if span.group != without]
        radii = nearest_NTK[:, keep].flatten(1).topk(k, dim=1, largest=False).values[:, -1].clamp(min=0)
        return radii if self.dtype == "float16" else radii.maximum(RESOLUTION * self.norms)

    def unsorted(self, values: Tensor) -> Tensor:
        """Values of the ordered rows in the order the rows came in."""
        return torch.empty_like(values).index_copy_(0, self.order, values)


def _half(a_NF: Tensor, b_NF: Tensor) -> Tensor:
    a, b = a_NF.half(), b_NF.half()
    norm_a, norm_b = (x.square().float().sum(1).half() for x in (a, b))
    products = (2 * (a.float() @ b.float().T)).half()
    return ((norm_a[:, None] - products) + norm_b).clamp(min=0).float()


def precision_recall(
    real_MF: Tensor, fake_NF: Tensor, *, k: int = 3, dtype: Precision = "float32", groups: np.ndarray | None = None
) -> Manifolds:
    """Precision and recall of samples against a reference; float32, on the device the features are on.

    With `groups`, (N,) integers from 0, also with each group of samples left out.  ValueError where
    a set has k rows or fewer, or the widths differ.
    """
    _check(real_MF, fake_NF, k)
    own = Cloud(fake_NF, dtype, groups)
    near = own.nearest(k)
    radii = own.radii(near, k)
    without = [own.radii(near, k, without=g) for g in range(0 if groups is None else int(groups.max()) + 1)]
    del own, near
    real = Cloud(real_MF, dtype, None)
    real_radii = real.radii(real.nearest(k), k)
    fake = Cloud(fake_NF, dtype, groups, centre=real.centre)
    inside, hits, grown = _between(fake, real, radii, real_radii, without)
    owner = None if groups is None else torch.from_numpy(groups).to(inside.device)[fake.order]
    parts = []
    for g in range(len(without)):
        others = [t for t, span in enumerate(fake.spans) if span.group != g]
        parts.append((_share(inside[owner != g]), _share(hits[:, others].any(1) | grown[:, g])))
    covered = hits.any(1)
    return Manifolds(
        precision=_share(inside),
        recall=_share(covered),
        left_out=parts,
        real_radii=real_radii,
        fake_radii=fake.unsorted(radii),
        inside=fake.unsorted(inside),
        covered=covered,
    )


def _between(
    fake: Cloud, real: Cloud, radii: Tensor, real_radii: Tensor, without: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Who is in whose balls.

    (N,) samples inside the reference's manifold; (M, T) reference images in a ball of a span of
    samples; (M, G) those that are only because the ball has grown without group g.
    """
    inside = torch.zeros(len(fake.x), dtype=torch.bool, device=fake.x.device)
    hits = inside.new_zeros(len(real.x), len(fake.spans))
    grown = inside.new_zeros(len(real.x), len(without))
    for block in fake.blocks:
        rows = fake.rows(block)
        larger = [_larger(fake, block, radii, reach, g) for g, reach in enumerate(without)]
        for real_block in real.blocks:
            columns = real.rows(real_block)
            distance = fake.squared(rows, real, columns)
            inside[rows] |= (distance <= real_radii[columns]).any(1)
            within = distance <= radii[rows, None]
            for t in block:
                span = fake.spans[t]
                hits[columns, t] = within[span.start - rows.start : span.stop - rows.start].any(0)
            for g, (which, reach) in enumerate(larger):
                grown[columns, g] |= (distance[which] <= reach).any(0)
    return inside, hits, grown


def _larger(fake: Cloud, block: list[int], radii: Tensor, reach: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Rows of a block, not of the group, whose ball is larger without it: (their places, their squared radii)."""
    rows = fake.rows(block)
    candidates = reach[rows] > radii[rows]
    for t in block:
        if fake.spans[t].group == group:
            candidates[fake.spans[t].start - rows.start : fake.spans[t].stop - rows.start] = False
    which = torch.nonzero(candidates).flatten()
    return which, reach[rows][which, None]


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def _check(real_MF: Tensor, fake_NF: Tensor, k: int) -> None:
    if real_MF.shape[1] != fake_NF.shape[1]:
        raise ValueError(f"features are {fake_NF.shape[1]} and {real_MF.shape[1]} wide; both sides need the same ones")
    for name, x in (("reference images", real_MF), ("samples", fake_NF)):
        if len(x) <= k:
            raise ValueError(f"{len(x)} {name}; precision and recall with k = {k} need at least {k + 1}")
