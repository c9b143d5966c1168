"""Reference statistics of real images: compute them once, and keep them in ADM's layout with a manifest."""

from __future__ import annotations

import argparse
import hashlib
import platform
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bench.config.identity import digest_json
from bench.config.naming import dataset_title
from bench.config.schema import DataConfig, EvaluationConfig, ProtocolName, RunConfig
from bench.data import sources
from bench.data.image_folder import IMAGE_ENDINGS
from bench.evaluation.extractors.extractor_registry import EXTRACTORS, INCEPTION, build_network, check_image_size
from bench.evaluation.extractors.weight_hashes import hash_weights
from bench.evaluation.feature_extraction import collect_features
from bench.evaluation.feature_store import STATISTICS_KEYS
from bench.evaluation.flags import check_batch, use_cuda
from bench.evaluation.image_io import ImageSource
from bench.evaluation.inputs import open_input, open_reference_array, read_file_manifest, read_run_config
from bench.evaluation.reference_manifest import FEATURES_KEY, MANIFEST_FORMAT, MANIFEST_KEY, ReferenceManifest
from bench.experiments import presets
from bench.storage.atomic import atomic_write, file_sha256
from bench.terminal.progress_bar import ProgressBar

RESIZE_NOTE = "none before the extractor, which resizes as its own code does"
NO_CROP = "none"
ADM_CROP = "ADM's (halved by boxes, bicubic, the middle) to {} pixels"
PACKAGES = ("backbone-bench", "torch", "torch-fidelity", "numpy")
"""Packages whose versions a manifest records."""


@dataclass(frozen=True, kw_only=True)
class ReferenceRequest:
    """Settings of a file of reference statistics."""

    data: str
    """Data set of bench.run's --data, a folder of images, an .npz file, or a run."""
    features: bool = False
    """Whether the features that precision, recall and KID need are stored too."""
    extractor: str = ""
    """"": the run's extractor, else the data set's default, else Inception."""
    protocol: ProtocolName | None = None
    """None: the run's protocol, else the data set's default, else adm."""
    weights: str = ""
    root: str = "data"
    cache: Path = Path("results") / "cache"
    skip_bad: bool = False
    batch: int = 64
    cuda: bool = False

    @cached_property
    def config(self) -> RunConfig | None:
        """Config of the run that `data` names, if it names one."""
        return read_run_config(Path(self.data))

    @cached_property
    def data_config(self) -> DataConfig | None:
        """The data set that `data` names; None for the inputs of bench.evaluate."""
        if self.config:
            return self.config.data
        return DataConfig(name=self.data, root=self.root) if is_data_source(self.data) else None


def request_from_flags(flags: argparse.Namespace) -> ReferenceRequest:
    """Build the request of a command line; ValueError for flags that are wrong."""
    check_batch(flags.batch)
    return ReferenceRequest(
        data=flags.data,
        features=flags.features,
        extractor=flags.extractor,
        protocol=flags.protocol,
        weights=flags.weights,
        root=flags.root,
        cache=Path(flags.cache),
        skip_bad=flags.skip_bad,
        batch=flags.batch,
        cuda=use_cuda(flags.device),
    )


def build_reference(request: ReferenceRequest) -> tuple[Path, ReferenceManifest, bool]:
    """Compute and write reference statistics, unless their file exists.

    Returns (file, manifest, whether the file is new).  ValueError says why there can be none.
    """
    name, protocol = choose_extractor_and_protocol(request)
    images, images_sha256 = open_reference_images(request, EXTRACTORS[name].channels)
    check_image_size(request.data, images.size, name)
    weights = EXTRACTORS[name].find_weights(request.weights, request.cache)
    manifest = make_manifest(request, images, images_sha256, name, weights, protocol)
    path = reference_path(request.cache, manifest, request.skip_bad)
    if path.is_file():
        existing = read_file_manifest(path)
        if existing is None:
            raise ValueError(f"{path} has no manifest; remove it and run again")
        return path, existing, False
    arrays, count = compute_arrays(request, images, name, weights)
    manifest = replace(manifest, count=count, left_out=len(images.left_out))
    with atomic_write(path) as partial, partial.open("wb") as f:
        np.savez(f, allow_pickle=False, **{MANIFEST_KEY: np.array(manifest.to_json())}, **arrays)
    return path, manifest, True


