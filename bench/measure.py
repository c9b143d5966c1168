"""One evaluation of one side against another: what is asked for, what is found, as plain data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from . import metrics
from .collect import Progress, collect, widths
from .config import RunConfig
from .extractors import EXTRACTORS, Extractor, network, weights_hash
from .frechet import Gaussian
from .images import load_labels
from .manifold import Precision
from .metrics import Side
from .pretrained import is_published
from .runfolder import RunFolder
from .sides import Given, Role, config_of, open_side
from .store import KEYS, FeatureStore

INCEPTION, DINOV2 = "inception-v3-compat", "dinov2-vit-l-14"
EXPORT = "run it again with --export npz, which makes them"
ROLES: tuple[Role, Role] = ("samples", "reference")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for."""

    samples: Path
    reference: Path
    wanted: tuple[str, ...] = ()
    """Metrics that must be measured; () measures all that can be, and says why the others cannot."""
    protocol: metrics.Protocol | None = None
    """None: the run's, or else adm."""
    extractor: str = ""
    """"": the run's, or else Inception."""
    weights: str = ""
    dinov2_weights: str = ""
    pr_dtype: Precision = "float32"
    kid_size: int | None = None
    intervals: bool = True
    skip_bad: bool = False
    batch: int = 64
    cuda: bool = False


def measure(request: Request) -> dict[str, Any]:
    """The result of an evaluation; ValueError says in a sentence why there is none."""
    began = time.monotonic()
    config = config_of(request.samples)
    name = request.extractor or (config.evaluation.extractor if config else INCEPTION)
    entry, asked = EXTRACTORS[name], request.wanted or tuple(metrics.KINDS)
    given = {role: stored_or_images(g, name) for role, g in _open(request, entry).items()}
    layers, used, absent = dict(entry.layers), dict[str, Path](), dict[str, str]()
    if request.weights or any(g.images and not g.stored for g in given.values()):
        used[name] = _prepare(name, request, config)
        given = {role: stored_or_images(g, name, weights_hash(used[name])) for role, g in given.items()}
    if given["samples"].stored and not given["samples"].images and not entry.suffix:
        absent["fd_dinov2"] = f"{request.samples} keeps no images; {EXPORT}"
    if "fd_dinov2" in asked and not entry.suffix and all(g.images for g in given.values()):
        layers |= EXTRACTORS[DINOV2].layers
        try:
            used[DINOV2] = _prepare(DINOV2, request, config)
        except ValueError as error:
            if "fd_dinov2" in request.wanted:
                raise
            absent["fd_dinov2"] = str(error)
    comparison = metrics.Sides(
        samples=_promised(given["samples"], layers),
        reference=_promised(given["reference"], layers),
        layers=layers,
        labels=_labels(given["samples"]) if config and entry.suffix else None,
        protocol=request.protocol or (config.evaluation.protocol if config else "adm"),
        pr_dtype=request.pr_dtype,
        kid_size=request.kid_size,
        device="cuda" if request.cuda else "cpu",
    )
    _refuse(request, metrics.missing(comparison) | absent)
    sides = _features(request, given, used, entry, {p for p in layers if set(metrics.NAMES[p]) & set(asked)})
    comparison = replace(comparison, samples=sides["samples"], reference=sides["reference"])
    absent = metrics.missing(comparison) | absent
    _refuse(request, absent)
    intervals = request.intervals and (comparison.samples.count or metrics.GROUPS) >= metrics.GROUPS
    found = metrics.compute(comparison, intervals=intervals, wanted=[m for m in asked if m not in absent])
    weights = {n: _weights(path.name, weights_hash(path)) for n, path in used.items()}
    for stored in (g.stored for g in given.values() if g.stored):
        weights.setdefault(name, _weights(stored.made.weights, stored.made.sha256))
    return {
        **{role: {**g.words(), "count": sides[role].count} for role, g in given.items()},
        "protocol": comparison.protocol,
        "pr_dtype": comparison.pr_dtype,
        "extractors": weights,
        "metrics": named(found, entry),
        "not_measured": {m: why for m, why in absent.items() if m in asked and (m != "class_accuracy" or entry.suffix)},
        "notes": _notes(request, intervals, weights),
        "seconds": round(time.monotonic() - began, 3),
    }


