"""Feature stores: the features of an evaluation point's samples on disk, without the images.

features/IMAGES/
    store.json          extractor and hash of its weights, count, classes, image size, layers, checksums
    LAYER.npy           (N, F) float32 in order of the images; read as memory maps
    statistics.npz      mu, sigma (of the FID layer), mu_s, sigma_s (of the sFID layer); an input of bench.evaluate
    pictures.npy        (P, H, W, C) uint8: the images of the sample grid
While a store is being written, features/IMAGES.parts/ holds the same arrays in shards.

N images, F features, P images of the sample grid, B images of a batch, H height, W width, C channels.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.evaluation.frechet import BLOCK_ROWS, Gaussian, RunningMoments
from bench.storage.atomic import atomic_folder, write_json
from bench.storage.shards import ShardedOutput, balanced_labels, open_npz_member, write_npy_rows

STATISTICS_KEYS = {"fid": ("mu", "sigma"), "sfid": ("mu_s", "sigma_s")}
"""Purpose -> names of its mean and covariance in a file of ADM's layout."""
GRID_COLUMNS, GRID_ROWS = 10, 10
"""Classes in a sample grid, and images of each class."""
STORE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class FeatureProvenance:
    """The extractor and weights that features come from; features of equal provenance are comparable."""

    extractor: str
    weights: str
    """File name of the extractor's weights."""
    sha256: str
    """Hash of the weights (`extractor_registry.hash_weights`)."""


