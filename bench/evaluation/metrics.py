"""Metrics from features, each with its direction, sample count and 95 % interval.

FID (arXiv:1706.08500), sFID (arXiv:2103.03841), the Frechet distance on DINOv2 features (arXiv:2306.04675), the
inception score (arXiv:1606.03498), KID (arXiv:1801.01401), precision and recall (arXiv:1904.06991, k = 3), and the
accuracy of the labels that samples were conditioned on.

Two protocols differ in the inception score.  `adm` scores consecutive chunks of 5,000 images in file order; a last,
shorter chunk has the same weight.  `torch-fidelity` shuffles with seed 2020 and scores ten parts.  `torch-fidelity`
also uses the library's own Frechet distance for FID, whose rounding differs if a covariance is singular.  ADM's
evaluator has no KID; both protocols use torch-fidelity's.

A purpose (fid, sfid, fd_dinov2, is, kid, prc, class) names what a layer's features are used for.

N generated images, M real images, F features, K classes, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from bench.config.metric_specs import METRIC_SPECS, DistanceDtype
from bench.config.schema import ProtocolName
from bench.evaluation import uncertainty
from bench.evaluation.fid_infinity import extrapolate_fid
from bench.evaluation.frechet import Gaussian, fit_gaussian, frechet_distance, leave_group_out_distances
from bench.evaluation.precision_recall import compute_precision_recall

JACKKNIFE_GROUPS = 20
INTERVAL_METHODS = {
    **dict.fromkeys(
        ("fid", "sfid", "fd_dinov2"), f"delete-group jackknife over the samples, {JACKKNIFE_GROUPS} groups"
    ),
    "is": f"bootstrap over the samples, {uncertainty.RESAMPLES} resamples",
    "kid": "bootstrap over the samples' terms",
    "precision": "bootstrap over the samples",
    "recall": f"bootstrap over the samples, duplicates once, {uncertainty.RESAMPLES} resamples",
    "class_accuracy": "bootstrap over the samples",
}
"""Metric -> method of its interval (bench/evaluation/uncertainty.py), as records name it."""
IS_CHUNK = 5000
IS_SPLITS = 10
SHUFFLE_SEED = 2020
KID_SUBSETS, KID_SIZE = 100, 1000


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    """Features or statistics of one set of images: the generated samples, or the reference."""

    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Layer -> (N, F) float32."""
    statistics: Mapping[str, Gaussian] = field(default_factory=dict)
    """Layer -> mean and covariance.  They take precedence over the features, as in ADM's reference files."""
    count: int | None = None
    """Number of images; None if only statistics are known."""
    _fits: dict[str, Gaussian] = field(default_factory=dict, init=False, repr=False)

    def gaussian(self, layer: str) -> Gaussian:
        """Return the statistics of a layer, fitted once to its features if there are no others."""
        if layer in self.statistics:
            return self.statistics[layer]
        if layer not in self._fits:
            self._fits[layer] = fit_gaussian(self.features[layer])
        return self._fits[layer]

    def has(self, layer: str) -> bool:
        return layer in self.features or layer in self.statistics


@dataclass(frozen=True, kw_only=True)
class MetricInputs:
    """Two sample sets and the settings of their comparison."""

    samples: SampleSet
    reference: SampleSet
    layers: Mapping[str, str]
    """Purpose (fid, sfid, fd_dinov2, is, kid, prc) -> layer of the extractor."""
    labels: np.ndarray | None = None
    """(N,) classes that the samples were conditioned on; None if the extractor does not classify them."""
    protocol: ProtocolName = "adm"
    pr_dtype: DistanceDtype = "float32"
    kid_size: int | None = None
    """Images of a KID subset; None: 1,000, or half of the smaller sample set if that is less."""
    fid_infinity: bool = False
    """Whether Frechet distances are also extrapolated to infinitely many samples."""
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class MetricEstimate:
    """Value of a metric, and its standard error over the samples if that was requested."""

    value: float
    standard_error: float | None = None
    fid_infinity: dict[str, Any] | None = None
    """Result of `bench.evaluation.fid_infinity.extrapolate_fid`."""


def compute_metrics(
    inputs: MetricInputs, *, intervals: bool = True, wanted: Sequence[str] = tuple(METRIC_SPECS)
) -> dict[str, dict[str, Any]]:
    """Compute {metric: {value, direction, samples, interval}} for the wanted metrics that are available.

    An interval is {low, high, method}, or None if `intervals` is False.  With `inputs.fid_infinity`, Frechet
    distances also have `infinity`.  ValueError if features contain NaN, if intervals are requested for fewer than
    20 samples, or if a value is not finite.
    """
    _check_inputs(inputs, intervals)
    count = inputs.samples.count
    groups = None
    if intervals and count:  # shuffled: labels repeat in cycles, and a group must not hold one class only
        groups = np.random.RandomState(0).permutation(count) % JACKKNIFE_GROUPS
    unavailable, estimates = unavailable_metrics(inputs), dict[str, MetricEstimate]()
    for purpose, estimate in METRIC_FUNCTIONS.items():
        names = [n for n in METRICS_OF_PURPOSE[purpose] if n in wanted and n not in unavailable]
        if names:
            by_name = estimate(inputs, inputs.layers.get(purpose, ""), groups)
            estimates |= {name: by_name[name] for name in names}
    return {name: _metric_to_dict(name, estimates[name], count) for name in METRIC_SPECS if name in estimates}