def _promised(given: Given, layers: Mapping[str, str]) -> Side:
    """A side as it will be once its features are there, so that what cannot be is known before the work."""
    rows = dict.fromkeys(layers.values(), np.empty((0, 0), np.float32)) if given.images or given.stored else {}
    return Side(rows=rows, fitted=_stored(given, layers), count=given.count)


def stored_or_images(given: Given, extractor: str, sha256: str = "") -> Given:
    """The side with its stored features where they are this extractor's, or else by its images.

    ValueError where neither is there.
    """
    if not given.stored or (given.stored.made.extractor == extractor and sha256 in ("", given.stored.made.sha256)):
        return given
    made = given.stored.made
    if not given.images:
        wanted = f"{extractor}{f' with weights {sha256[:12]}' if sha256 else ''}"
        kept = f"features of {made.extractor} with weights {made.sha256[:12]}"
        raise ValueError(f"{given.path} holds {kept}, and {wanted} needs the images; {EXPORT}")
    return replace(given, stored=None, path=Path(given.images.name))


def _labels(given: Given) -> np.ndarray | None:
    """Classes that a run's samples were made for, where they are told."""
    if given.stored:
        return given.stored.labels
    return load_labels(given.path) if given.path.suffix == ".npz" else None


def _refuse(request: Request, absent: Mapping[str, str]) -> None:
    for metric in request.wanted:
        if metric in absent:
            raise ValueError(f"{metric} cannot be measured: {absent[metric]}")
    if len(absent) == len(metrics.KINDS):
        raise ValueError(f"nothing can be measured: {'; '.join(f'{m}: {why}' for m, why in absent.items())}")


def named(found: dict[str, dict[str, Any]], entry: Extractor) -> dict[str, dict[str, Any]]:
    """Metrics whose names say whose features they are."""
    return {name + entry.suffix: value for name, value in found.items()}


def wanted_layers(
    layers: Mapping[str, str], purposes: set[str], *, sampled: bool, intervals: bool
) -> tuple[set[str], set[str]]:
    """(layers whose rows are kept, layers whose statistics are): of the samples, or of the reference.

    Distances between Gaussians need rows only for their intervals, which are the samples'.
    """
    rows = {"kid", "prc", "is"} if sampled else {"kid", "prc"}
    if sampled and intervals:
        rows |= set(metrics.STATISTICAL)
    keep = {layers[p] for p in purposes & rows & set(layers)}
    fit = {layers[p] for p in purposes & set(metrics.STATISTICAL) & set(layers)}
    return keep, fit - keep


def _open(request: Request, entry: Extractor) -> dict[Role, Given]:
    """Both sides; ValueError where their images differ in size."""
    paths = {"samples": request.samples, "reference": request.reference}
    given = {r: open_side(paths[r], r, channels=entry.channels, skip_bad=request.skip_bad) for r in ROLES}
    a, b = (given[role].size for role in ROLES)
    if a and b and a != b:
        (_, h, w), (_, h0, w0) = a, b
        raise ValueError(
            f"the samples are {w}x{h} and the reference is {w0}x{h0}; resizing changes every metric, "
            "so bring both to one size yourself"
        )
    least = min((g.count for g in given.values() if g.count), default=0)
    if request.kid_size and a and b and not 2 <= request.kid_size <= least:
        raise ValueError(f"--kid-subset is {request.kid_size}; it must be 2 to {least}, the images of the smaller side")
    stored = [given[role].fitted for role in ROLES if not given[role].size]
    for purpose in KEYS if len(stored) == 2 else ():
        if purpose in stored[0] and purpose in stored[1]:
            _same_width(given["samples"], purpose, len(stored[1][purpose].mu))
    return given


