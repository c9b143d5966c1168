"""Plan of a comparison: its inputs are opened and everything is checked before features are extracted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.config.metric_specs import METRIC_SPECS
from bench.config.schema import ProtocolName, RunConfig
from bench.evaluation import fid_infinity, metrics, reference_manifest
from bench.evaluation.comparison_request import ComparisonRequest
from bench.evaluation.extractors.extractor_registry import (
    DINOV2,
    EXTRACTORS,
    INCEPTION,
    Extractor,
    check_image_size,
    describe_weights,
)
from bench.evaluation.extractors.weight_hashes import hash_weights
from bench.evaluation.feature_store import STATISTICS_KEYS
from bench.evaluation.image_io import read_npz_labels
from bench.evaluation.inputs import EvaluationInput, Role, open_input, read_file_manifest, read_run_config
from bench.evaluation.metrics import MetricInputs, SampleSet
from bench.storage.run_folder import RunFolder

EXPORT_HINT = "run it again with --export npz, which writes them"
ROLES: tuple[Role, Role] = ("samples", "reference")
Inputs = dict[Role, EvaluationInput]


@dataclass(frozen=True, kw_only=True)
class ComparisonPlan:
    """Inputs and settings of a comparison that passed all checks that need no features."""

    request: ComparisonRequest
    inputs: Mapping[Role, EvaluationInput]
    extractor_name: str
    weight_files: Mapping[str, Path]
    """Extractor -> weights, for the extractors that must process images."""
    weights: Mapping[str, dict[str, Any]]
    """Extractor -> {file, sha256, published}, for all whose features are used."""
    unavailable: Mapping[str, str]
    """Metric -> reason, for those that the inputs rule out before any other check."""
    metric_inputs: MetricInputs
    """Its sample sets have the final layers and counts, but arrays without values."""

    @property
    def extractor(self) -> Extractor:
        return EXTRACTORS[self.extractor_name]

    @property
    def purposes(self) -> set[str]:
        """Purposes of the metrics to compute."""
        metrics_of = metrics.METRICS_OF_PURPOSE
        return {p for p in self.metric_inputs.layers if set(metrics_of[p]) & set(self.request.requested_metrics)}


def plan_comparison(request: ComparisonRequest) -> ComparisonPlan:
    """Open the inputs, choose extractor and protocol, and find weights; ValueError if the request is impossible."""
    config = read_run_config(request.samples)
    name, protocol = _choose_extractor_and_protocol(request, config)
    extractor = EXTRACTORS[name]
    inputs: Inputs = {role: prefer_store(i, name) for role, i in _open_inputs(request, name).items()}
    weight_files: dict[str, Path] = {}
    if request.weights or any(i.images and not i.store for i in inputs.values()):
        weight_files[name] = _find_weights(name, request, config)
        inputs = {role: prefer_store(i, name, hash_weights(weight_files[name])) for role, i in inputs.items()}
    unavailable = _plan_dinov2(request, config, inputs, extractor, weight_files)
    layers = extractor.layers | (EXTRACTORS[DINOV2].layers if _uses_dinov2(request, inputs, extractor) else {})
    if request.fid_infinity:
        _check_extrapolation(request, inputs["samples"])
    weights = {n: describe_weights(path.name, hash_weights(path)) for n, path in weight_files.items()}
    for store in (i.store for i in inputs.values() if i.store):
        weights.setdefault(name, describe_weights(store.provenance.weights, store.provenance.sha256))
    facts = {"extractor": name, "protocol": protocol, "weights_sha256": weights.get(name, {}).get("sha256")}
    _check_manifests(inputs, facts)
    metric_inputs = MetricInputs(
        samples=_expected_sample_set(inputs["samples"], layers),
        reference=_expected_sample_set(inputs["reference"], layers),
        layers=layers,
        labels=_labels(inputs["samples"]) if config and extractor.predicts_classes_of(config.data.title) else None,
        protocol=protocol,
        pr_dtype=request.pr_dtype,
        kid_size=request.kid_size,
        fid_infinity=request.fid_infinity,
        device="cuda" if request.cuda else "cpu",
    )
    refuse_unavailable(request, metrics.unavailable_metrics(metric_inputs) | unavailable)
    return ComparisonPlan(
        request=request,
        inputs=inputs,
        extractor_name=name,
        weight_files=weight_files,
        weights=weights,
        unavailable=unavailable,
        metric_inputs=metric_inputs,
    )


def _choose_extractor_and_protocol(request: ComparisonRequest, config: RunConfig | None) -> tuple[str, ProtocolName]:
    """Choose (extractor, protocol): the request's, else the run's, else the manifests', else Inception and adm."""
    manifests = [m for m in (read_file_manifest(request.reference), read_file_manifest(request.samples)) if m]
    source = config.evaluation if config else manifests[0] if manifests else None
    name = request.extractor or (source.extractor if source else INCEPTION)
    if name not in EXTRACTORS:
        raise ValueError(f"{request.reference} was made with {name}, which is no extractor of this version")
    default: ProtocolName = "torch-fidelity" if source and source.protocol == "torch-fidelity" else "adm"
    return name, request.protocol or default


