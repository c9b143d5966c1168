"""Shape rules: which widths and depths a transformer may take when the matcher chooses its size.

The rules keep a solved configuration near the papers' own: head sizes around 64 (around 32 below a
width of 256), and a width of 24 to 72 times the depth preferred (DiT: 32 to 64; U-ViT: 39 to 49).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .interface import Free

PAPER_ASPECT = 42.0
"""Geometric mean of width / depth over DiT S, B, L, XL and U-ViT S, M, L, H, rounded."""


def head_size(width: int) -> int:
    """Head size aimed at for a width."""
    return 64 if width >= 256 else 32


def heads_for(width: int) -> int:
    """The number of heads whose head size divides the width and is nearest to the aim."""
    aim = head_size(width)
    return min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(width / n - aim))


def has_heads(width: int) -> bool:
    """Whether a head size near the aim divides the width: 48 to 80, or 16 to 64 below 256."""
    low, high = (48, 80) if width >= 256 else (16, 64)
    return low <= width / heads_for(width) <= high


def widths_and_depths(depth_step: int = 1) -> Free:
    """Depths 4 to 48 and every width (multiples of 4, of 8 from 128 to 2304) with a fitting head size; heads follow."""
    return {
        "heads": (None,),
        "depth": range(4, 49, depth_step),
        "width": [w for w in (*range(32, 128, 4), *range(128, 2305, 8)) if has_heads(w)],
    }


def aspect_distance(args: Mapping[str, Any]) -> float:
    """How far width / depth is from the papers', as a factor's logarithm; 0 is the papers' own."""
    return abs(math.log(args["width"] / args["depth"] / PAPER_ASPECT))