def choose_extractor_and_protocol(request: ReferenceRequest) -> tuple[str, ProtocolName]:
    """Choose (extractor, protocol): the request's, else the run's, else the data set's, else Inception and adm."""
    defaults = EvaluationConfig(extractor=INCEPTION)
    if request.config:
        defaults = request.config.evaluation
    elif request.data_config:
        source = sources.open_source(request.data, request.root)
        defaults = presets.defaults_for(request.data, source).evaluation
    return request.extractor or defaults.extractor, request.protocol or defaults.protocol


def is_data_source(name: str) -> bool:
    """Return whether bench/data/sources.py opens this; bench.evaluate itself opens folders of images and .npz files."""
    path = Path(name)
    if name in sources.KNOWN_SOURCES or not path.exists():
        return True
    if path.is_dir():
        return not any(f.suffix.lower() in IMAGE_ENDINGS for f in path.iterdir() if f.is_file())
    return path.suffix != ".npz"


def open_reference_images(request: ReferenceRequest, channels: tuple[int, ...]) -> tuple[ImageSource, str]:
    """Open the images; returns them and their SHA-256.  ValueError if the data are only statistics."""
    path, data = Path(request.data), request.data_config
    if data:
        dataset = sources.open_dataset(data, trained=False)
        return open_reference_array(dataset.reference, data.name, channels), dataset.reference_hash()
    images = open_input(path, "reference", channels=channels, skip_bad=request.skip_bad).images
    if not images:
        raise ValueError(f"{path} holds statistics already, and no images to compute them from")
    return images, hash_folder(path) if path.is_dir() else file_sha256(path)


def hash_folder(path: Path) -> str:
    """Return the SHA-256 of the names and contents of a folder's files; subfolders are ignored."""
    h = hashlib.sha256()
    for file in sorted(f for f in path.iterdir() if f.is_file()):
        h.update(f"{file.name} {file_sha256(file)}\n".encode())
    return h.hexdigest()


def make_manifest(
    request: ReferenceRequest,
    images: ImageSource,
    images_sha256: str,
    extractor: str,
    weights: Path,
    protocol: str,
) -> ReferenceManifest:
    """Describe the file before it is computed: `count` and `left_out` do not know of damaged images yet."""
    layers, data = EXTRACTORS[extractor].layers, request.data_config
    source = data.name if data else request.data
    arrays = {mean: layers[purpose] for purpose, (mean, _) in STATISTICS_KEYS.items() if purpose in layers}
    return ReferenceManifest(
        format=MANIFEST_FORMAT,
        data=dataset_title(source) if data else Path(source).name,
        data_sha256=images_sha256,
        count=images.count,
        size=images.size,
        resize=RESIZE_NOTE,
        crop=ADM_CROP.format(images.size[1]) if sources.split_crop_size(source)[1] else NO_CROP,
        left_out=0,
        extractor=extractor,
        weights=weights.name,
        weights_sha256=hash_weights(weights),
        protocol=protocol,
        layers=arrays | ({FEATURES_KEY: layers["prc"]} if request.features else {}),
        versions={"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
    )


def reference_path(cache: Path, manifest: ReferenceManifest, skip_bad: bool) -> Path:
    """Return the path of the file: the data's name and a hash of everything that determines the numbers."""
    title = "".join(c if c.isalnum() or c in "-_" else "_" for c in manifest.data)
    causes = {k: v for k, v in asdict(manifest).items() if k not in ("data", "count", "left_out", "versions")}
    return cache / "references" / f"{title}-{digest_json([causes, skip_bad])[:12]}.npz"


def compute_arrays(
    request: ReferenceRequest, images: ImageSource, name: str, weights: Path
) -> tuple[dict[str, np.ndarray], int]:
    """Compute the arrays of the file; returns them and the number of images."""
    layers = EXTRACTORS[name].layers
    row_layers = {layers["prc"]} if request.features else set()
    sample_set = collect_features(
        build_network(name, weights, layers.values(), request.cuda),
        images,
        row_layers=row_layers,
        moment_layers={layers[p] for p in STATISTICS_KEYS if p in layers} - row_layers,
        batch=request.batch,
        skip_bad=request.skip_bad,
        progress=ProgressBar(f"{request.data}, {name}", images.count),
    )
    arrays: dict[str, np.ndarray] = {}
    for purpose, (mean, covariance) in STATISTICS_KEYS.items():
        if purpose in layers:
            g = sample_set.gaussian(layers[purpose])
            arrays |= {mean: g.mu, covariance: g.sigma}
    if request.features:
        arrays[FEATURES_KEY] = sample_set.features[layers["prc"]]
    assert sample_set.count
    return arrays, sample_set.count
