"""Widths and depths that the equal-cost matcher may choose for a transformer.

The rules keep a solved configuration close to those of the papers: head sizes around 64 (around 32 below a
width of 256), and preferably a width of 24 to 72 times the depth (DiT: 32 to 64; U-ViT: 39 to 49).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .interface import Free

PAPER_ASPECT = 42.0
"""Geometric mean of width / depth over DiT S, B, L, XL and U-ViT S, M, L, H, rounded."""


def target_head_size(width: int) -> int:
    """Return the preferred head size for a width."""
    return 64 if width >= 256 else 32


def heads_for(width: int) -> int:
    """Return the number of heads that divides the width and gives the head size closest to the preferred one."""
    target = target_head_size(width)
    return min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(width / n - target))


def has_valid_heads(width: int) -> bool:
    """Whether the width allows a head size of 48 to 80, or of 16 to 64 below a width of 256."""
    low, high = (48, 80) if width >= 256 else (16, 64)
    return low <= width / heads_for(width) <= high


def widths_and_depths(depth_step: int = 1) -> Free:
    """Return depths 4 to 48 and all widths (multiples of 4; of 8 from 128 to 2304) that allow a valid head size."""
    return {
        "heads": (None,),
        "depth": range(4, 49, depth_step),
        "width": [w for w in (*range(32, 128, 4), *range(128, 2305, 8)) if has_valid_heads(w)],
    }


def aspect_distance(args: Mapping[str, Any]) -> float:
    """Return |log((width / depth) / PAPER_ASPECT)|: the distance of the aspect ratio from that of the papers."""
    return abs(math.log(args["width"] / args["depth"] / PAPER_ASPECT))
