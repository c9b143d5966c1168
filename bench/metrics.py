"""Metrics from features, each with its direction, sample count and 95 % interval.

FID (arXiv:1706.08500), IS (arXiv:1606.03498), precision and recall (arXiv:1904.06991, k = 3), all as
torch-fidelity computes them, and the accuracy of the labels that samples were made for.

N generated images, M real images, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import calculate_precision_recall_part

GROUPS = 20
METHOD = f"delete-group jackknife over the samples, {GROUPS} groups"

KINDS: dict[str, tuple[str, float, float]] = {
    "fid": ("lower", 0.0, float("inf")),
    "is": ("higher", 1.0, float("inf")),
    "precision": ("higher", 0.0, 1.0),
    "recall": ("higher", 0.0, 1.0),
    "class_accuracy": ("higher", 0.0, 1.0),
}
"""Metric -> direction, smallest and largest possible value."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What metrics are computed from."""

    features: Mapping[str, Tensor]
    """Layer -> (N, F) of the generated images."""
    real: Mapping[str, Tensor]
    """Layer -> (M, F) of the reference."""
    layers: Mapping[str, str]
    """Purpose -> layer."""
    labels: Tensor | None = None
    """(N,) labels the images were made for, where the extractor classifies."""


def frechet(a_NF: Tensor, statistics: Mapping[str, Any]) -> float:
    """Frechet distance of features to stored statistics {mu, sigma}."""
    made = fid_features_to_statistics(a_NF)
    return float(fid_statistics_to_metric(made, statistics, False)["frechet_inception_distance"])


def compute(sides: Sides, *, intervals: bool = True) -> dict[str, dict[str, Any]]:
    """{metric: {value, direction, samples, interval}}; intervals are None when not asked for.

    Raises ValueError when features hold NaN or there are fewer than 20 samples.
    """
    count = len(next(iter(sides.features.values())))
    if count < GROUPS:
        raise ValueError(f"{count} samples; the metrics and their intervals need at least {GROUPS}")
    for layer, found in (*sides.features.items(), *sides.real.items()):
        if not found.isfinite().all():
            raise ValueError(f"features {layer} hold NaN or infinity; the images or the weights are damaged")
    statistics = fid_features_to_statistics(sides.real[sides.layers["fid"]])
    whole = _values(sides, np.arange(count), statistics)
    groups = np.random.RandomState(0).permutation(count) % GROUPS  # labels come in cycles; groups must not
    parts = [_values(sides, np.flatnonzero(groups != g), statistics) for g in range(GROUPS)] if intervals else []
    result = {}
    for name, value in whole.items():
        direction, least, most = KINDS[name]
        interval = None
        if parts:
            low, high = jackknife_interval(value, [p[name] for p in parts])
            interval = {"low": max(low, least), "high": min(high, most), "method": METHOD}
        result[name] = {"value": value, "direction": direction, "samples": count, "interval": interval}
    return result


def jackknife_interval(value: float, left_out: list[float]) -> tuple[float, float]:
    """95 % interval from the values with one group left out: value -+ 1.96 jackknife deviations."""
    g, v = len(left_out), np.asarray(left_out)
    deviation = float(np.sqrt((g - 1) / g * np.square(v - v.mean()).sum()))
    return value - 1.96 * deviation, value + 1.96 * deviation


def _values(sides: Sides, rows: np.ndarray, statistics: Mapping[str, Any]) -> dict[str, float]:
    def take(purpose: str) -> Tensor:
        return sides.features[sides.layers[purpose]][rows]

    logits = take("is")
    precision, recall = calculate_precision_recall_part(take("prc"), sides.real[sides.layers["prc"]])
    values = {
        "fid": frechet(take("fid"), statistics),
        "is": float(isc_features_to_metric(logits)["inception_score_mean"]),
        "precision": precision,
        "recall": recall,
    }
    if sides.labels is not None:
        values["class_accuracy"] = float((logits.argmax(1) == sides.labels[rows]).float().mean())
    return values
