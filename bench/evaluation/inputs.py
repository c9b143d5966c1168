"""Inputs of an evaluation: a folder of images, an .npz file, stored statistics, or a run.

ADM's reference files hold images (`arr_0`) and the statistics of a whole training set: `mu` and `sigma` of the pooled
features, `mu_s` and `sigma_s` of the spatial features.  FID and sFID then use the statistics; precision, recall and
KID use the images.

N images, C channels, H height, W width, F features.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.config.overrides import load_config
from bench.config.schema import RunConfig
from bench.data import sources
from bench.data.archives import open_npz_arrays
from bench.data.dataset import Rows
from bench.evaluation import reference_manifest
from bench.evaluation.feature_store import STATISTICS_KEYS, FeatureStore
from bench.evaluation.frechet import Gaussian
from bench.evaluation.image_io import ArrayImages, FolderImages, ImageSource, NpzImages
from bench.evaluation.reference_manifest import ReferenceManifest
from bench.storage.run_folder import RunFolder

Role = Literal["samples", "reference"]


@dataclass(frozen=True, kw_only=True)
class EvaluationInput:
    """One of the two inputs of an evaluation, opened."""

    path: Path
    input_type: Literal["folder", "npz", "statistics", "run"]
    images: ImageSource | None = None
    store: FeatureStore | None = None
    """Features of a run's samples."""
    statistics: dict[str, Gaussian] = field(default_factory=dict)
    """Purpose -> statistics in the file."""
    manifest: ReferenceManifest | None = None
    """Manifest of the statistics; None for a file that bench.reference did not write."""
    features: np.ndarray | None = None
    """(N, F) features in the file, for precision, recall and KID."""

    def __post_init__(self) -> None:
        if self.images and self.images.count < 2:
            raise ValueError(f"{self.path} has {self.images.count} usable image(s); at least 2 are needed")

    @property
    def size(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the images; None if there are only statistics."""
        source = self.store or self.images
        return source.size if source else None

    @property
    def count(self) -> int | None:
        """Number of images; None for statistics without a manifest."""
        source = self.store or self.images or self.manifest
        return source.count if source else None

    def statistics_by_layer(self, layers: Mapping[str, str]) -> dict[str, Gaussian]:
        """Return {layer: statistics in the file} for an extractor's {purpose: layer}."""
        return {layers[p]: g for p, g in self.statistics.items() if p in layers}

    def features_by_layer(self, layers: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Return {layer: features in the file} for an extractor's {purpose: layer}."""
        return {} if self.features is None else {layers["prc"]: self.features}

    def check_width(self, purpose: str, width: int) -> None:
        """ValueError if the file's statistics for a purpose have another width than the other sample set."""
        ours = len(self.statistics[purpose].mu)
        if ours != width:
            mean, _ = STATISTICS_KEYS[purpose]
            raise ValueError(f"{self.path}: {mean} has {ours} features where the other sample set has {width}")

    def to_dict(self) -> dict[str, Any]:
        """Return the input's description in a result file."""
        # A second extractor appends the same images to left_out again.
        left_out = {image["file"]: image for image in (self.images.left_out if self.images else [])}
        return {
            "path": str(self.path),
            "kind": self.input_type,
            "size": list(self.size) if self.size else None,
            "stored_statistics": sorted(self.statistics),
            "manifest": asdict(self.manifest) if self.manifest else None,
            "left_out": list(left_out.values()),
        }


def open_input(path: Path, role: Role, *, channels: tuple[int, ...] = (3,), skip_bad: bool = False) -> EvaluationInput:
    """Open an input by its path; ValueError says why that is impossible.

    A run as samples stands for its newest samples, and as reference for its data's reference images.  `channels` are
    the numbers of channels that the extractor takes.
    """
    config = read_run_config(path)
    if config:
        return _open_run_reference(path, config, channels) if role == "reference" else _open_run_samples(path, channels)
    if path.is_dir():
        return EvaluationInput(path=path, input_type="folder", images=FolderImages(path, channels, skip_bad))
    if not path.is_file():
        raise ValueError(f"{path} is no file and no folder; name a folder of images, an .npz, or a run")
    return _open_npz(path, channels)


def read_run_config(path: Path) -> RunConfig | None:
    """Read the config of a run folder; None for any other path.  ValueError if it is damaged."""
    if not (path / "config.json").is_file():
        return None
    try:
        return load_config(path)
    except ValueError as error:
        raise ValueError(f"{path / 'config.json'} is no config of a run: {error}") from None


def read_file_manifest(path: Path) -> ReferenceManifest | None:
    """Read the manifest of a file of statistics; None for any other path."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    with open_npz_arrays(path) as z:
        key = reference_manifest.MANIFEST_KEY
        return reference_manifest.read_manifest(str(path), {key: z[key]} if key in z else {})[0]


def _open_npz(path: Path, channels: tuple[int, ...]) -> EvaluationInput:
    with open_npz_arrays(path) as z:
        names = set(z.files)
        statistics = {p: _read_gaussian(path, z, *keys) for p, keys in STATISTICS_KEYS.items() if keys[0] in names}
        manifest, features = reference_manifest.read_manifest(str(path), z)
    if "arr_0" in names or not statistics:
        images = NpzImages(path, channels)
        return EvaluationInput(path=path, input_type="npz", images=images, statistics=statistics, manifest=manifest)
    return EvaluationInput(
        path=path, input_type="statistics", statistics=statistics, manifest=manifest, features=features
    )


def _read_gaussian(path: Path, z: Any, mean: str, covariance: str) -> Gaussian:
    """Read a mean and covariance; ValueError unless they are real, finite and a covariance."""
    if covariance not in z.files:
        raise ValueError(f"{path} has {mean} but no {covariance}")
    mu, sigma = z[mean], z[covariance]
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(f"{path}: {mean} is {mu.shape} and {covariance} {sigma.shape}; they must be (F,) and (F, F)")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{path}: {mean} or {covariance} hold NaN or infinity")
    if np.iscomplexobj(mu) or np.iscomplexobj(sigma):
        raise ValueError(f"{path}: {mean} or {covariance} are complex; they must be real")
    scale = np.abs(sigma).max(initial=0)
    if np.abs(sigma - sigma.T).max(initial=0) > 1e-4 * scale or sigma.diagonal().min(initial=0) < -1e-6 * scale:
        raise ValueError(
            f"{path}: {covariance} is no covariance; it must be symmetric, with nothing below 0 on its diagonal"
        )
    return Gaussian(mu=mu, sigma=sigma.astype(np.float64))


def _open_run_reference(path: Path, config: RunConfig, channels: tuple[int, ...]) -> EvaluationInput:
    dataset = sources.open_dataset(config.data)
    return EvaluationInput(
        path=path, input_type="run", images=open_reference_array(dataset.reference, config.data.name, channels)
    )


def open_reference_array(reference: Rows, data: str, channels: tuple[int, ...]) -> ArrayImages:
    """Wrap the reference images of a data set; ValueError if the extractor does not take their channels."""
    images = ArrayImages(reference, f"the reference of {data}")
    if images.size[0] not in channels:
        raise ValueError(f"the reference of {data} is grey; the extractor takes RGB images")
    return images


def _open_run_samples(path: Path, channels: tuple[int, ...]) -> EvaluationInput:
    """Open the newest samples of a run: their features, their images, or both."""
    run = RunFolder(path)
    outputs = [*(run.path / "features").glob("[0-9]*"), *(run.path / "samples").glob("[0-9]*")]
    points = [int(f.stem) for f in outputs if f.stem.isdigit() and f.suffix in ("", ".npz")]
    if not points:
        raise ValueError(f"{run.path} has no samples yet, in features/ or samples/; run it with python -m bench.run")
    features, npz, png = (
        run.features_path(max(points)),
        *(run.export_path(max(points), kind) for kind in ("npz", "png")),
    )
    images: ImageSource | None = NpzImages(npz, channels) if npz.is_file() else None
    if png.is_dir() and not images:
        images = FolderImages(png, channels)
    if features.is_dir():
        return EvaluationInput(path=features, input_type="run", images=images, store=FeatureStore(features))
    assert images
    return EvaluationInput(path=Path(images.name), input_type="run", images=images)
