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

from bench.config.identity import digest_json
from bench.config.naming import dataset_title
from bench.config.schema import DataConfig, EvaluationConfig
from bench.data import sources
from bench.data.image_folder import IMAGE_ENDINGS
from bench.evaluation import metrics
from bench.evaluation.comparison import INCEPTION, describe_weights
from bench.evaluation.extractors.extractor_registry import EXTRACTORS, build_network, check_image_size
from bench.evaluation.feature_extraction import collect_features
from bench.evaluation.feature_store import STATISTICS_KEYS
from bench.evaluation.image_io import ArrayImages, ImageSource
from bench.evaluation.inputs import EvaluationInput, open_input, read_file_manifest, read_run_config
from bench.evaluation.reference_manifest import FEATURES_KEY, MANIFEST_FORMAT, MANIFEST_KEY, ReferenceManifest
from bench.experiments import presets
from bench.storage.atomic import atomic_write, file_sha256
from bench.terminal.progress_bar import ProgressBar

RESIZE_NOTE = "none before the extractor, which resizes as its own code does"
NO_CROP = "none"
ADM_CROP = "ADM's (halved by boxes, bicubic, the middle) to {} pixels"


def build_reference(flags: argparse.Namespace) -> tuple[Path, ReferenceManifest, bool]:
    """(file, manifest, whether it was made now); ValueError says in a sentence why there is none."""
    name, protocol = choose_extractor_and_protocol(flags)
    given, hashed = open_reference_images(flags, EXTRACTORS[name].channels)
    assert given.images
    check_image_size(flags.data, given.images.size, name)
    weights = EXTRACTORS[name].prepare(flags.weights, Path(flags.cache))
    made = make_manifest(
        flags, given.images.size, given.images.count, hashed, name, describe_weights(weights), protocol
    )
    path = reference_path(Path(flags.cache), made, flags.skip_bad)
    if path.is_file():
        there = read_file_manifest(path)
        if there is None:
            raise ValueError(f"{path} has no manifest; remove it and run again")
        return path, there, False
    arrays, count = compute_arrays(given.images, name, weights, flags)
    made = replace(made, count=count, left_out=len(given.images.left_out))
    with atomic_write(path) as partial, partial.open("wb") as f:
        np.savez(f, allow_pickle=False, **{MANIFEST_KEY: np.array(made.text())}, **arrays)
    return path, made, True


def choose_extractor_and_protocol(flags: argparse.Namespace) -> tuple[str, metrics.ProtocolName]:
    """(extractor, protocol): what was asked for, the run's, what the data imply, or Inception and adm."""
    config, own = read_run_config(Path(flags.data)), EvaluationConfig(extractor=INCEPTION)
    if config:
        own = config.evaluation
    elif is_data_source(flags.data):
        own = presets.defaults_for(flags.data, sources.open_source(flags.data, flags.root)).evaluation
    return flags.extractor or own.extractor, flags.protocol or own.protocol


def is_data_source(name: str) -> bool:
    """Whether bench/data/sources.py opens this; bench.evaluate opens folders of images and .npz files itself."""
    path = Path(name)
    if name in sources.KNOWN_SOURCES or not path.exists():
        return True
    if path.is_dir():
        return not any(f.suffix.lower() in IMAGE_ENDINGS for f in path.iterdir() if f.is_file())
    return path.suffix != ".npz"


def open_reference_images(flags: argparse.Namespace, channels: tuple[int, ...]) -> tuple[EvaluationInput, str]:
    """The images, and their hash; ValueError where DATA holds none."""
    path, config = Path(flags.data), read_run_config(Path(flags.data))
    if config or is_data_source(flags.data):
        own = config.data if config else DataConfig(name=flags.data, root=flags.root)
        named, arrays = own.name, sources.open_dataset(own, trained=False)
        images: ImageSource = ArrayImages(arrays.reference, f"the reference of {named}")
        if images.size[0] not in channels:
            raise ValueError(f"the reference of {named} is grey; the extractor takes RGB images")
        return EvaluationInput(path=path, kind="run", images=images), arrays.reference_hash()
    given = open_input(path, "reference", channels=channels, skip_bad=flags.skip_bad)
    if not given.images:
        raise ValueError(f"{path} holds statistics already, and no images to make them of")
    return given, hash_folder(path) if path.is_dir() else file_sha256(path)


def hash_folder(path: Path) -> str:
    """SHA-256 of the names and contents of a folder's files."""
    h = hashlib.sha256()
    for file in sorted(f for f in path.iterdir() if f.is_file()):
        h.update(f"{file.name} {file_sha256(file)}\n".encode())
    return h.hexdigest()


def make_manifest(
    flags: argparse.Namespace,
    size: tuple[int, int, int],
    count: int,
    hashed: str,
    extractor: str,
    weights: dict[str, Any],
    protocol: str,
) -> ReferenceManifest:
    """What the file will say, images that turn out damaged apart."""
    layers, config = EXTRACTORS[extractor].layers, read_run_config(Path(flags.data))
    own = config.data.name if config else flags.data
    name = dataset_title(own) if config or is_data_source(own) else Path(own).name
    arrays = {mean: layers[purpose] for purpose, (mean, _) in STATISTICS_KEYS.items() if purpose in layers}
    return ReferenceManifest(
        format=MANIFEST_FORMAT,
        data=name,
        data_sha256=hashed,
        count=count,
        size=size,
        resize=RESIZE_NOTE,
        crop=ADM_CROP.format(size[1]) if sources.split_crop_size(own)[1] else NO_CROP,
        left_out=0,
        extractor=extractor,
        weights=weights["file"],
        weights_sha256=weights["sha256"],
        protocol=protocol,
        layers=arrays | ({FEATURES_KEY: layers["prc"]} if flags.features else {}),
        versions={
            "python": platform.python_version(),
            **{p: version(p) for p in ("backbone-bench", "torch", "torch-fidelity", "numpy")},
        },
    )


def reference_path(cache: Path, made: ReferenceManifest, skip_bad: bool) -> Path:
    """Where the file belongs: by its data's name and a hash of what its numbers depend on."""
    words = "".join(c if c.isalnum() or c in "-_" else "_" for c in made.data)
    depends = {k: v for k, v in asdict(made).items() if k not in ("data", "count", "left_out", "versions")}
    return cache / "references" / f"{words}-{digest_json([depends, skip_bad])[:12]}.npz"


def compute_arrays(
    images: ImageSource, name: str, weights: Path, flags: argparse.Namespace
) -> tuple[dict[str, np.ndarray], int]:
    """The arrays of the file, and how many images they are of."""
    layers, cuda = EXTRACTORS[name].layers, flags.device != "cpu" and torch.cuda.is_available()
    net = build_network(name, weights, layers.values(), cuda)
    keep = {layers["prc"]} if flags.features else set()
    fit = {layers[p] for p in STATISTICS_KEYS if p in layers} - keep
    progress = ProgressBar(f"{flags.data}, {name}", images.count)
    side = collect_features(
        net, images, keep=keep, fit=fit, batch=flags.batch, skip_bad=flags.skip_bad, progress=progress
    )
    arrays: dict[str, np.ndarray] = {}
    for purpose, (mean, covariance) in STATISTICS_KEYS.items():
        if purpose in layers:
            g = side.gaussian(layers[purpose])
            arrays |= {mean: g.mu, covariance: g.sigma}
    assert side.count
    return arrays | ({FEATURES_KEY: side.rows[layers["prc"]]} if flags.features else {}), side.count