def unavailable_metrics(inputs: MetricInputs) -> dict[str, str]:
    """Return {metric: reason} for the metrics that cannot be computed from these inputs."""
    reasons = {purpose: _unavailable_reason(inputs, purpose) for purpose in METRICS_OF_PURPOSE}
    return {name: reason for purpose, reason in reasons.items() if reason for name in METRICS_OF_PURPOSE[purpose]}


def _unavailable_reason(inputs: MetricInputs, purpose: str) -> str:
    """Say why a purpose is unavailable; "" if it is available."""
    if purpose == "class":
        return "" if inputs.labels is not None else "no labels of the extractor's classes"
    if purpose not in inputs.layers:
        return "the extractor has no features for it"
    layer, both = inputs.layers[purpose], {"samples": inputs.samples, "reference": inputs.reference}
    if purpose in FRECHET_PURPOSES:
        lacking = [role for role, sample_set in both.items() if not sample_set.has(layer)]
        return f"neither images nor statistics for it in the {' and the '.join(lacking)}" if lacking else ""
    roles = ["samples"] if purpose == "is" else list(both)
    lacking = [role for role in roles if layer not in both[role].features]
    if lacking:
        return f"no images in the {' and the '.join(lacking)}"
    least = {"is": IS_SPLITS if inputs.protocol == "torch-fidelity" else 2}.get(purpose, 4)
    few = [f"{both[role].count} images in the {role}" for role in roles if (both[role].count or 0) < least]
    return f"{' and '.join(few)}; it needs {least}" if few else ""


def _frechet_estimator(name: str) -> Callable[[MetricInputs, str, np.ndarray | None], dict[str, MetricEstimate]]:
    """Return the function that estimates one of the Frechet distances."""

    def estimate(inputs: MetricInputs, layer: str, groups: np.ndarray | None) -> dict[str, MetricEstimate]:
        reference = inputs.reference.gaussian(layer)
        if name == "fid" and inputs.protocol == "torch-fidelity":
            value = _torch_fidelity_fid(inputs.samples, inputs.reference, layer)
        else:
            value = frechet_distance(inputs.samples.gaussian(layer), reference)
        features = inputs.samples.features.get(layer)
        if features is None:
            return {name: MetricEstimate(value=value)}
        error = None
        if groups is not None:
            error = uncertainty.jackknife_standard_error(leave_group_out_distances(features, groups, reference))
        infinity = extrapolate_fid(features, reference, error) if inputs.fid_infinity else None
        return {name: MetricEstimate(value=value, standard_error=error, fid_infinity=infinity)}

    return estimate


