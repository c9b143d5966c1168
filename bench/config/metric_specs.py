"""Types of metrics: direction and range of their values.  Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

METRIC_SPECS: Mapping[str, tuple[str, float, float]] = {
    "fid": ("lower", 0.0, float("inf")),
    "sfid": ("lower", 0.0, float("inf")),
    "fd_dinov2": ("lower", 0.0, float("inf")),
    "is": ("higher", 1.0, float("inf")),
    "kid": ("lower", -float("inf"), float("inf")),
    "precision": ("higher", 0.0, 1.0),
    "recall": ("higher", 0.0, 1.0),
    "class_accuracy": ("higher", 0.0, 1.0),
}
"""Metric -> direction, smallest and largest possible value."""
FID_EXTRACTORS = ("inception-v3-compat", "digits-cnn", "shapes-cnn")
"""Feature extractors that FID is computed with."""
DistanceDtype = Literal["float32", "float16"]
"""Data type of the distances in precision and recall."""
ARROWS = {"lower": "↓", "higher": "↑"}
HEADLINE_TYPE = "fid"
"""Type of the metric that rows are ranked by."""


def metric_type(name: str) -> str:
    """Return the type of a metric, e.g. "fid" for fid[digits-cnn]."""
    return name.partition("[")[0]


def headline_metric(names: Mapping[str, object]) -> str:
    """Return the name of the metric that rows are ranked by; "" if there is none among `names`."""
    return next((name for name in names if metric_type(name) == HEADLINE_TYPE), "")
