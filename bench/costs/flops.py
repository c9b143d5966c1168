"""FLOPs from multiply-accumulates (MACs).  Imports no torch."""

from __future__ import annotations

from typing import TypeVar

Count = TypeVar("Count", int, float)

FLOPS_PER_MAC = 2
"""A multiplication and an addition."""
FORWARD_PASSES = 3
"""Cost of a training step in forward passes: one forward, and a backward of twice its cost."""


def forward_flops(macs: Count) -> Count:
    """FLOPs of a forward pass, from its MACs."""
    return FLOPS_PER_MAC * macs


def training_flops(macs: Count, images: Count) -> Count:
    """FLOPs of training on `images` images, from the MACs of one image's forward pass; excludes recomputation."""
    return FORWARD_PASSES * FLOPS_PER_MAC * macs * images
