"""One evaluation of one side against another: what is asked for, what is found, as plain data."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from bench.config.metric_specs import METRIC_SPECS, DistanceDtype
from bench.config.schema import RunConfig
from bench.evaluation import fid_infinity, metrics, reference_manifest
from bench.evaluation.extractors.extractor_registry import (
    EXTRACTORS,
    Extractor,
    build_network,
    check_image_size,
    hash_weights,
)
from bench.evaluation.extractors.inception_dinov2 import is_published_hash
from bench.evaluation.feature_extraction import collect_features, feature_widths
from bench.evaluation.feature_store import STATISTICS_KEYS, FeatureStore
from bench.evaluation.frechet import Gaussian
from bench.evaluation.image_io import read_npz_labels
from bench.evaluation.inputs import EvaluationInput, Role, open_input, read_file_manifest, read_run_config
from bench.evaluation.metrics import SampleSet
from bench.storage.run_folder import RunFolder
from bench.terminal.progress_bar import ProgressBar

INCEPTION, DINOV2 = "inception-v3-compat", "dinov2-vit-l-14"
PUBLISHED_SAMPLE_COUNT, PUBLISHED_REFERENCE_COUNTS = 50_000, (10_000, 1_000)
EXPORT_HINT = "run it again with --export npz, which makes them"
ROLES: tuple[Role, Role] = ("samples", "reference")


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest:
    """What is asked for."""

    samples: Path
    reference: Path
    wanted: tuple[str, ...] = ()
    """Metrics that must be measured; () measures all that can be, and says why the others cannot."""
    protocol: metrics.ProtocolName | None = None
    """None: the run's, or that of the stored statistics, or else adm."""
    extractor: str = ""
    """"": the run's, or that of the stored statistics, or else Inception."""
    weights: str = ""
    dinov2_weights: str = ""
    pr_dtype: DistanceDtype = "float32"
    kid_size: int | None = None
    intervals: bool = True
    infinity: bool = False
    """Whether Frechet distances are also extrapolated to infinitely many samples."""
    skip_bad: bool = False
    batch: int = 64
    cuda: bool = False


def compare_sample_sets(request: ComparisonRequest) -> dict[str, Any]:
    """The result of an evaluation; ValueError says in a sentence why there is none."""
    began = time.monotonic()
    config = read_run_config(request.samples)
    name, protocol = _chosen(request, config)
    entry, asked = EXTRACTORS[name], request.wanted or tuple(METRIC_SPECS)
    given = {role: prefer_stored_features(g, name) for role, g in _open(request, name).items()}
    layers, used, absent = dict(entry.layers), dict[str, Path](), dict[str, str]()
    if request.weights or any(g.images and not g.stored for g in given.values()):
        used[name] = _prepare(name, request, config)
        given = {role: prefer_stored_features(g, name, hash_weights(used[name])) for role, g in given.items()}
    if given["samples"].stored and not given["samples"].images and not entry.suffix:
        absent["fd_dinov2"] = f"{request.samples} keeps no images; {EXPORT_HINT}"
    if "fd_dinov2" in asked and not entry.suffix and all(g.images for g in given.values()):
        layers |= EXTRACTORS[DINOV2].layers
        try:
            used[DINOV2] = _prepare(DINOV2, request, config)
        except ValueError as error:
            if "fd_dinov2" in request.wanted:
                raise
            absent["fd_dinov2"] = str(error)
    if request.infinity:
        _extrapolable(given["samples"], asked)
    weights = {n: describe_weights(path) for n, path in used.items()}
    for stored in (g.stored for g in given.values() if g.stored):
        weights.setdefault(name, _weights(stored.made.weights, stored.made.sha256))
    _agree(given, {"extractor": name, "protocol": protocol, "weights_sha256": weights.get(name, {}).get("sha256")})
    comparison = metrics.MetricInputs(
        samples=_promised(given["samples"], layers),
        reference=_promised(given["reference"], layers),
        layers=layers,
        labels=_labels(given["samples"]) if config and entry.knows(config.data.title) else None,
        protocol=protocol,
        pr_dtype=request.pr_dtype,
        kid_size=request.kid_size,
        infinity=request.infinity,
        device="cuda" if request.cuda else "cpu",
    )
    _refuse(request, metrics.unavailable_metrics(comparison) | absent)
    sides = _features(
        request, given, used, entry, {p for p in layers if set(metrics.METRICS_OF_PURPOSE[p]) & set(asked)}
    )
    comparison = replace(comparison, samples=sides["samples"], reference=sides["reference"])
    absent = metrics.unavailable_metrics(comparison) | absent
    _refuse(request, absent)
    intervals = request.intervals and (comparison.samples.count or metrics.JACKKNIFE_GROUPS) >= metrics.JACKKNIFE_GROUPS
    found = metrics.compute_metrics(comparison, intervals=intervals, wanted=[m for m in asked if m not in absent])
    return {
        **{role: {**g.words(), "count": sides[role].count} for role, g in given.items()},
        "protocol": comparison.protocol,
        "pr_dtype": comparison.pr_dtype,
        "extractors": weights,
        "metrics": add_metric_suffix(found, entry),
        "not_measured": {m: why for m, why in absent.items() if m in asked and (m != "class_accuracy" or entry.suffix)},
        "notes": _notes(request, intervals, weights) + _unsaid(given) + _unlike(comparison, entry, found),
        "seconds": round(time.monotonic() - began, 3),
    }


