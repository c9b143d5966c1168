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


def has_heads(width: int) -> bool:
    """Whether some head size within a quarter of the aim divides the width."""
    aim = head_size(width)
    return any(width % n == 0 and 0.75 <= width / n / aim <= 1.25 for n in range(1, width // 16 + 2))


def widths_and_depths(depth_step: int = 1) -> Free:
    """Depths 2 to 48 and every width (multiple of 8, up to 2304) with a fitting head size."""
    return {
        "depth": range(2, 49, depth_step),
        "width": [w for w in range(32, 2305, 8) if has_heads(w)],
    }


def aspect_distance(args: Mapping[str, Any]) -> float:
    """How far width / depth is from the papers', as a factor's logarithm; 0 is the papers' own."""
    return abs(math.log(args["width"] / args["depth"] / PAPER_ASPECT))
