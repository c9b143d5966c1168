"""Flags that bench.evaluate and bench.reference share.  Imports no torch."""

from __future__ import annotations

import argparse
from typing import get_args

from bench.config.metric_specs import FID_EXTRACTORS
from bench.config.schema import ProtocolName


def add_extraction_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select extractor, protocol and device."""
    inherited = "(default: that of the run or the data, else"
    parser.add_argument("--protocol", choices=get_args(ProtocolName), help=f"inception score {inherited} adm)")
    parser.add_argument("--extractor", choices=FID_EXTRACTORS, default="", help=f"features {inherited} Inception)")
    parser.add_argument(
        "--weights", default="", metavar="PATH", help="the extractor's weights (default: torch's cache)"
    )
    parser.add_argument("--skip-bad", action="store_true", help="skip unusable images, and list or count them")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="images at a time (default: 64)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def check_batch(batch: int) -> None:
    """ValueError for a --batch below 1."""
    if batch < 1:
        raise ValueError(f"--batch is {batch}; it must be at least 1")


def use_cuda(device: str) -> bool:
    """Return whether --device auto, cpu or cuda selects the GPU; ValueError for cuda on a machine without one."""
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ValueError("--device cuda, but torch sees no CUDA device; use --device cpu")
    return device != "cpu" and available
