"""Metrics from features, each with its direction, sample count and 95 % interval.

FID and sFID (arXiv:1706.08500, arXiv:2103.03841), the Frechet distance on DINOv2 features
(arXiv:2306.04675), IS (arXiv:1606.03498), KID (arXiv:1801.01401), precision and recall
(arXiv:1904.06991, k = 3), and the accuracy of the labels that samples were made for.

Two protocols, which differ in the inception score: `adm` takes consecutive chunks of 5,000 images in
file order, the last one as heavy as the others however short; `torch-fidelity` shuffles with seed 2020
and takes ten parts.  The latter also calls the library's own Frechet distance, whose rounding differs
where a covariance is singular.  ADM has no KID; both take torch-fidelity's.

N generated images, M real images, F features, K classes, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from bench.config.metric_specs import METRIC_SPECS as KINDS
from bench.config.metric_specs import DistanceDtype
from bench.config.schema import ProtocolName as ProtocolName
from bench.evaluation import uncertainty
from bench.evaluation.fid_infinity import extrapolate_fid
from bench.evaluation.frechet import Gaussian, fit_gaussian, frechet_distance, leave_group_out_distances
from bench.evaluation.precision_recall import compute_precision_recall

JACKKNIFE_GROUPS = 20
RESAMPLED = f"{uncertainty.RESAMPLES} resamples"
INTERVAL_METHODS = {
    **dict.fromkeys(
        ("fid", "sfid", "fd_dinov2"), f"delete-group jackknife over the samples, {JACKKNIFE_GROUPS} groups"
    ),
    "is": f"bootstrap over the samples, {RESAMPLED}",
    "kid": "bootstrap over the samples' terms",
    "precision": "bootstrap over the samples",
    "recall": f"bootstrap over the samples, duplicates once, {RESAMPLED}",
    "class_accuracy": "bootstrap over the samples",
}
"""Metric -> what its interval comes from (bench/evaluation/uncertainty.py)."""
IS_CHUNK = 5000
IS_SPLITS = 10
SHUFFLE_SEED = 2020
KID_SUBSETS, KID_SIZE = 100, 1000


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    """What is known of one side."""

    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Layer -> (N, F) float32 features."""
    fitted: Mapping[str, Gaussian] = field(default_factory=dict)
    """Layer -> statistics; they win over those of the rows, as in ADM's reference files."""
    count: int | None = None
    """Images; None where only statistics are known."""
    fits: dict[str, Gaussian] = field(default_factory=dict, init=False, repr=False)

    def gaussian(self, layer: str) -> Gaussian:
        """Statistics of a layer, found once."""
        if layer in self.fitted:
            return self.fitted[layer]
        if layer not in self.fits:
            self.fits[layer] = fit_gaussian(self.rows[layer])
        return self.fits[layer]

    def has(self, layer: str) -> bool:
        return layer in self.rows or layer in self.fitted


@dataclass(frozen=True, kw_only=True)
class MetricInputs:
    """What metrics are computed from, and how."""

    samples: SampleSet
    reference: SampleSet
    layers: Mapping[str, str]
    """Purpose (fid, sfid, fd_dinov2, is, kid, prc) -> layer."""
    labels: np.ndarray | None = None
    """(N,) labels the images were made for, where the extractor classifies."""
    protocol: ProtocolName = "adm"
    pr_dtype: DistanceDtype = "float32"
    kid_size: int | None = None
    """Images of a KID subset; None: 1,000, or half of the smaller side where that is less."""
    infinity: bool = False
    """Whether Frechet distances are also extrapolated to infinitely many samples."""
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class MetricEstimate:
    """A value, and its deviation over the samples where that was asked for."""

    value: float
    deviation: float | None = None
    infinity: dict[str, Any] | None = None
    """What `bench.infinity.extrapolate` gives."""


def compute_metrics(
    sides: MetricInputs, *, intervals: bool = True, wanted: Sequence[str] = tuple(KINDS)
) -> dict[str, dict[str, Any]]:
    """{metric: {value, direction, samples, interval}} of all that `missing` does not name.

    Intervals are None when not asked for.  Raises ValueError when features hold NaN, when there are
    fewer than 20 samples for intervals, or when a value is not a number.
    """
    _check(sides, intervals)
    count = sides.samples.count
    groups = None
    if intervals and count:  # labels come in cycles; groups must not
        groups = np.random.RandomState(0).permutation(count) % JACKKNIFE_GROUPS
    cannot, found = unavailable_metrics(sides), dict[str, MetricEstimate]()
    for purpose, measure in METRIC_FUNCTIONS.items():
        names = [n for n in METRICS_OF_PURPOSE[purpose] if n in wanted and n not in cannot]
        if names:
            given = measure(sides, sides.layers.get(purpose, ""), groups)
            found |= {name: given[name] for name in names}
    return {name: _metric(name, found[name], count) for name in KINDS if name in found}


