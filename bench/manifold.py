"""Improved precision and recall (arXiv:1904.06991, Algorithm 1), in blocks of bounded memory.

A set's manifold is the union of balls around its points, each reaching to the point's k-th neighbour.
Precision is the share of samples inside the reference's manifold, recall the share of reference
images inside the samples'.  Squared distances come from matrix products; a distance block within a
set serves its rows and its columns, and one between the sets serves precision and recall.

Neighbours are kept by group of samples, so that the manifolds with one group left out, which a
jackknife needs, come from the same blocks.

N points, T tiles, K neighbours, G groups.
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
class Tile:
    """Some rows of a set, all of one group."""

    group: int
    rows: Tensor


@dataclass(frozen=True)
class Space:
    """How squared distances are measured: about which centre, and in which arithmetic.

    float16 is the published evaluator's: rows, norms and each step of |a|^2 - 2ab + |b|^2 rounded to
    half precision, uncentred, with a block in float32 where that overflows.
    """

    centre: Tensor
    dtype: Precision

    def prepare(self, x_NF: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and their squared norms."""
        x = x_NF - self.centre if self.dtype == "float32" else x_NF
        return x, x.square().sum(1)

    def squared(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
        """(A, B) squared distances; those of equal points may be a rounding error below 0."""
        if self.dtype == "float16":
            half = _half(a[0], b[0])
            if half.isfinite().all():
                return half
        return torch.addmm(b[1], a[0], b[0].T, alpha=-2).add_(a[1][:, None])

    def radii(self, nearest_NTK: Tensor, k: int, x_NF: Tensor) -> Tensor:
        """(N,) squared distance to the k-th of the neighbours, at least what float32 can tell from 0."""
        radii = nearest_NTK.flatten(1).topk(k, dim=1, largest=False).values[:, -1].clamp(min=0)
        if self.dtype == "float16":
            return radii
        return radii.maximum(RESOLUTION * torch.cat([self.prepare(part)[1] for part in x_NF.split(TILE)]))


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
    tiles = tile(len(fake_NF), groups)
    own = Space(fake_NF.mean(0), dtype)
    fake_near = nearest(fake_NF, tiles, k, own)
    space = Space(real_MF.mean(0), dtype)
    real_tiles = tile(len(real_MF), None)
    real_radii = space.radii(nearest(real_MF, real_tiles, k, space), k, real_MF)
    radii = own.radii(fake_near, k, fake_NF)
    count = 0 if groups is None else int(groups.max()) + 1
    without = [own.radii(_hide(fake_near, tiles, g), k, fake_NF) for g in range(count)]
    inside = torch.zeros(len(fake_NF), dtype=torch.bool, device=fake_NF.device)
    hits = torch.zeros(len(real_MF), len(tiles), dtype=torch.bool, device=fake_NF.device)
    grown = torch.zeros(len(real_MF), max(count, 1), dtype=torch.bool, device=fake_NF.device)
    for real_tile in real_tiles:
        b = space.prepare(real_MF[real_tile.rows])
        for t, fake_tile in enumerate(tiles):
            rows = fake_tile.rows
            distance = space.squared(space.prepare(fake_NF[rows]), b)
            inside[rows] |= (distance <= real_radii[real_tile.rows]).any(1)
            hits[real_tile.rows, t] = (distance <= radii[rows, None]).any(0)
            for g in range(count):
                larger = torch.nonzero(without[g][rows] > radii[rows]).flatten()
                if fake_tile.group != g and len(larger):
                    reach = without[g][rows[larger], None]
                    grown[real_tile.rows, g] |= (distance[larger] <= reach).any(0)
    parts = []
    for g in range(count):
        others = torch.tensor([t for t, tile_ in enumerate(tiles) if tile_.group != g])
        stay = torch.from_numpy(groups != g).to(inside.device)
        parts.append((_share(inside[stay]), _share(hits[:, others].any(1) | grown[:, g])))
    covered = hits.any(1)
    return Manifolds(
        precision=_share(inside),
        recall=_share(covered),
        left_out=parts,
        real_radii=real_radii,
        fake_radii=radii,
        inside=inside,
        covered=covered,
    )


def tile(count: int, groups: np.ndarray | None) -> list[Tile]:
    """All rows in tiles, none of two groups."""
    owner = np.zeros(count, int) if groups is None else groups
    rows = ((int(g), torch.from_numpy(np.flatnonzero(owner == g))) for g in np.unique(owner))
    return [Tile(g, part) for g, of_group in rows for part in of_group.split(TILE)]


def nearest(x_NF: Tensor, tiles: list[Tile], k: int, space: Space) -> Tensor:
    """(N, T, K) squared distances to the k nearest other points of each tile; infinity where it has fewer."""
    out = torch.full((len(x_NF), len(tiles), k), torch.inf, device=x_NF.device)
    for i, left in enumerate(tiles):
        a = space.prepare(x_NF[left.rows])
        for j, right in enumerate(tiles[i:], start=i):
            distance = space.squared(a, space.prepare(x_NF[right.rows]) if j > i else a)
            if i == j:
                distance.fill_diagonal_(torch.inf)
            else:
                _put(out, right.rows, i, distance.T, k)
            _put(out, left.rows, j, distance, k)
    return out


def _put(out_NTK: Tensor, rows: Tensor, t: int, distance: Tensor, k: int) -> None:
    k = min(k, distance.shape[1])
    out_NTK[rows, t, :k] = distance.topk(k, dim=1, largest=False).values


def _hide(nearest_NTK: Tensor, tiles: list[Tile], group: int) -> Tensor:
    hidden = nearest_NTK.clone()
    hidden[:, [t for t, tile_ in enumerate(tiles) if tile_.group == group]] = torch.inf
    return hidden


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def _check(real_MF: Tensor, fake_NF: Tensor, k: int) -> None:
    if real_MF.shape[1] != fake_NF.shape[1]:
        raise ValueError(f"features are {fake_NF.shape[1]} and {real_MF.shape[1]} wide; both sides need the same ones")
    for name, x in (("reference images", real_MF), ("samples", fake_NF)):
        if len(x) <= k:
            raise ValueError(f"{len(x)} {name}; precision and recall with k = {k} need at least {k + 1}")