def in_sample_grid(indices: np.ndarray, num_classes: int) -> np.ndarray:
    """Return (N,) bool: which image numbers belong to the sample grid.

    These are the first images of the first classes, or the first images if there are no classes.
    """
    if not num_classes:
        return indices < GRID_COLUMNS * GRID_ROWS
    return (indices % num_classes < GRID_COLUMNS) & (indices // num_classes < GRID_ROWS)


class FeatureStoreWriter(ShardedOutput):
    """Writer of one evaluation point's store: it takes images and keeps their features.

    `purposes` is {purpose: layer}.  `extract` maps image numbers (B,) and images (B, H, W, C) uint8 to
    {layer: (B, F) float32}.
    """

    def __init__(
        self,
        path: Path,
        count: int,
        num_classes: int,
        provenance: FeatureProvenance,
        purposes: Mapping[str, str],
        extract: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
    ) -> None:
        super().__init__(path, count, of=f"{provenance.extractor} {provenance.sha256}")
        self.num_classes, self.provenance, self.extract = num_classes, provenance, extract
        self.layers = sorted(set(purposes.values()))
        self.statistics_keys = {purposes[p]: names for p, names in STATISTICS_KEYS.items() if p in purposes}

    @property
    def done(self) -> bool:
        """Whether the store is complete; ValueError if it holds another extractor's features."""
        if not self.path.exists():
            return False
        FeatureStore(self.path).check(self.provenance)
        return True

    def add(self, indices: np.ndarray, images: np.ndarray) -> None:
        """Extract and keep the features of images (B, H, W, C) uint8 with these numbers."""
        grid_images = images[in_sample_grid(indices, self.num_classes)]
        self.shards.add(indices, pictures=grid_images, **self.extract(indices, images))

    def assemble(self) -> None:
        """Write the store, all or nothing, from the shards of all images."""
        statistics: dict[str, np.ndarray] = {}
        grid_images = self._grid_images()
        with atomic_folder(self.path) as folder:
            np.save(folder / "pictures.npy", grid_images, allow_pickle=False)
            layers = {}
            for layer in self.layers:
                moments = RunningMoments() if layer in self.statistics_keys else None
                layers[layer] = self._write_layer(folder / f"{layer}.npy", layer, moments)
                if moments:
                    g = moments.gaussian()
                    statistics |= dict(zip(self.statistics_keys[layer], (g.mu, g.sigma), strict=True))
            with zipfile.ZipFile(folder / "statistics.npz", "w") as z:
                for name, array in statistics.items():
                    with open_npz_member(z, f"{name}.npy") as f:
                        np.lib.format.write_array(f, array)
            facts = {"count": self.shards.count, "classes": self.num_classes, "size": grid_images.shape[1:]}
            contents = {"version": STORE_VERSION, **asdict(self.provenance), **facts, "layers": layers}
            write_json(folder / "store.json", contents)

    def _write_layer(self, path: Path, layer: str, moments: RunningMoments | None) -> dict[str, int]:
        """Write a layer's file and update its moments in one pass over the shards; returns {width, crc32}."""
        info = {"width": 0, "crc32": 0}

        def blocks() -> Iterator[np.ndarray]:
            for block in self.shards.iterate_rows(layer, BLOCK_ROWS):
                info["width"], info["crc32"] = block.shape[1], zlib.crc32(block.data, info["crc32"])
                if moments:
                    moments.add(block)
                yield block

        with path.open("wb") as f:
            write_npy_rows(f, blocks(), self.shards.count)
        return info

    def _grid_images(self) -> np.ndarray:
        """Read the images of the sample grid from the shards: (P, H, W, C) uint8 in order of the image numbers."""
        images: dict[int, np.ndarray] = {}
        for path, shard_numbers in self.shards.files.items():
            numbers = shard_numbers[in_sample_grid(shard_numbers, self.num_classes)]
            if len(numbers):
                images |= dict(zip(numbers.tolist(), self.shards.read_array(path, "pictures"), strict=True))
        return np.stack([images[i] for i in sorted(images)])


class FeatureStore:
    """A feature store on disk; ValueError names the file that is missing or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            info: dict[str, Any] = json.loads((path / "store.json").read_text())
            self.provenance = FeatureProvenance(**{k: info[k] for k in ("extractor", "weights", "sha256")})
            self.count, self.classes, self.layers = info["count"], info["classes"], info["layers"]
            h, w, c = info["size"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no feature store, or is damaged ({error}); remove it and run again") from None
        self.size: tuple[int, int, int] = (c, h, w)
        """(C, H, W) of the images."""

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) classes that the samples were conditioned on; None for an unconditional model."""
        return balanced_labels(np.arange(self.count), self.classes)

    def check(self, provenance: FeatureProvenance) -> None:
        """ValueError if the features come from another extractor or other weights."""
        ours = self.provenance
        if (provenance.extractor, provenance.sha256) != (ours.extractor, ours.sha256):
            raise ValueError(
                f"{self.path} holds features of {ours.extractor} with weights {ours.sha256[:12]}, not of "
                f"{provenance.extractor} with {provenance.sha256[:12]}; remove it, or name the weights that it was "
                "written with"
            )

    def widths(self) -> dict[str, int]:
        """Return {layer: F}."""
        return {layer: info["width"] for layer, info in self.layers.items()}

    def features(self) -> dict[str, np.ndarray]:
        """Return {layer: (N, F) float32} as memory maps, after a check of their checksums."""
        return {layer: self._read_layer(layer) for layer in self.layers}

    def statistics(self, purposes: Mapping[str, str]) -> dict[str, Gaussian]:
        """Return {layer: statistics} for those of {purpose: layer} that need a mean and covariance."""
        with self._readable("statistics.npz"), np.load(self.path / "statistics.npz", allow_pickle=False) as z:
            return {
                purposes[p]: Gaussian(mu=z[mu], sigma=z[sigma], count=self.count)
                for p, (mu, sigma) in STATISTICS_KEYS.items()
                if p in purposes and mu in z.files
            }

    def grid_images(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the images of the sample grid (P, C, H, W) uint8, and their classes (P,) or None."""
        numbers = np.arange(self.count)
        numbers = numbers[in_sample_grid(numbers, self.classes)]
        with self._readable("pictures.npy"):
            images = np.load(self.path / "pictures.npy", allow_pickle=False)
        return images.transpose(0, 3, 1, 2), balanced_labels(numbers, self.classes)

    def _read_layer(self, layer: str) -> np.ndarray:
        path, info, crc = self.path / f"{layer}.npy", self.layers[layer], 0
        with self._readable(path.name):
            x_NF: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
            with path.open("rb") as f:  # not through the map: its pages would count as memory of this process
                f.seek(x_NF.offset if isinstance(x_NF, np.memmap) else 0)
                while data := f.read(2**24):
                    crc = zlib.crc32(data, crc)
        if x_NF.shape != (self.count, info["width"]) or x_NF.dtype != np.float32 or crc != info["crc32"]:
            raise ValueError(f"{path} is damaged: its content has changed; remove {self.path} and run again")
        return x_NF

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        """Turn errors of reading a file of the store into a ValueError that names it."""
        try:
            yield
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path / name} is damaged ({error}); remove {self.path} and run again") from None
