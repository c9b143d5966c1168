"""What the two sides of an evaluation are: a folder of images, an .npz, statistics, or a run.

ADM's reference files hold both images (`arr_0`) and the statistics of a whole training set (`mu`,
`sigma` of the pooled features, `mu_s`, `sigma_s` of the spatial ones), which then count for FID and
sFID, while the images count for precision, recall and KID.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.config.overrides import load_config
from bench.config.schema import RunConfig
from bench.data import sources
from bench.data.archives import open_npz_arrays
from bench.evaluation import reference_manifest
from bench.evaluation.feature_store import STATISTICS_KEYS, FeatureStore
from bench.evaluation.frechet import Gaussian
from bench.evaluation.image_io import ArrayImages, FolderImages, ImageSource, NpzImages
from bench.evaluation.reference_manifest import ReferenceManifest
from bench.storage.run_folder import RunFolder

Role = Literal["samples", "reference"]


@dataclass(frozen=True, kw_only=True)
class EvaluationInput:
    """One side, opened."""

    path: Path
    kind: Literal["folder", "npz", "statistics", "run"]
    images: ImageSource | None = None
    stored: FeatureStore | None = None
    """Features of a run's samples, made when they were sampled."""
    fitted: dict[str, Gaussian] = field(default_factory=dict)
    """Purpose -> stored statistics."""
    manifest: ReferenceManifest | None = None
    """What the file says of its statistics, where it does (bench.reference)."""
    rows: np.ndarray | None = None
    """(N, F) stored features of precision, recall and KID."""

    def __post_init__(self) -> None:
        if self.images and self.images.count < 2:
            raise ValueError(f"{self.path} has {self.images.count} usable image(s); at least 2 are needed")

    @property
    def size(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the images; None where only statistics are known."""
        known = self.stored or self.images
        return known.size if known else None

    @property
    def count(self) -> int | None:
        """Images; None where a file of statistics does not tell."""
        known = self.stored or self.images or self.manifest
        return known.count if known else None

    def words(self) -> dict[str, Any]:
        """The side in a result file."""
        size = list(self.size) if self.size else None
        bad = self.images.left_out if self.images else []
        left_out = list({b["file"]: b for b in bad}.values())  # a second extractor finds them again
        return {
            "path": str(self.path),
            "kind": self.kind,
            "size": size,
            "stored_statistics": sorted(self.fitted),
            "manifest": asdict(self.manifest) if self.manifest else None,
            "left_out": left_out,
        }


def open_input(path: Path, role: Role, *, channels: tuple[int, ...] = (3,), skip_bad: bool = False) -> EvaluationInput:
    """A side by its path; ValueError says in a sentence why it cannot be one."""
    if (path / "config.json").is_file():
        return _run(path, role, channels)
    if path.is_dir():
        return EvaluationInput(path=path, kind="folder", images=FolderImages(path, channels, skip_bad))
    if not path.is_file():
        raise ValueError(f"{path} is no file and no folder; name a folder of images, an .npz, or a run")
    return _npz(path, channels)


def read_run_config(path: Path) -> RunConfig | None:
    """The config of a run folder; None for anything else.  ValueError where it is damaged."""
    if not (path / "config.json").is_file():
        return None
    try:
        return load_config(path)
    except ValueError as error:
        raise ValueError(f"{path / 'config.json'} is no config of a run: {error}") from None


def read_file_manifest(path: Path) -> ReferenceManifest | None:
    """The manifest of a file of statistics; None for anything without."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    with open_npz_arrays(path) as z:
        return reference_manifest.read_manifest(
            str(path),
            {reference_manifest.MANIFEST_KEY: z[reference_manifest.MANIFEST_KEY]}
            if reference_manifest.MANIFEST_KEY in z
            else {},
        )[0]


def _npz(path: Path, channels: tuple[int, ...]) -> EvaluationInput:
    with open_npz_arrays(path) as z:
        names = set(z.files)
        fitted = {p: _gaussian(path, z, *keys) for p, keys in STATISTICS_KEYS.items() if keys[0] in names}
        made, rows = reference_manifest.read_manifest(str(path), z)
    if "arr_0" not in names and fitted:
        return EvaluationInput(path=path, kind="statistics", fitted=fitted, manifest=made, rows=rows)
    return EvaluationInput(path=path, kind="npz", images=NpzImages(path, channels), fitted=fitted, manifest=made)


def _gaussian(path: Path, z: Any, mean: str, covariance: str) -> Gaussian:
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


def _run(path: Path, role: Role, channels: tuple[int, ...]) -> EvaluationInput:
    try:
        config = load_config(path)
    except (ValueError, json.JSONDecodeError) as error:
        raise ValueError(f"{path / 'config.json'} is no config of a run: {error}") from None
    if role == "reference":
        arrays = sources.open_dataset(config.data)
        images = ArrayImages(arrays.reference, f"the reference of {config.data.name}")
        if images.size[0] not in channels:
            raise ValueError(f"the reference of {config.data.name} is grey; the extractor takes RGB images")
        return EvaluationInput(path=path, kind="run", images=images)
    return _samples_of(RunFolder(path), channels)


def _samples_of(run: RunFolder, channels: tuple[int, ...]) -> EvaluationInput:
    """The newest samples of a run: their features, their images, or both."""
    found = [*(run.path / "features").glob("[0-9]*"), *(run.path / "samples").glob("[0-9]*")]
    points = [int(f.stem) for f in found if f.stem.isdigit() and f.suffix in ("", ".npz")]
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
        return EvaluationInput(path=features, kind="run", images=images, stored=FeatureStore(features))
    assert images
    return EvaluationInput(path=Path(images.name), kind="run", images=images)