def _chosen(request: ComparisonRequest, config: RunConfig | None) -> tuple[str, metrics.ProtocolName]:
    """(extractor, protocol): what was asked for, or the run's, or those of stored statistics, or Inception and adm."""
    found = [m for m in (read_file_manifest(request.reference), read_file_manifest(request.samples)) if m]
    name = request.extractor or (config.evaluation.extractor if config else found[0].extractor if found else INCEPTION)
    if name not in EXTRACTORS:
        raise ValueError(f"{request.reference} was made with {name}, which is no extractor of this version")
    own = config.evaluation.protocol if config else found[0].protocol if found else "adm"
    protocol: metrics.ProtocolName = request.protocol or ("torch-fidelity" if own == "torch-fidelity" else "adm")
    return name, protocol


def _agree(given: Mapping[Role, EvaluationInput], facts: Mapping[str, Any]) -> None:
    """ValueError where a side's manifest is not of this evaluation, or not of the other side's resolution."""
    for role, g in given.items():
        if g.manifest:
            other = given["reference" if role == "samples" else "samples"]
            own = other.size or (other.manifest.size if other.manifest else None)
            reference_manifest.check_agreement(str(g.path), g.manifest, str(other.path), {"size": own})
            reference_manifest.check_agreement(str(g.path), g.manifest, "this evaluation", facts)
    made = [g.manifest for g in given.values() if g.manifest]
    if len(made) == 2:
        reference_manifest.check_agreement(
            str(given["samples"].path), made[0], str(given["reference"].path), vars(made[1])
        )


def _unsaid(given: Mapping[Role, EvaluationInput]) -> list[str]:
    """What stored statistics do not say of themselves."""
    return [
        f"{g.path} has no manifest: only the width of its statistics could be checked"
        for g in given.values()
        if g.fitted and not g.manifest
    ]


def _unlike(sides: metrics.MetricInputs, entry: Extractor, found: Mapping[str, Any]) -> list[str]:
    """Counts that are not those of the tables ADM's evaluator was made for."""
    if sides.protocol != "adm" or entry.suffix:
        return []
    notes, count, real = [], sides.samples.count, sides.reference.count
    if count and count != PUBLISHED_SAMPLE_COUNT:
        notes.append(f"{count:,} samples, where published tables take {PUBLISHED_SAMPLE_COUNT:,}: compare equal N")
    if real and real not in PUBLISHED_REFERENCE_COUNTS and {"precision", "recall"} & set(found):
        few = " or ".join(f"{n:,}" for n in PUBLISHED_REFERENCE_COUNTS)
        notes.append(f"precision and recall against {real:,} images, where ADM's reference files hold {few}")
    return notes


def _promised(given: EvaluationInput, layers: Mapping[str, str]) -> SampleSet:
    """A side as it will be once its features are there, so that what cannot be is known before the work."""
    known = given.images or given.stored
    rows = dict.fromkeys(layers.values(), np.empty((0, 0), np.float32)) if known else _stored_rows(given, layers)
    return SampleSet(rows=rows, fitted=_stored(given, layers), count=given.count)


def prefer_stored_features(given: EvaluationInput, extractor: str, sha256: str = "") -> EvaluationInput:
    """The side with its stored features where they are this extractor's, or else by its images.

    ValueError where neither is there.
    """
    if not given.stored or (given.stored.made.extractor == extractor and sha256 in ("", given.stored.made.sha256)):
        return given
    made = given.stored.made
    if not given.images:
        wanted = f"{extractor}{f' with weights {sha256[:12]}' if sha256 else ''}"
        kept = f"features of {made.extractor} with weights {made.sha256[:12]}"
        raise ValueError(f"{given.path} holds {kept}, and {wanted} needs the images; {EXPORT_HINT}")
    return replace(given, stored=None, path=Path(given.images.name))


def _labels(given: EvaluationInput) -> np.ndarray | None:
    """Classes that a run's samples were made for, where they are told."""
    if given.stored:
        return given.stored.labels
    return read_npz_labels(given.path) if given.path.suffix == ".npz" else None


