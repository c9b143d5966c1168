"""One look for every picture, here and on the page: colours, markers, type.  Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, readable with colour-blind eyes."""
MARKERS = ("o", "s", "^", "D", "v", "P")
"""So that a series is known without its colour too."""
FAMILIES = {"dit": 0, "uvit": 1, "unet": 2}
"""Families keep their colour in every figure."""
GREY = "#6b6b6b"
FAINT = "#e4e4e4"

RC: Mapping[str, Any] = {
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
"""What matplotlib is told; svg text stays text, and the same figure is the same file."""


def rc() -> Any:
    """RC as matplotlib's rc_context takes it."""
    return dict(RC)


def places(names: Sequence[str]) -> list[int]:
    """Places in COLOURS and MARKERS: of families their own, where each has one series; of others what is left."""
    own = [FAMILIES.get(name.partition(" ")[0]) for name in names]
    known = [place for place in own if place is not None]
    if len(set(known)) < len(known):
        own = [None] * len(names)
    left = [place for place in range(len(COLOURS)) if place not in own] or [0]
    turn = cycle(left)
    return [next(turn) if place is None else place for place in own]


def ink(colour: str, share: float = 0.3) -> str:
    """A colour dark enough for text on white: so much of it black."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part * (1 - share)):02x}" for part in parts)
