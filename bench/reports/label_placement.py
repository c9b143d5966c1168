"""Place labels beside their points with adjustText, so that they cover neither each other nor the data.

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

from bench.reports import style

LABEL_SIZE = 8
"""Font size in points, the unit of all lengths below."""
MARKER_RADIUS = 4
"""Half of the width that a marker occupies."""
LINE_STEP = 8
"""Distance between the boxes that cover a line."""
MAX_REACH = 40
"""Distance beyond which data is ignored for a label; adjustText's time grows with the square of the data."""
MIN_LEADER = 12
"""Minimum distance between a label and its point for a thin leader line to join them."""
MAX_ITERATIONS = 100
"""Limit on iterations, instead of adjustText's limit on time, so that a figure is reproducible."""
DATA_FORCE = (0.2, 0.4)
"""Horizontal and vertical repulsion by data: twice adjustText's default, which leaves labels on top of lines."""


class Label(NamedTuple):
    """A text and its point in data coordinates."""

    text: str
    x: float
    y: float
    colour: str
    end: bool = False
    """Whether the label names a line at its right end; it then moves only vertically."""


def place_labels(
    axes: Axes, labels: Sequence[Label], points: Iterable[tuple[float, float]], lines: Iterable[Any] = ()
) -> None:
    """Draw labels that avoid `points` (x, y), `lines` (pairs of arrays) and the texts already in the axes.

    All coordinates are data coordinates.  The figure must have a final layout: distances are measured in pixels.
    """
    to_pixels, scale = axes.transData, axes.figure.dpi / 72
    centres = to_pixels.transform(list(points) or np.empty((0, 2)))
    boxes = [np.column_stack([centres - MARKER_RADIUS * scale, centres + MARKER_RADIUS * scale])]
    boxes += [_cover_line(to_pixels.transform(np.column_stack(line)), LINE_STEP * scale) for line in lines]
    boxes += [_extents(axes.texts)]
    for end in (True, False):
        group = [label for label in labels if label.end is end]
        if group:
            boxes += [_extents(_adjust(axes, group, np.concatenate(boxes), scale))]


def _adjust(axes: Axes, labels: Sequence[Label], boxes: np.ndarray, scale: float) -> list[Text]:
    """Draw labels, either all or none at line ends, and move them off boxes (N, 4): left, bottom, right, top in px."""
    texts = [_draw_text(axes, label) for label in labels]
    lower, upper = _extents(texts)[:, None, :2] - MAX_REACH * scale, _extents(texts)[:, None, 2:] + MAX_REACH * scale
    near = boxes[((boxes[:, 2:] > lower) & (boxes[:, :2] < upper)).all(-1).any(0)]
    to_data = axes.transData.inverted()
    # adjustText ignores objects on an inverted axis, as in dot plots; there labels keep their first position.
    adjust_text(
        texts,
        objects=[Bbox(to_data.transform(box.reshape(2, 2))) for box in near] or None,
        target_x=[label.x for label in labels],
        target_y=[label.y for label in labels],
        ax=axes,
        avoid_self=False,
        force_static=DATA_FORCE,
        only_move="y" if labels[0].end else "xy",
        iter_lim=MAX_ITERATIONS,
        min_arrow_len=MIN_LEADER * scale,
        arrowprops=dict(arrowstyle="-", color=style.GREY, lw=0.5, shrinkA=0),
    )
    return texts


def _draw_text(axes: Axes, label: Label) -> Text:
    """Draw a label at its first position: right of a line's end, or above and right of a point."""
    scale, offset = axes.figure.dpi / 72, 7 if label.end else 3
    x, y = axes.transData.transform((label.x, label.y))
    to_data = axes.transData.inverted()
    left, bottom = to_data.transform((x + offset * scale, y + (0 if label.end else offset * scale)))
    va = "center" if label.end else "bottom"
    text = axes.text(left, bottom, label.text, fontsize=LABEL_SIZE, color=label.colour, va=va)
    if not label.end and text.get_window_extent().x1 > axes.get_window_extent().x1:
        text.set(x=to_data.transform((x - offset * scale, y))[0], ha="right")
    return text


def _extents(texts: Iterable[Text]) -> np.ndarray:
    """Return the boxes of texts, (N, 4) in pixels."""
    return np.array([text.get_window_extent().extents for text in texts]).reshape(-1, 4)


def _cover_line(path: np.ndarray, step: float) -> np.ndarray:
    """Cover a line through pixels (N, 2) with small boxes (M, 4)."""
    boxes = [np.empty((0, 4))]
    for start, end in pairwise(path):
        count = min(int(np.hypot(*(end - start)) / step) + 1, 500)
        centres = start + np.linspace(0, 1, count)[:, None] * (end - start)
        boxes.append(np.column_stack([centres - step / 4, centres + step / 4]))
    return np.concatenate(boxes)