def unavailable_metrics(sides: MetricInputs) -> dict[str, str]:
    """Metric -> why it cannot be measured from these sides."""
    reasons = {purpose: _lack(sides, purpose) for purpose in METRICS_OF_PURPOSE}
    return {name: reason for purpose, reason in reasons.items() if reason for name in METRICS_OF_PURPOSE[purpose]}


def _lack(sides: MetricInputs, purpose: str) -> str:
    """Why a purpose cannot be served; "" when it can."""
    if purpose == "class":
        return "" if sides.labels is not None else "no labels of the extractor's classes"
    if purpose not in sides.layers:
        return "the extractor has no features for it"
    layer, both = sides.layers[purpose], {"samples": sides.samples, "reference": sides.reference}
    if purpose in FRECHET_PURPOSES:
        lacking = [role for role, side in both.items() if not side.has(layer)]
        return f"neither images nor statistics for it in the {' and the '.join(lacking)}" if lacking else ""
    roles = ["samples"] if purpose == "is" else list(both)
    lacking = [role for role in roles if layer not in both[role].rows]
    if lacking:
        return f"no images in the {' and the '.join(lacking)}"
    least = {"is": IS_SPLITS if sides.protocol == "torch-fidelity" else 2}.get(purpose, 4)
    few = [f"{both[role].count} images in the {role}" for role in roles if (both[role].count or 0) < least]
    return f"{' and '.join(few)}; it needs {least}" if few else ""


def _frechet(name: str) -> Callable[[MetricInputs, str, np.ndarray | None], dict[str, MetricEstimate]]:
    def measure(sides: MetricInputs, layer: str, groups: np.ndarray | None) -> dict[str, MetricEstimate]:
        reference = sides.reference.gaussian(layer)
        if name == "fid" and sides.protocol == "torch-fidelity":
            value = _library_fid(sides.samples, sides.reference, layer)
        else:
            value = frechet_distance(sides.samples.gaussian(layer), reference)
        rows = sides.samples.rows.get(layer)
        if rows is None:
            return {name: MetricEstimate(value=value)}
        deviation = (
            None
            if groups is None
            else uncertainty.jackknife_standard_error(leave_group_out_distances(rows, groups, reference))
        )
        infinity = extrapolate_fid(rows, reference, deviation) if sides.infinity else None
        return {name: MetricEstimate(value=value, deviation=deviation, infinity=infinity)}

    return measure


