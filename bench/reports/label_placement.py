"""Labels beside their points: adjustText moves them until they cover neither each other nor the data.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from . import style

SIZE = 8
"""Font size, in points like all lengths below."""
MARKER, STEP = 4, 8
"""Half of the width that a marker occupies, and the distance between the boxes that stand for a line."""
REACH = 40
"""Distance from a label beyond which data cannot matter to it; adjustText's time grows with the square of the data."""
LEADER = 12
"""Least distance of a label from its point at which a hairline joins them."""
ITERATIONS = 100
"""A limit on iterations instead of adjustText's limit on time, so that the same figure is the same file."""
FORCE = (0.2, 0.4)
"""Repulsion by data, across and upwards: twice adjustText's default, which leaves labels on top of lines."""


class Label(NamedTuple):
    """A text and the point that it names, in data coordinates."""

    text: str
    x: float
    y: float
    colour: str
    end: bool = False
    """Whether it names a line at its end: it stays to the right of it and moves up and down only."""


def place(
    axes: Axes, labels: Sequence[Label], points: Iterable[tuple[float, float]], lines: Iterable[Any] = ()
) -> None:
    """Draw labels off `points`, `lines` (pairs of arrays) and the texts in the axes.

    All coordinates are data coordinates.  The figure must have been laid out, as distances are measured in pixels.
    """
    pixels, dot = axes.transData, axes.figure.dpi / 72
    marks = pixels.transform(list(points) or np.empty((0, 2)))
    boxes = [np.column_stack([marks - MARKER * dot, marks + MARKER * dot])]
    boxes += [_along(pixels.transform(np.column_stack(line)), STEP * dot) for line in lines]
    boxes += [_extents(axes.texts)]
    for ends in (True, False):
        group = [label for label in labels if label.end is ends]
        if group:
            boxes += [_extents(_adjusted(axes, group, np.concatenate(boxes), dot))]


def _adjusted(axes: Axes, labels: Sequence[Label], boxes: np.ndarray, dot: float) -> list[Text]:
    """Draw labels, all ends of lines or none, moved off boxes (N, 4): left, bottom, right and top in pixels."""
    ends = labels[0].end
    texts = [_text(axes, label) for label in labels]
    lower, upper = _extents(texts)[:, None, :2] - REACH * dot, _extents(texts)[:, None, 2:] + REACH * dot
    near = boxes[((boxes[:, 2:] > lower) & (boxes[:, :2] < upper)).all(-1).any(0)]
    to_data = axes.transData.inverted()
    # adjustText overlooks objects on an inverted axis, that of dot plots; labels start off their markers there.
    adjust_text(
        texts,
        objects=[Bbox(to_data.transform(box.reshape(2, 2))) for box in near] or None,
        target_x=[label.x for label in labels],
        target_y=[label.y for label in labels],
        ax=axes,
        avoid_self=False,
        force_static=FORCE,
        only_move="y" if ends else "xy",
        iter_lim=ITERATIONS,
        min_arrow_len=LEADER * dot,
        arrowprops=dict(arrowstyle="-", color=style.GREY, lw=0.5, shrinkA=0),
    )
    return texts


def _text(axes: Axes, label: Label) -> Text:
    """Draw a label at its first position: to the right of the end of a line, above and beside a point."""
    dot, across = axes.figure.dpi / 72, 7 if label.end else 3
    x, y = axes.transData.transform((label.x, label.y))
    left, low = axes.transData.inverted().transform((x + across * dot, y + (0 if label.end else across * dot)))
    text = axes.text(left, low, label.text, fontsize=SIZE, color=label.colour, va="center" if label.end else "bottom")
    if not label.end and text.get_window_extent().x1 > axes.get_window_extent().x1:
        text.set(x=axes.transData.inverted().transform((x - across * dot, y))[0], ha="right")
    return text


def _extents(texts: Iterable[Text]) -> np.ndarray:
    return np.array([text.get_window_extent().extents for text in texts]).reshape(-1, 4)


def _along(path: np.ndarray, step: float) -> np.ndarray:
    """Cover a line of pixels (N, 2) with small boxes (M, 4)."""
    boxes = [np.empty((0, 4))]
    for start, end in pairwise(path):
        count = min(int(np.hypot(*(end - start)) / step) + 1, 500)
        middles = start + np.linspace(0, 1, count)[:, None] * (end - start)
        boxes.append(np.column_stack([middles - step / 4, middles + step / 4]))
    return np.concatenate(boxes)