def _prepare(name: str, request: Request, config: RunConfig | None) -> Path:
    given = request.weights or (config.evaluation.weights if config else "")
    cache = RunFolder(request.samples).cache if config else Path("results") / "cache"
    return EXTRACTORS[name].prepare(request.dinov2_weights if name == DINOV2 else given, cache)


def _features(
    request: Request, given: Mapping[Role, Given], used: Mapping[str, Path], entry: Extractor, purposes: set[str]
) -> dict[Role, Side]:
    """Both sides' features: those stored in files, and a pass over the images for each extractor."""
    kept: dict[Role, list[Side]] = {role: [_read(g.stored, entry)] if g.stored else [] for role, g in given.items()}
    for stored in (g.stored for g in given.values() if g.stored):
        for g in given.values():
            for purpose in set(g.fitted) & set(entry.layers):
                _same_width(g, purpose, stored.layers[entry.layers[purpose]]["width"])
    for name, weights in used.items():
        net = network(name, weights, EXTRACTORS[name].layers.values(), request.cuda)
        for g in given.values():
            _fits(net, name, g)
        for role, g in given.items():
            if g.images and not (g.stored and name == g.stored.made.extractor):
                kept[role].append(_pass(request, net, name, g, role, purposes & set(EXTRACTORS[name].layers)))
    return {role: _joined(g, kept[role], entry.layers) for role, g in given.items()}


def _read(store: FeatureStore, entry: Extractor) -> Side:
    return Side(rows=store.rows(), fitted=store.fitted(entry.layers), count=store.count)


def _pass(request: Request, net: FeatureExtractorBase, name: str, given: Given, role: Role, purposes: set[str]) -> Side:
    assert given.images
    purposes = purposes - set(given.fitted) if role == "reference" else purposes
    layers, intervals = EXTRACTORS[name].layers, request.intervals
    keep, fit = wanted_layers(layers, purposes, sampled=role == "samples", intervals=intervals)
    progress = Progress(f"{role}, {name}", given.images.count)
    return collect(
        net, given.images, keep=keep, fit=fit, batch=request.batch, skip_bad=request.skip_bad, progress=progress
    )


def _joined(given: Given, parts: list[Side], layers: Mapping[str, str]) -> Side:
    """One side from its passes; statistics that came with the file win."""
    if len({part.count for part in parts}) > 1:
        raise ValueError(f"{given.path}: the extractors could use {[p.count for p in parts]} images, not the same ones")
    return Side(
        rows={layer: x for part in parts for layer, x in part.rows.items()},
        fitted={layer: g for part in parts for layer, g in part.fitted.items()} | _stored(given, layers),
        count=parts[0].count if parts else None,
    )


def _stored(given: Given, layers: Mapping[str, str]) -> dict[str, Gaussian]:
    return {layers[p]: g for p, g in given.fitted.items() if p in layers}


def _fits(net: FeatureExtractorBase, name: str, given: Given) -> None:
    """ValueError where stored statistics are of another width than the extractor's features."""
    if not given.fitted:
        return
    have = widths(net, (3, 8, 8))
    for purpose in given.fitted:
        if purpose in EXTRACTORS[name].layers:
            _same_width(given, purpose, have[EXTRACTORS[name].layers[purpose]])


def _same_width(given: Given, purpose: str, width: int) -> None:
    found = len(given.fitted[purpose].mu)
    if found != width:
        mean, _ = KEYS[purpose]
        raise ValueError(f"{given.path}: {mean} has {found} features where the other side has {width}")


def _weights(file: str, sha256: str) -> dict[str, Any]:
    return {"file": file, "sha256": sha256, "published": is_published(sha256)}


def _notes(request: Request, intervals: bool, weights: Mapping[str, dict[str, Any]]) -> list[str]:
    notes = []
    if request.intervals and not intervals:
        notes.append(f"no intervals: they need {metrics.GROUPS} samples")
    if request.pr_dtype == "float16":
        notes.append("precision and recall by half-precision distances, as in published tables")
    for name, w in weights.items():
        if not EXTRACTORS[name].suffix and not w["published"]:
            notes.append(f"{w['file']} are not the published weights of {name}: compare with nothing published")
    return notes