def _open_inputs(request: ComparisonRequest, name: str) -> Inputs:
    """Open both inputs; ValueError if their images differ in size or do not suit the extractor."""
    paths = {"samples": request.samples, "reference": request.reference}
    channels = EXTRACTORS[name].channels
    inputs = {r: open_input(paths[r], r, channels=channels, skip_bad=request.skip_bad) for r in ROLES}
    a, b = (inputs[role].size for role in ROLES)
    if a and b and a[0] != b[0]:
        raise ValueError(f"the samples have {a[0]} channel(s) and the reference has {b[0]}; convert one of them")
    if a and b and a != b:
        (_, h, w), (_, h0, w0) = a, b
        raise ValueError(
            f"the samples are {w}x{h} and the reference is {w0}x{h0}; resizing changes every metric, "
            "so bring both to one size yourself"
        )
    for i in inputs.values():
        if i.images:
            check_image_size(str(i.path), i.images.size, name)
    least = min((i.count for i in inputs.values() if i.count), default=0)
    if request.kid_size is not None and a and b and not 2 <= request.kid_size <= least:
        raise ValueError(
            f"--kid-subset is {request.kid_size}; it must be 2 to {least}, the images of the smaller sample set"
        )
    if not a and not b:
        samples, reference = (inputs[role] for role in ROLES)
        for purpose in [p for p in STATISTICS_KEYS if p in samples.statistics and p in reference.statistics]:
            samples.check_width(purpose, len(reference.statistics[purpose].mu))
    return inputs


def prefer_store(evaluation_input: EvaluationInput, extractor: str, sha256: str = "") -> EvaluationInput:
    """Drop an input's feature store in favour of its images if another extractor or other weights wrote it.

    `sha256` "" accepts any weights.  ValueError if there are no images.
    """
    store = evaluation_input.store
    if not store or (store.provenance.extractor == extractor and sha256 in ("", store.provenance.sha256)):
        return evaluation_input
    if not evaluation_input.images:
        requested = f"{extractor}{f' with weights {sha256[:12]}' if sha256 else ''}"
        stored = f"features of {store.provenance.extractor} with weights {store.provenance.sha256[:12]}"
        raise ValueError(f"{evaluation_input.path} holds {stored}, and {requested} needs the images; {EXPORT_HINT}")
    return replace(evaluation_input, store=None, path=Path(evaluation_input.images.name))


def _find_weights(name: str, request: ComparisonRequest, config: RunConfig | None) -> Path:
    """Find an extractor's weights: the request's, else the run's, else the default ones."""
    path = request.weights or (config.evaluation.weights if config else "")
    cache = RunFolder(request.samples).cache if config else Path("results") / "cache"
    return EXTRACTORS[name].find_weights(request.dinov2_weights if name == DINOV2 else path, cache)