def _refuse(request: ComparisonRequest, absent: Mapping[str, str]) -> None:
    for metric in request.wanted:
        if metric in absent:
            raise ValueError(f"{metric} cannot be measured: {absent[metric]}")
    if len(absent) == len(METRIC_SPECS):
        raise ValueError(f"nothing can be measured: {'; '.join(f'{m}: {why}' for m, why in absent.items())}")


def add_metric_suffix(found: dict[str, dict[str, Any]], entry: Extractor) -> dict[str, dict[str, Any]]:
    """Metrics whose names say whose features they are."""
    return {name + entry.suffix: value for name, value in found.items()}


def required_layers(
    layers: Mapping[str, str], purposes: set[str], *, sampled: bool, intervals: bool
) -> tuple[set[str], set[str]]:
    """(layers whose rows are kept, layers whose statistics are): of the samples, or of the reference.

    Distances between Gaussians need rows only for their intervals, which are the samples'.
    """
    rows = {"kid", "prc", "is"} if sampled else {"kid", "prc"}
    if sampled and intervals:
        rows |= set(metrics.FRECHET_PURPOSES)
    keep = {layers[p] for p in purposes & rows & set(layers)}
    fit = {layers[p] for p in purposes & set(metrics.FRECHET_PURPOSES) & set(layers)}
    return keep, fit - keep


def _open(request: ComparisonRequest, name: str) -> dict[Role, EvaluationInput]:
    """Both sides; ValueError where their images differ in size."""
    paths = {"samples": request.samples, "reference": request.reference}
    given = {r: open_input(paths[r], r, channels=EXTRACTORS[name].channels, skip_bad=request.skip_bad) for r in ROLES}
    a, b = (given[role].size for role in ROLES)
    if a and b and a[0] != b[0]:
        raise ValueError(f"the samples have {a[0]} channel(s) and the reference has {b[0]}; bring both to one kind")
    if a and b and a != b:
        (_, h, w), (_, h0, w0) = a, b
        raise ValueError(
            f"the samples are {w}x{h} and the reference is {w0}x{h0}; resizing changes every metric, "
            "so bring both to one size yourself"
        )
    for g in given.values():
        if g.images:
            check_image_size(str(g.path), g.images.size, name)
    least = min((g.count for g in given.values() if g.count), default=0)
    if request.kid_size is not None and a and b and not 2 <= request.kid_size <= least:
        raise ValueError(f"--kid-subset is {request.kid_size}; it must be 2 to {least}, the images of the smaller side")
    stored = [given[role].fitted for role in ROLES if not given[role].size]
    for purpose in STATISTICS_KEYS if len(stored) == 2 else ():
        if purpose in stored[0] and purpose in stored[1]:
            _same_width(given["samples"], purpose, len(stored[1][purpose].mu))
    return given


def _prepare(name: str, request: ComparisonRequest, config: RunConfig | None) -> Path:
    given = request.weights or (config.evaluation.weights if config else "")
    cache = RunFolder(request.samples).cache if config else Path("results") / "cache"
    return EXTRACTORS[name].prepare(request.dinov2_weights if name == DINOV2 else given, cache)


def _features(
    request: ComparisonRequest,
    given: Mapping[Role, EvaluationInput],
    used: Mapping[str, Path],
    entry: Extractor,
    purposes: set[str],
) -> dict[Role, SampleSet]:
    """Both sides' features: those stored in files, and a pass over the images for each extractor."""
    kept: dict[Role, list[SampleSet]] = {
        role: [_read(g.stored, entry)] if g.stored else [] for role, g in given.items()
    }
    for stored in (g.stored for g in given.values() if g.stored):
        _fit_all(request, given, stored.made.extractor, stored.widths(), purposes)
    for name, weights in used.items():
        net = build_network(name, weights, EXTRACTORS[name].layers.values(), request.cuda)
        if request.infinity or any(g.fitted for g in given.values()):
            _fit_all(request, given, name, feature_widths(net, (3, 8, 8)), purposes)
        for role, g in given.items():
            if g.images and not (g.stored and name == g.stored.made.extractor):
                kept[role].append(_pass(request, net, name, g, role, purposes & set(EXTRACTORS[name].layers)))
    return {role: _joined(g, kept[role], entry.layers) for role, g in given.items()}


def _read(store: FeatureStore, entry: Extractor) -> SampleSet:
    return SampleSet(rows=store.rows(), fitted=store.fitted(entry.layers), count=store.count)


