"""Comparison of two sample sets: extract their features, compute the metrics, and describe the result as plain data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from bench.evaluation import adm_selftest, fid_infinity, metrics
from bench.evaluation.comparison_plan import ComparisonPlan, plan_comparison, refuse_unavailable
from bench.evaluation.comparison_request import ComparisonRequest
from bench.evaluation.extractors.extractor_registry import EXTRACTORS, build_network
from bench.evaluation.feature_extraction import collect_features, feature_widths, read_store, required_layers
from bench.evaluation.inputs import EvaluationInput, Role
from bench.evaluation.metrics import SampleSet
from bench.terminal.progress_bar import ProgressBar

PUBLISHED_SAMPLE_COUNT, PUBLISHED_REFERENCE_COUNTS = 50_000, (10_000, 1_000)


def compare_sample_sets(request: ComparisonRequest) -> dict[str, Any]:
    """Compare two sample sets; ValueError says why that is impossible.

    Returns {samples, reference, protocol, pr_dtype, extractors, metrics, not_measured, notes, seconds}, and self_test
    if the request says so.  `samples` and `reference` are `EvaluationInput.to_dict` with the final count.  `metrics`
    are `compute_metrics`'s, with the extractor's suffix.  `not_measured` is {metric: reason}.
    """
    start = time.monotonic()
    if request.threads:
        torch.set_num_threads(request.threads)
    plan = plan_comparison(request)
    sample_sets = _extract_sample_sets(plan)
    inputs = replace(plan.metric_inputs, samples=sample_sets["samples"], reference=sample_sets["reference"])
    unavailable = {**metrics.unavailable_metrics(inputs), **plan.unavailable}
    refuse_unavailable(request, unavailable)
    count = inputs.samples.count
    intervals = request.intervals and (count is None or count >= metrics.JACKKNIFE_GROUPS)
    requested = request.requested_metrics
    values = metrics.compute_metrics(inputs, intervals=intervals, wanted=[m for m in requested if m not in unavailable])
    if not plan.extractor.suffix:  # Inception does not predict the classes of any data set
        unavailable.pop("class_accuracy", None)
    result: dict[str, Any] = {
        **{role: {**i.to_dict(), "count": sample_sets[role].count} for role, i in plan.inputs.items()},
        "protocol": inputs.protocol,
        "pr_dtype": inputs.pr_dtype,
        "extractors": plan.weights,
        "metrics": plan.extractor.add_metric_suffix(values),
        "not_measured": {m: reason for m, reason in unavailable.items() if m in requested},
        "notes": _notes(plan, inputs, intervals, values),
        "seconds": round(time.monotonic() - start, 3),
    }
    if request.self_test:
        result["self_test"] = adm_selftest.check_against_target(result["metrics"])
    return result


def _extract_sample_sets(plan: ComparisonPlan) -> dict[Role, SampleSet]:
    """Read stored features, and run each extractor over the images that need it."""
    parts: dict[Role, list[SampleSet]] = {}
    for role, i in plan.inputs.items():
        parts[role] = [read_store(i.store, plan.extractor.layers)] if i.store else []
    for store in (i.store for i in plan.inputs.values() if i.store):
        _check_widths(plan, store.provenance.extractor, store.widths())
    for name, weights in plan.weight_files.items():
        net = build_network(name, weights, EXTRACTORS[name].layers.values(), plan.request.cuda)
        if plan.request.fid_infinity or any(i.statistics for i in plan.inputs.values()):
            _check_widths(plan, name, feature_widths(net, (3, 8, 8)))
        for role, i in plan.inputs.items():
            if i.images and not (i.store and name == i.store.provenance.extractor):
                parts[role].append(_extract(plan, net, name, role))
    return {role: _merge(i, parts[role], plan.extractor.layers) for role, i in plan.inputs.items()}


def _extract(plan: ComparisonPlan, net: FeatureExtractorBase, name: str, role: Role) -> SampleSet:
    """Run one extractor over the images of one input."""
    request, evaluation_input, layers = plan.request, plan.inputs[role], EXTRACTORS[name].layers
    images = evaluation_input.images
    assert images
    purposes = plan.purposes & set(layers)
    if role == "reference":
        purposes -= set(evaluation_input.statistics)
    intervals = request.intervals or request.fid_infinity
    row_layers, moment_layers = required_layers(layers, purposes, sampled=role == "samples", intervals=intervals)
    return collect_features(
        net,
        images,
        row_layers=row_layers,
        moment_layers=moment_layers,
        batch=request.batch,
        skip_bad=request.skip_bad,
        progress=ProgressBar(f"{role}, {name}", images.count),
    )


def _merge(evaluation_input: EvaluationInput, parts: list[SampleSet], layers: Mapping[str, str]) -> SampleSet:
    """Merge the results of all extractors for one input; features and statistics in its file take precedence."""
    if len({part.count for part in parts}) > 1:
        counts = [part.count for part in parts]
        raise ValueError(f"{evaluation_input.path}: the extractors could use {counts} images, not the same ones")
    features = {layer: x for part in parts for layer, x in part.features.items()}
    statistics = {layer: g for part in parts for layer, g in part.statistics.items()}
    return SampleSet(
        features=features | evaluation_input.features_by_layer(layers),
        statistics=statistics | evaluation_input.statistics_by_layer(layers),
        count=parts[0].count if parts else evaluation_input.count,
    )


def _check_widths(plan: ComparisonPlan, name: str, widths: Mapping[str, int]) -> None:
    """Check both inputs against an extractor's {layer: width}.

    ValueError if features or statistics in a file have another width, or if there are too few samples for
    --fid-infinity.
    """
    layers = EXTRACTORS[name].layers
    for i in plan.inputs.values():
        for purpose in i.statistics:
            if purpose in layers:
                i.check_width(purpose, widths[layers[purpose]])
        if i.features is not None and i.features.shape[1] != widths[layers["prc"]]:
            raise ValueError(f"{i.path}: its features are {i.features.shape[1]} wide; {name} gives others")
    if plan.request.fid_infinity:
        samples = plan.inputs["samples"]
        for purpose in [p for p in metrics.FRECHET_PURPOSES if p in plan.purposes & set(layers)]:
            if reason := fid_infinity.extrapolation_error(samples.count, widths[layers[purpose]]):
                raise ValueError(f"{samples.path}: no --fid-infinity of {purpose}: {reason}")


def _notes(plan: ComparisonPlan, inputs: metrics.MetricInputs, intervals: bool, values: Mapping[str, Any]) -> list[str]:
    """Return sentences about what limits a comparison of the values with others."""
    request, notes = plan.request, []
    if request.fid_infinity:
        notes.append("infinitely many samples, but the reference as it is: its own bias remains")
    if request.intervals and not intervals:
        notes.append(f"no intervals: they need {metrics.JACKKNIFE_GROUPS} samples")
    if request.pr_dtype == "float16":
        notes.append("precision and recall by half-precision distances, as in published tables")
    for name, weights in plan.weights.items():
        if not EXTRACTORS[name].suffix and not weights["published"]:
            notes.append(
                f"{weights['file']} are not the published weights of {name}: do not compare with published values"
            )
    for i in plan.inputs.values():
        if i.statistics and not i.manifest:
            notes.append(f"{i.path} has no manifest: only the width of its statistics could be checked")
    return notes + _count_notes(plan, inputs, values)


def _count_notes(plan: ComparisonPlan, inputs: metrics.MetricInputs, values: Mapping[str, Any]) -> list[str]:
    """Return sentences about image counts that differ from those of published tables."""
    if inputs.protocol != "adm" or plan.extractor.suffix:
        return []
    notes, count, real = [], inputs.samples.count, inputs.reference.count
    if count and count != PUBLISHED_SAMPLE_COUNT:
        notes.append(f"{count:,} samples, where published tables use {PUBLISHED_SAMPLE_COUNT:,}: compare equal N")
    if real and real not in PUBLISHED_REFERENCE_COUNTS and {"precision", "recall"} & set(values):
        published = " or ".join(f"{n:,}" for n in PUBLISHED_REFERENCE_COUNTS)
        notes.append(f"precision and recall against {real:,} images, where ADM's reference files hold {published}")
    return notes
