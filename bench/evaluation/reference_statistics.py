"""Compute and find reference statistics of real images, kept in ADM's layout with a manifest."""

from __future__ import annotations

import argparse
import hashlib
import platform
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.config.identity import digest
from bench.config.naming import title_of
from bench.config.schema import Data, Evaluation
from bench.data import sources
from bench.evaluation import metrics
from bench.evaluation.comparison import INCEPTION, weights_of
from bench.evaluation.extractors.extractor_registry import EXTRACTORS, check_side, network
from bench.evaluation.feature_extraction import collect
from bench.evaluation.feature_store import KEYS
from bench.evaluation.image_io import ENDINGS, ArrayImages, Images
from bench.evaluation.inputs import Given, config_of, manifest_of, open_side
from bench.evaluation.reference_manifest import FEATURES, FORMAT, KEY, Manifest
from bench.experiments import presets
from bench.storage.atomic import atomic, sha256
from bench.terminal.progress_bar import Progress

RESIZE = "none before the extractor, which resizes as its own code does"
CROP = "none"
CROPPED = "ADM's (halved by boxes, bicubic, the middle) to {} pixels"


def build(flags: argparse.Namespace) -> tuple[Path, Manifest, bool]:
    """(file, manifest, whether it was made now); ValueError says in a sentence why there is none."""
    name, protocol = chosen(flags)
    given, hashed = opened(flags, EXTRACTORS[name].channels)
    assert given.images
    check_side(flags.data, given.images.size, name)
    weights = EXTRACTORS[name].prepare(flags.weights, Path(flags.cache))
    made = manifest(flags, given.images.size, given.images.count, hashed, name, weights_of(weights), protocol)
    path = target(Path(flags.cache), made, flags.skip_bad)
    if path.is_file():
        there = manifest_of(path)
        if there is None:
            raise ValueError(f"{path} has no manifest; remove it and run again")
        return path, there, False
    arrays, count = features(given.images, name, weights, flags)
    made = replace(made, count=count, left_out=len(given.images.left_out))
    with atomic(path) as partial, partial.open("wb") as f:
        np.savez(f, allow_pickle=False, **{KEY: np.array(made.text())}, **arrays)
    return path, made, True


def chosen(flags: argparse.Namespace) -> tuple[str, metrics.Protocol]:
    """(extractor, protocol): what was asked for, the run's, what the data imply, or Inception and adm."""
    config, own = config_of(Path(flags.data)), Evaluation(extractor=INCEPTION)
    if config:
        own = config.evaluation
    elif is_data(flags.data):
        own = presets.setting(flags.data, sources.source(flags.data, flags.root)).evaluation
    return flags.extractor or own.extractor, flags.protocol or own.protocol


def is_data(name: str) -> bool:
    """Whether bench/data/sources.py opens this; bench.evaluate opens folders of images and .npz files itself."""
    path = Path(name)
    if name in sources.SOURCES or not path.exists():
        return True
    if path.is_dir():
        return not any(f.suffix.lower() in ENDINGS for f in path.iterdir() if f.is_file())
    return path.suffix != ".npz"


def opened(flags: argparse.Namespace, channels: tuple[int, ...]) -> tuple[Given, str]:
    """The images, and their hash; ValueError where DATA holds none."""
    path, config = Path(flags.data), config_of(Path(flags.data))
    if config or is_data(flags.data):
        own = config.data if config else Data(name=flags.data, root=flags.root)
        named, arrays = own.name, sources.arrays_of(own, trained=False)
        images: Images = ArrayImages(arrays.reference, f"the reference of {named}")
        if images.size[0] not in channels:
            raise ValueError(f"the reference of {named} is grey; the extractor takes RGB images")
        return Given(path=path, kind="run", images=images), arrays.reference_hash()
    given = open_side(path, "reference", channels=channels, skip_bad=flags.skip_bad)
    if not given.images:
        raise ValueError(f"{path} holds statistics already, and no images to make them of")
    return given, folder_hash(path) if path.is_dir() else sha256(path)


def folder_hash(path: Path) -> str:
    """SHA-256 of the names and contents of a folder's files."""
    h = hashlib.sha256()
    for file in sorted(f for f in path.iterdir() if f.is_file()):
        h.update(f"{file.name} {sha256(file)}\n".encode())
    return h.hexdigest()


def manifest(
    flags: argparse.Namespace,
    size: tuple[int, int, int],
    count: int,
    hashed: str,
    extractor: str,
    weights: dict[str, Any],
    protocol: str,
) -> Manifest:
    """What the file will say, images that turn out damaged apart."""
    layers, config = EXTRACTORS[extractor].layers, config_of(Path(flags.data))
    own = config.data.name if config else flags.data
    name = title_of(own) if config or is_data(own) else Path(own).name
    arrays = {mean: layers[purpose] for purpose, (mean, _) in KEYS.items() if purpose in layers}
    return Manifest(
        format=FORMAT,
        data=name,
        data_sha256=hashed,
        count=count,
        size=size,
        resize=RESIZE,
        crop=CROPPED.format(size[1]) if sources.parsed(own)[1] else CROP,
        left_out=0,
        extractor=extractor,
        weights=weights["file"],
        weights_sha256=weights["sha256"],
        protocol=protocol,
        layers=arrays | ({FEATURES: layers["prc"]} if flags.features else {}),
        versions={
            "python": platform.python_version(),
            **{p: version(p) for p in ("backbone-bench", "torch", "torch-fidelity", "numpy")},
        },
    )


def target(cache: Path, made: Manifest, skip_bad: bool) -> Path:
    """Where the file belongs: by its data's name and a hash of what its numbers depend on."""
    words = "".join(c if c.isalnum() or c in "-_" else "_" for c in made.data)
    depends = {k: v for k, v in asdict(made).items() if k not in ("data", "count", "left_out", "versions")}
    return cache / "references" / f"{words}-{digest([depends, skip_bad])[:12]}.npz"


def features(images: Images, name: str, weights: Path, flags: argparse.Namespace) -> tuple[dict[str, np.ndarray], int]:
    """The arrays of the file, and how many images they are of."""
    layers, cuda = EXTRACTORS[name].layers, flags.device != "cpu" and torch.cuda.is_available()
    net = network(name, weights, layers.values(), cuda)
    keep = {layers["prc"]} if flags.features else set()
    fit = {layers[p] for p in KEYS if p in layers} - keep
    progress = Progress(f"{flags.data}, {name}", images.count)
    side = collect(net, images, keep=keep, fit=fit, batch=flags.batch, skip_bad=flags.skip_bad, progress=progress)
    arrays: dict[str, np.ndarray] = {}
    for purpose, (mean, covariance) in KEYS.items():
        if purpose in layers:
            g = side.gaussian(layers[purpose])
            arrays |= {mean: g.mu, covariance: g.sigma}
    assert side.count
    return arrays | ({FEATURES: side.rows[layers["prc"]]} if flags.features else {}), side.count