def _torch_fidelity_fid(samples: SampleSet, reference: SampleSet, layer: str) -> float:
    """Compute torch-fidelity's own distance; its rounding is visible if there are fewer images than features."""
    both = (sample_set.gaussian(layer) for sample_set in (samples, reference))
    statistics = [{"mu": g.mu.astype(np.float32), "sigma": g.sigma} for g in both]
    return float(fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"])


def inception_chunks(count: int, protocol: ProtocolName = "adm", chunk: int = IS_CHUNK) -> list[np.ndarray]:
    """Split `count` images into the chunks of a protocol's inception score; returns row numbers."""
    if protocol == "torch-fidelity":
        shuffled = np.random.RandomState(SHUFFLE_SEED).permutation(count)
        return [shuffled[i * count // IS_SPLITS : (i + 1) * count // IS_SPLITS] for i in range(IS_SPLITS)]
    return [np.arange(i, min(i + chunk, count)) for i in range(0, count, chunk)]


def inception_score(p_NK: np.ndarray, entropy_N: np.ndarray, chunks: Sequence[np.ndarray]) -> float:
    """Compute exp of the mean KL divergence of class probabilities from their mean, averaged over chunks.

    `entropy_N` are the sums of p log p.  A probability of exactly 0 gives NaN, as in the published evaluator.
    """
    scores = []
    for part in chunks:
        q = p_NK[part].mean(0, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            scores.append(np.exp(entropy_N[part].mean() - (q * np.log(q)).sum()))
    return float(np.mean(scores))


def _inception_estimate(inputs: MetricInputs, layer: str, groups: np.ndarray | None) -> dict[str, MetricEstimate]:
    logits = torch.from_numpy(inputs.samples.features[layer])
    p, entropy = np.empty(logits.shape), np.empty(len(logits))
    for rows in torch.arange(len(logits)).split(IS_CHUNK):
        log_p = logits[rows].double().log_softmax(1)
        p[rows] = log_p.exp().numpy()
        entropy[rows] = (log_p.exp() * log_p).sum(1).numpy()
    chunks = inception_chunks(len(p), inputs.protocol)
    value, error = inception_score(p, entropy, chunks), None
    if groups is not None:
        error = uncertainty.inception_score_standard_error(value, p, entropy, chunks)
    return {"is": MetricEstimate(value=value, standard_error=error)}


def _kid_estimate(inputs: MetricInputs, layer: str, groups: np.ndarray | None) -> dict[str, MetricEstimate]:
    """Compute torch-fidelity's KID: the mean over 100 random subsets of both sample sets."""
    samples, real = inputs.samples.features[layer], inputs.reference.features[layer]
    least = min(len(samples), len(real))
    size = inputs.kid_size or min(KID_SIZE, least // 2)
    if not 2 <= size <= least:
        raise ValueError(
            f"KID subsets of {size} images; they must have 2 to {least}, the images of the smaller sample set"
        )
    value = kid_features_to_metric(
        torch.from_numpy(samples), torch.from_numpy(real), kid_subsets=KID_SUBSETS, kid_subset_size=size, verbose=False
    )["kernel_inception_distance_mean"]
    error = None
    if groups is not None:
        error = uncertainty.kid_standard_error(samples, real, draw_kid_subsets(len(samples), len(real), size))
    return {"kid": MetricEstimate(value=value, standard_error=error)}


def draw_kid_subsets(samples: int, real: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw torch-fidelity's subsets: row numbers of the samples and of the real images, (size,) each."""
    rng = np.random.RandomState(SHUFFLE_SEED)
    for _ in range(KID_SUBSETS):
        yield rng.choice(samples, size, replace=False), rng.choice(real, size, replace=False)


def _precision_recall_estimates(
    inputs: MetricInputs, layer: str, groups: np.ndarray | None
) -> dict[str, MetricEstimate]:
    real, fake = (torch.from_numpy(s.features[layer]).to(inputs.device) for s in (inputs.reference, inputs.samples))
    resamples = 0 if groups is None else uncertainty.RESAMPLES
    result = compute_precision_recall(real, fake, dtype=inputs.pr_dtype, resamples=resamples)
    error = None if groups is None else uncertainty.proportion_standard_error(result.inside.cpu().numpy())
    return {
        "precision": MetricEstimate(value=result.precision, standard_error=error),
        "recall": MetricEstimate(value=result.recall, standard_error=result.recall_error),
    }


def _accuracy_estimate(inputs: MetricInputs, _: str, groups: np.ndarray | None) -> dict[str, MetricEstimate]:
    assert inputs.labels is not None
    correct = inputs.samples.features[inputs.layers["is"]].argmax(1) == inputs.labels
    error = None if groups is None else uncertainty.proportion_standard_error(correct)
    return {"class_accuracy": MetricEstimate(value=float(correct.mean()), standard_error=error)}


METRIC_FUNCTIONS: dict[str, Callable[[MetricInputs, str, np.ndarray | None], dict[str, MetricEstimate]]] = {
    "fid": _frechet_estimator("fid"),
    "sfid": _frechet_estimator("sfid"),
    "fd_dinov2": _frechet_estimator("fd_dinov2"),
    "is": _inception_estimate,
    "kid": _kid_estimate,
    "prc": _precision_recall_estimates,
    "class": _accuracy_estimate,
}
"""Purpose -> function of (inputs, layer, jackknife groups or None) that returns {metric: estimate}."""
METRICS_OF_PURPOSE = {
    **{p: (p,) for p in METRIC_FUNCTIONS},
    "prc": ("precision", "recall"),
    "class": ("class_accuracy",),
}
"""Purpose -> its metrics."""
FRECHET_PURPOSES = ("fid", "sfid", "fd_dinov2")
"""Purposes that need only mean and covariance."""


def _metric_to_dict(name: str, estimate: MetricEstimate, count: int | None) -> dict[str, Any]:
    """Convert an estimate to its entry in a result or record; the interval stays within the metric's range."""
    direction, least, most = METRIC_SPECS[name]
    value, interval = float(estimate.value), None
    if not np.isfinite(value):
        raise ValueError(f"{name} is {value}; the features are damaged or degenerate")
    if estimate.standard_error is not None:
        reach = uncertainty.Z_95 * estimate.standard_error
        low, high = max(value - reach, least), min(value + reach, most)
        interval = {"low": low, "high": high, "method": INTERVAL_METHODS[name]}
    entry = {"value": value, "direction": direction, "samples": count, "interval": interval}
    return entry | ({"infinity": estimate.fid_infinity} if estimate.fid_infinity else {})


def _check_inputs(inputs: MetricInputs, intervals: bool) -> None:
    count = inputs.samples.count
    if count is not None and intervals and count < JACKKNIFE_GROUPS:
        raise ValueError(f"{count} samples; the metrics and their intervals need at least {JACKKNIFE_GROUPS}")
    for sample_set in (inputs.samples, inputs.reference):
        for layer, x in sample_set.features.items():
            if not all(bool(np.isfinite(x[i : i + IS_CHUNK]).all()) for i in range(0, len(x), IS_CHUNK)):
                raise ValueError(f"features {layer} hold NaN or infinity; the images or the weights are damaged")