def _library_fid(samples: SampleSet, reference: SampleSet, layer: str) -> float:
    """torch-fidelity's own distance, whose rounding is seen where there are fewer images than features."""
    both = (side.gaussian(layer) for side in (samples, reference))
    statistics = [{"mu": g.mu.astype(np.float32), "sigma": g.sigma} for g in both]
    return float(fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"])


def inception_score(p_NK: np.ndarray, protocol: ProtocolName = "adm", chunk: int = IS_CHUNK) -> float:
    """exp of the mean KL divergence of class probabilities from their mean, averaged over chunks.

    A probability of exactly zero makes it NaN, as in the published evaluator.
    """
    entropy_N = np.empty(len(p_NK))
    for rows in np.array_split(np.arange(len(p_NK)), -(-len(p_NK) // IS_CHUNK)):
        p = p_NK[rows].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy_N[rows] = (p * np.log(p)).sum(1)
    return _score(p_NK, entropy_N, _chunks(len(p_NK), protocol, chunk))


def _chunks(count: int, protocol: ProtocolName, chunk: int = IS_CHUNK) -> list[np.ndarray]:
    """The parts of the inception score."""
    if protocol == "torch-fidelity":
        shuffled = np.random.RandomState(SHUFFLE_SEED).permutation(count)
        return [shuffled[i * count // IS_SPLITS : (i + 1) * count // IS_SPLITS] for i in range(IS_SPLITS)]
    return [np.arange(i, min(i + chunk, count)) for i in range(0, count, chunk)]


def _score(p_NK: np.ndarray, entropy_N: np.ndarray, chunks: Sequence[np.ndarray]) -> float:
    scores = []
    for part in chunks:
        q = p_NK[part].mean(0, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            scores.append(np.exp(entropy_N[part].mean() - (q * np.log(q)).sum()))
    return float(np.mean(scores))


def _is(sides: MetricInputs, layer: str, groups: np.ndarray | None) -> dict[str, MetricEstimate]:
    logits = torch.from_numpy(sides.samples.rows[layer])
    p, entropy = np.empty(logits.shape), np.empty(len(logits))
    for rows in torch.arange(len(logits)).split(IS_CHUNK):
        log_p = logits[rows].double().log_softmax(1)
        p[rows] = log_p.exp().numpy()
        entropy[rows] = (log_p.exp() * log_p).sum(1).numpy()
    chunks = _chunks(len(p), sides.protocol)
    value = _score(p, entropy, chunks)
    return {
        "is": MetricEstimate(
            value=value, deviation=_when(groups, uncertainty.inception_score_standard_error, value, p, entropy, chunks)
        )
    }


def _when(groups: np.ndarray | None, deviation: Callable[..., float], *arguments: Any) -> float | None:
    return None if groups is None else deviation(*arguments)


def _kid(sides: MetricInputs, layer: str, groups: np.ndarray | None) -> dict[str, MetricEstimate]:
    """torch-fidelity's: the mean over 100 random subsets of both sides."""
    samples, real = sides.samples.rows[layer], sides.reference.rows[layer]
    least = min(len(samples), len(real))
    size = sides.kid_size or min(KID_SIZE, least // 2)
    if not 2 <= size <= least:
        raise ValueError(f"KID subsets of {size} images; they must have 2 to {least}, the images of the smaller side")
    found = kid_features_to_metric(
        torch.from_numpy(samples), torch.from_numpy(real), kid_subsets=KID_SUBSETS, kid_subset_size=size, verbose=False
    )
    deviation = _when(
        groups, uncertainty.kid_standard_error, samples, real, draw_kid_subsets(len(samples), len(real), size)
    )
    return {"kid": MetricEstimate(value=found["kernel_inception_distance_mean"], deviation=deviation)}


def draw_kid_subsets(samples: int, real: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers of torch-fidelity's subsets of both sides."""
    rng = np.random.RandomState(SHUFFLE_SEED)
    for _ in range(KID_SUBSETS):
        yield rng.choice(samples, size, replace=False), rng.choice(real, size, replace=False)


def _manifold(sides: MetricInputs, layer: str, groups: np.ndarray | None) -> dict[str, MetricEstimate]:
    real, fake = (torch.from_numpy(s.rows[layer]).to(sides.device) for s in (sides.reference, sides.samples))
    resamples = 0 if groups is None else uncertainty.RESAMPLES
    found = compute_precision_recall(real, fake, dtype=sides.pr_dtype, resamples=resamples)
    inside = found.inside.cpu().numpy()
    return {
        "precision": MetricEstimate(
            value=found.precision, deviation=_when(groups, uncertainty.proportion_standard_error, inside)
        ),
        "recall": MetricEstimate(value=found.recall, deviation=found.deviation),
    }


def _accuracy(sides: MetricInputs, _: str, groups: np.ndarray | None) -> dict[str, MetricEstimate]:
    assert sides.labels is not None
    right = sides.samples.rows[sides.layers["is"]].argmax(1) == sides.labels
    return {
        "class_accuracy": MetricEstimate(
            value=float(right.mean()), deviation=_when(groups, uncertainty.proportion_standard_error, right)
        )
    }


METRIC_FUNCTIONS: dict[str, Callable[[MetricInputs, str, np.ndarray | None], dict[str, MetricEstimate]]] = {
    "fid": _frechet("fid"),
    "sfid": _frechet("sfid"),
    "fd_dinov2": _frechet("fd_dinov2"),
    "is": _is,
    "kid": _kid,
    "prc": _manifold,
    "class": _accuracy,
}
"""Purpose -> function of (sides, layer, groups or None)."""
METRICS_OF_PURPOSE = {
    **{p: (p,) for p in METRIC_FUNCTIONS},
    "prc": ("precision", "recall"),
    "class": ("class_accuracy",),
}
"""Purpose -> the metrics it gives."""
FRECHET_PURPOSES = ("fid", "sfid", "fd_dinov2")
"""Purposes that mean and covariance are enough for."""


def _metric(name: str, found: MetricEstimate, count: int | None) -> dict[str, Any]:
    direction, least, most = KINDS[name]
    value, interval = float(found.value), None
    if not np.isfinite(value):
        raise ValueError(f"{name} is {value}; the features are damaged or degenerate")
    if found.deviation is not None:
        reach = uncertainty.Z_95 * found.deviation
        interval = {
            "low": max(value - reach, least),
            "high": min(value + reach, most),
            "method": INTERVAL_METHODS[name],
        }
    plain = {"value": value, "direction": direction, "samples": count, "interval": interval}
    return plain | ({"infinity": found.infinity} if found.infinity else {})


def _check(sides: MetricInputs, intervals: bool) -> None:
    count = sides.samples.count
    if count is not None and intervals and count < JACKKNIFE_GROUPS:
        raise ValueError(f"{count} samples; the metrics and their intervals need at least {JACKKNIFE_GROUPS}")
    for side in (sides.samples, sides.reference):
        for layer, rows in side.rows.items():
            if not all(bool(np.isfinite(rows[i : i + IS_CHUNK]).all()) for i in range(0, len(rows), IS_CHUNK)):
                raise ValueError(f"features {layer} hold NaN or infinity; the images or the weights are damaged")


def as_rows(features: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Features as compute takes them."""
    return {layer: x.numpy() for layer, x in features.items()}
