"""Labels beside their points, where they cover neither each other nor the data.  Imports no torch.

Boxes are (left, bottom, right, top) in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

REACH = (6, 12, 20, 30, 44)
"""Distances in points at which a label is tried; beyond the second a hairline leads to it."""
ANGLES = np.deg2rad((0, 45, -45, 90, -90, 135, -135, 180))
SIDE = 30.0
"""Pixels that ends of lines may differ across and still be side by side."""
WORST = 30.0
"""A covered pixel of another label counts as so many of data; one outside the axes as twice that."""


class Label(NamedTuple):
    """A text and the point that it names, in data coordinates."""

    text: str
    x: float
    y: float
    colour: str
    end: bool = False
    """Whether it names a line at its end: those that end side by side stand in one column."""


def place(
    axes: Axes, labels: Sequence[Label], points: Iterable[tuple[float, float]], lines: Iterable[Any] = ()
) -> None:
    """Draw labels; `points` and `lines` (pairs of arrays) in data coordinates are kept free.

    The figure must have been laid out, as pixels are measured.
    """
    dot = axes.figure.dpi / 72
    marks = axes.transData.transform(list(points) or np.empty((0, 2)))
    data = [np.column_stack([marks - 4 * dot, marks + 4 * dot])]
    for xs, ys in lines:
        data.append(_along(axes.transData.transform(np.column_stack([xs, ys])), 5 * dot))
    obstacles, window = np.concatenate(data), axes.get_window_extent()
    column = _column(axes, [label for label in labels if label.end])
    taken = np.array([box for _, box in column]).reshape(-1, 4)
    for label, box in column:
        _draw(axes, label, box[:2], leader=False)
    for label in sorted(set(labels) - {one for one, _ in column}, key=lambda one: (-len(one.text), one)):
        at = axes.transData.transform((label.x, label.y))
        best = min(_candidates(axes, label, at), key=lambda c: _cost(c, obstacles, taken, window))
        taken = np.vstack([taken, best.box])
        _draw(axes, label, best.box[:2], leader=best.reach > REACH[1])


def _draw(axes: Axes, label: Label, corner: np.ndarray, *, leader: bool) -> None:
    offset = (corner - axes.transData.transform((label.x, label.y))) / (axes.figure.dpi / 72)
    text = axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=tuple(offset),
        textcoords="offset points",
        fontsize=8,
        color=label.colour,
        arrowprops=dict(arrowstyle="-", color=label.colour, lw=0.5, shrinkA=0, shrinkB=3) if leader else None,
    )
    text.set_in_layout(False)


def _column(axes: Axes, ends: Sequence[Label]) -> list[tuple[Label, np.ndarray]]:
    """Labels and boxes to the right of lines that end side by side, in their order and pushed apart; [] of others."""
    at = {label: axes.transData.transform((label.x, label.y)) for label in ends}
    if len(ends) < 2 or np.ptp([xy[0] for xy in at.values()]) > SIDE:
        return []
    left, sizes = (
        max(xy[0] for xy in at.values()) + REACH[0] * axes.figure.dpi / 72,
        {la: _size(axes, la) for la in ends},
    )
    height = max(size[1] for size in sizes.values())
    groups = [[label] for label in sorted(ends, key=lambda one: at[one][1])]

    def middle(group: list[Label]) -> float:
        return float(np.mean([at[one][1] for one in group]))

    def reach(group: list[Label]) -> float:
        return height * len(group) / 2

    while crowded := [i for i, (a, b) in enumerate(pairwise(groups)) if middle(b) - middle(a) < reach(a) + reach(b)]:
        groups[crowded[0] : crowded[0] + 2] = [groups[crowded[0]] + groups[crowded[0] + 1]]
    found = []
    for group in groups:
        for place, label in enumerate(group):
            low = middle(group) - reach(group) + place * height
            found.append((label, np.array([left, low, left + sizes[label][0], low + height])))
    return found


def _size(axes: Axes, label: Label) -> np.ndarray:
    """Width and height of its text, in pixels."""
    probe = axes.text(0, 0, label.text, fontsize=8)
    size = probe.get_window_extent()
    probe.remove()
    return np.array([size.width, size.height])


class _Candidate(NamedTuple):
    box: np.ndarray
    reach: float


def _candidates(axes: Axes, label: Label, at: np.ndarray) -> list[_Candidate]:
    dot = axes.figure.dpi / 72
    half = _size(axes, label) / 2
    found = []
    for reach in REACH:
        for angle in ANGLES:
            way = np.array([np.cos(angle), np.sin(angle)])
            middle = at + way * (half + reach * dot)
            found.append(_Candidate(np.concatenate([middle - half, middle + half]), reach))
    return found


def _along(path: np.ndarray, step: float) -> np.ndarray:
    """Small boxes along a line of pixels."""
    boxes = []
    for start, end in pairwise(path):
        count = int(np.hypot(*(end - start)) / step) + 1
        middles = start + np.linspace(0, 1, min(count, 500))[:, None] * (end - start)
        boxes.append(np.column_stack([middles - step / 4, middles + step / 4]))
    return np.concatenate(boxes) if boxes else np.empty((0, 4))


def _cost(candidate: _Candidate, data: np.ndarray, taken: np.ndarray, window: Any) -> float:
    box = candidate.box
    area = (box[2] - box[0]) * (box[3] - box[1])
    inside = _covered(box, np.array([[window.x0, window.y0, window.x1, window.y1]]))
    return float(
        _covered(box, data) + WORST * _covered(box, taken) + 2 * WORST * (area - inside) + candidate.reach * 0.5
    )


def _covered(box: np.ndarray, others: np.ndarray) -> float:
    """Pixels that a box shares with others."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    return float((np.maximum(width, 0) * np.maximum(height, 0)).sum())
