"""ADM's published evaluation of two public files, as a regression test of this evaluator.

The files are openai/guided-diffusion's VIRTUAL_imagenet256_labeled.npz (the reference) and
admnet_guided_upsampled_imagenet256.npz (50,000 samples).  The targets are the values that the evaluator's
README prints.  Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TARGET = {
    "fid": 3.9425574129223264,
    "sfid": 6.140433703346162,
    "is": 215.8370361328125,
    "precision": 0.8265,
    "recall": 0.5309,
}
TOLERANCE = {"fid": 0.01, "sfid": 0.01, "is": 0.5, "precision": 0.003, "recall": 0.003}
"""Largest accepted absolute difference from a target.

These are our choice: about 0.25 % for another framework's arithmetic, and 0.003 for the last bits of half
precision, which depend on the device.  A wrong layer, resize or reference is off by far more.
"""


def check_against_target(metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare {metric: {value, ...}} with the targets; a metric that is missing fails.

    Returns [{metric, target, found, tolerance, ok}], where `found` is the measured value or None.
    """
    rows = []
    for name, target in TARGET.items():
        value = metrics[name]["value"] if name in metrics else None
        ok = value is not None and abs(value - target) <= TOLERANCE[name]
        rows.append({"metric": name, "target": target, "found": value, "tolerance": TOLERANCE[name], "ok": ok})
    return rows
