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
WORST = 30.0
"""A covered pixel of another label counts as so many of data; one outside the axes as twice that."""


class Label(NamedTuple):
    """A text and the point that it names, in data coordinates."""

    text: str
    x: float
    y: float
    colour: str


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
    taken = np.empty((0, 4))
    for label in sorted(labels, key=lambda one: -len(one.text)):
        at = axes.transData.transform((label.x, label.y))
        best = min(_candidates(axes, label, at), key=lambda c: _cost(c, obstacles, taken, window))
        taken = np.vstack([taken, best.box])
        offset = (best.box[:2] - at) / dot
        leader = (
            dict(arrowstyle="-", color=label.colour, lw=0.5, shrinkA=0, shrinkB=3) if best.reach > REACH[1] else None
        )
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=tuple(offset),
            textcoords="offset points",
            fontsize=8,
            color=label.colour,
            arrowprops=leader if best.reach > REACH[1] else None,
        )
        text.set_in_layout(False)


class _Candidate(NamedTuple):
    box: np.ndarray
    reach: float


def _candidates(axes: Axes, label: Label, at: np.ndarray) -> list[_Candidate]:
    dot = axes.figure.dpi / 72
    probe = axes.text(0, 0, label.text, fontsize=8)
    size = probe.get_window_extent()
    probe.remove()
    half = np.array([size.width, size.height]) / 2
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
