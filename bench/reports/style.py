"""Colours, markers and fonts of every figure, in files and on the page.  Imports only the standard library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

DEFAULT_GRID_MIB = 0.5
"""MiB of sample grids that the page embeds by default."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The palette of Okabe and Ito, which colour-blind readers can tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P")
"""One marker per colour, so that series are distinguishable without colour."""
FAMILIES = {"dit": 0, "uvit": 1, "unet": 2}
"""Family -> its index into COLOURS and MARKERS in every figure."""
GREY = "#6b6b6b"
FAINT = "#e4e4e4"

RC_PARAMS: Mapping[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "#333333",
    "ytick.labelcolor": "#333333",
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "legend.frameon": False,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "backbone-bench",
}
"""Settings of matplotlib.  SVG text stays text, and a fixed salt makes the SVG of a figure reproducible."""


def rc_params() -> Any:
    """Return RC_PARAMS in the type that matplotlib's rc_context takes."""
    return dict(RC_PARAMS)


def style_indices(names: Sequence[str]) -> list[int]:
    """Choose an index into COLOURS and MARKERS for each series.

    A family keeps its index if no two series belong to one family; the other series take the remaining indices.
    """
    indices = [FAMILIES.get(name.partition(" ")[0]) for name in names]
    families = [index for index in indices if index is not None]
    if len(set(families)) < len(families):
        indices = [None] * len(names)
    unused = cycle([index for index in range(len(COLOURS)) if index not in indices] or [0])
    return [next(unused) if index is None else index for index in indices]


def darken(colour: str, share: float = 0.3) -> str:
    """Mix a colour with a `share` of black, for text that is readable on white."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part * (1 - share)):02x}" for part in parts)