def _pass(
    request: ComparisonRequest,
    net: FeatureExtractorBase,
    name: str,
    given: EvaluationInput,
    role: Role,
    purposes: set[str],
) -> SampleSet:
    assert given.images
    purposes = purposes - set(given.fitted) if role == "reference" else purposes
    layers, intervals = EXTRACTORS[name].layers, request.intervals or request.infinity
    keep, fit = required_layers(layers, purposes, sampled=role == "samples", intervals=intervals)
    progress = ProgressBar(f"{role}, {name}", given.images.count)
    return collect_features(
        net, given.images, keep=keep, fit=fit, batch=request.batch, skip_bad=request.skip_bad, progress=progress
    )


def _joined(given: EvaluationInput, parts: list[SampleSet], layers: Mapping[str, str]) -> SampleSet:
    """One side from its passes; statistics that came with the file win."""
    if len({part.count for part in parts}) > 1:
        raise ValueError(f"{given.path}: the extractors could use {[p.count for p in parts]} images, not the same ones")
    return SampleSet(
        rows={layer: x for part in parts for layer, x in part.rows.items()} | _stored_rows(given, layers),
        fitted={layer: g for part in parts for layer, g in part.fitted.items()} | _stored(given, layers),
        count=parts[0].count if parts else given.count,
    )


def _stored_rows(given: EvaluationInput, layers: Mapping[str, str]) -> dict[str, np.ndarray]:
    return {} if given.rows is None else {layers["prc"]: given.rows}


def _stored(given: EvaluationInput, layers: Mapping[str, str]) -> dict[str, Gaussian]:
    return {layers[p]: g for p, g in given.fitted.items() if p in layers}


def _fit_all(
    request: ComparisonRequest,
    given: Mapping[Role, EvaluationInput],
    name: str,
    have: Mapping[str, int],
    purposes: set[str],
) -> None:
    """ValueError where a side does not fit features of these widths, or is too small for --fid-infinity."""
    for g in given.values():
        _fits(have, name, g)
    if request.infinity:
        _enough(have, name, given["samples"], purposes)


def _fits(have: Mapping[str, int], name: str, given: EvaluationInput) -> None:
    """ValueError where stored statistics are of another width than the extractor's features."""
    for purpose in given.fitted:
        if purpose in EXTRACTORS[name].layers:
            _same_width(given, purpose, have[EXTRACTORS[name].layers[purpose]])
    if given.rows is not None and given.rows.shape[1] != have[EXTRACTORS[name].layers["prc"]]:
        raise ValueError(f"{given.path}: its features are {given.rows.shape[1]} wide; {name} gives others")


def _extrapolable(given: EvaluationInput, asked: Collection[str]) -> None:
    """ValueError where --fid-infinity has nothing to work on."""
    if not set(metrics.FRECHET_PURPOSES) & set(asked):
        raise ValueError(f"--fid-infinity is for {', '.join(metrics.FRECHET_PURPOSES)}; --metrics names none of them")
    known = given.images or given.stored or given.rows is not None
    why = "" if known else fid_infinity.extrapolation_error(None, 0)
    if why:
        raise ValueError(f"{given.path}: no --fid-infinity: {why}")


def _enough(have: Mapping[str, int], name: str, given: EvaluationInput, purposes: set[str]) -> None:
    """ValueError where there are too few samples for --fid-infinity."""
    layers = EXTRACTORS[name].layers
    for purpose in [p for p in metrics.FRECHET_PURPOSES if p in purposes & set(layers)]:
        if why := fid_infinity.extrapolation_error(given.count, have[layers[purpose]]):
            raise ValueError(f"{given.path}: no --fid-infinity of {purpose}: {why}")


def _same_width(given: EvaluationInput, purpose: str, width: int) -> None:
    found = len(given.fitted[purpose].mu)
    if found != width:
        mean, _ = STATISTICS_KEYS[purpose]
        raise ValueError(f"{given.path}: {mean} has {found} features where the other side has {width}")


def describe_weights(path: Path) -> dict[str, Any]:
    """{file, sha256, published} of a file of weights."""
    return _weights(path.name, hash_weights(path))


def _weights(file: str, sha256: str) -> dict[str, Any]:
    return {"file": file, "sha256": sha256, "published": is_published_hash(sha256)}


def _notes(request: ComparisonRequest, intervals: bool, weights: Mapping[str, dict[str, Any]]) -> list[str]:
    notes = []
    if request.infinity:
        notes.append("infinitely many samples, but the reference as it is: its own bias stays")
    if request.intervals and not intervals:
        notes.append(f"no intervals: they need {metrics.JACKKNIFE_GROUPS} samples")
    if request.pr_dtype == "float16":
        notes.append("precision and recall by half-precision distances, as in published tables")
    for name, w in weights.items():
        if not EXTRACTORS[name].suffix and not w["published"]:
            notes.append(f"{w['file']} are not the published weights of {name}: compare with nothing published")
    return notes