def _uses_dinov2(request: ComparisonRequest, inputs: Inputs, extractor: Extractor) -> bool:
    return "fd_dinov2" in request.requested_metrics and not extractor.suffix and all(i.images for i in inputs.values())


def _plan_dinov2(
    request: ComparisonRequest,
    config: RunConfig | None,
    inputs: Inputs,
    extractor: Extractor,
    weight_files: dict[str, Path],
) -> dict[str, str]:
    """Add DINOv2 to the weight files if FD-DINOv2 can be computed; returns {fd_dinov2: reason} if it cannot.

    ValueError if the request requires it and its weights are missing.
    """
    unavailable = {}
    if inputs["samples"].store and not inputs["samples"].images and not extractor.suffix:
        unavailable["fd_dinov2"] = f"{request.samples} keeps no images; {EXPORT_HINT}"
    if _uses_dinov2(request, inputs, extractor):
        try:
            weight_files[DINOV2] = _find_weights(DINOV2, request, config)
        except ValueError as error:
            if "fd_dinov2" in request.wanted:
                raise
            unavailable["fd_dinov2"] = str(error)
    return unavailable


def _check_extrapolation(request: ComparisonRequest, samples: EvaluationInput) -> None:
    """ValueError if --fid-infinity has no metric or no features to work on."""
    names = metrics.FRECHET_PURPOSES
    if not set(names) & set(request.requested_metrics):
        raise ValueError(f"--fid-infinity is for {', '.join(names)}; --metrics names none of them")
    if not samples.images and not samples.store and samples.features is None:
        raise ValueError(f"{samples.path}: no --fid-infinity: {fid_infinity.extrapolation_error(None, 0)}")


def _check_manifests(inputs: Inputs, facts: Mapping[str, Any]) -> None:
    """ValueError if a manifest contradicts the request, the other input's images, or the other manifest."""
    samples, reference = (inputs[role] for role in ROLES)
    for ours, theirs in ((samples, reference), (reference, samples)):
        if ours.manifest:
            size = theirs.size or (theirs.manifest.size if theirs.manifest else None)
            reference_manifest.check_agreement(str(ours.path), ours.manifest, str(theirs.path), {"size": size})
            reference_manifest.check_agreement(str(ours.path), ours.manifest, "this evaluation", facts)
    if samples.manifest and reference.manifest:
        reference_manifest.check_agreement(
            str(samples.path), samples.manifest, str(reference.path), vars(reference.manifest)
        )


def _expected_sample_set(evaluation_input: EvaluationInput, layers: Mapping[str, str]) -> SampleSet:
    """Return the layers and count that an input will have, with empty arrays, to check availability beforehand."""
    features = evaluation_input.features_by_layer(layers)
    if evaluation_input.images or evaluation_input.store:
        features = dict.fromkeys(layers.values(), np.empty((0, 0), np.float32))
    return SampleSet(
        features=features, statistics=evaluation_input.statistics_by_layer(layers), count=evaluation_input.count
    )


def _labels(samples: EvaluationInput) -> np.ndarray | None:
    """Return the classes (N,) that a run's samples were conditioned on; None if they are unknown."""
    if samples.store:
        return samples.store.labels
    return read_npz_labels(samples.path) if samples.path.suffix == ".npz" else None


def refuse_unavailable(request: ComparisonRequest, unavailable: Mapping[str, str]) -> None:
    """ValueError if a required metric, or every metric, is unavailable ({metric: reason})."""
    for metric in request.wanted:
        if metric in unavailable:
            raise ValueError(f"{metric} cannot be measured: {unavailable[metric]}")
    if len(unavailable) == len(METRIC_SPECS):
        raise ValueError(f"nothing can be measured: {'; '.join(f'{m}: {why}' for m, why in unavailable.items())}")
