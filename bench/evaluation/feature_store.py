"""The feature store: what is kept of the samples of an evaluation point when their images are not.

features/IMAGES/
    store.json          extractor and hash of its weights, count, classes, image size, layers, checksums
    LAYER.npy           (N, F) float32, image by image; read as memory maps
    statistics.npz      mu, sigma (of the FID's layer), mu_s, sigma_s (of sFID's): a side of bench.evaluate
    pictures.npy        (P, H, W, C) uint8: the images that a picture of the samples shows
While sampling there is features/IMAGES.parts/, the same in shards.

N images, F features, P pictures, B images of a batch.
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
"""Purpose -> names of its statistics in a file."""
GRID_COLUMNS, GRID_ROWS = 10, 10
"""Classes in a picture of samples, and images of each."""
STORE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class FeatureProvenance:
    """What features are of: equal fields mean comparable features."""

    extractor: str
    weights: str
    """File name of the extractor's weights."""
    sha256: str
    """Their hash."""


def in_sample_grid(indices: np.ndarray, num_classes: int) -> np.ndarray:
    """(N,) bool: the first images of the first classes, or the first of all, which a picture shows."""
    if not num_classes:
        return indices < GRID_COLUMNS * GRID_ROWS
    return (indices % num_classes < GRID_COLUMNS) & (indices // num_classes < GRID_ROWS)


class FeatureStoreWriter(ShardedOutput):
    """The store of one evaluation point while it is made: images go in, their features are kept.

    `extract` gives {layer: (B, F) float32} of image numbers and images (B, H, W, C).
    """

    def __init__(
        self,
        path: Path,
        count: int,
        num_classes: int,
        made: FeatureProvenance,
        purposes: Mapping[str, str],
        extract: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
    ) -> None:
        super().__init__(path, count, of=f"{made.extractor} {made.sha256}")
        self.num_classes, self.made, self.extract = num_classes, made, extract
        self.layers = sorted(set(purposes.values()))
        self.statistics = {purposes[p]: names for p, names in STATISTICS_KEYS.items() if p in purposes}

    @property
    def done(self) -> bool:
        """ValueError where another extractor's features lie there."""
        if not self.path.exists():
            return False
        FeatureStore(self.path).check(self.made)
        return True

    def add(self, indices: np.ndarray, images: np.ndarray) -> None:
        shown = images[in_sample_grid(indices, self.num_classes)]
        self.shards.add(indices, pictures=shown, **self.extract(indices, images))

    def assemble(self) -> None:
        statistics: dict[str, np.ndarray] = {}
        pictures = self._pictures()
        with atomic_folder(self.path) as folder:
            np.save(folder / "pictures.npy", pictures, allow_pickle=False)
            layers = {}
            for layer in self.layers:
                moments = RunningMoments() if layer in self.statistics else None
                layers[layer] = self._write(folder / f"{layer}.npy", layer, moments)
                if moments:
                    g = moments.gaussian()
                    statistics |= dict(zip(self.statistics[layer], (g.mu, g.sigma), strict=True))
            with zipfile.ZipFile(folder / "statistics.npz", "w") as z:
                for name, array in statistics.items():
                    with open_npz_member(z, f"{name}.npy") as f:
                        np.lib.format.write_array(f, array)
            manifest = {"count": self.shards.count, "classes": self.num_classes, "size": pictures.shape[1:]}
            write_json(
                folder / "store.json", {"version": STORE_VERSION, **asdict(self.made), **manifest, "layers": layers}
            )

    def _write(self, path: Path, layer: str, moments: RunningMoments | None) -> dict[str, int]:
        """A layer's file and its running statistics, in one pass over the shards."""
        found = {"width": 0, "crc32": 0}

        def seen() -> Iterator[np.ndarray]:
            for block in self.shards.iterate_rows(layer, BLOCK_ROWS):
                found["width"], found["crc32"] = block.shape[1], zlib.crc32(block.data, found["crc32"])
                if moments:
                    moments.add(block)
                yield block

        with path.open("wb") as f:
            write_npy_rows(f, seen(), self.shards.count)
        return found

    def _pictures(self) -> np.ndarray:
        """(P, H, W, C), by image number."""
        found: dict[int, np.ndarray] = {}
        for path, own in self.shards.files.items():
            numbers = own[in_sample_grid(own, self.num_classes)]
            found |= dict(
                zip(numbers.tolist(), self.shards.read_array(path, "pictures") if len(numbers) else [], strict=True)
            )
        return np.stack([found[i] for i in sorted(found)])


class FeatureStore:
    """Features on disk; a ValueError names what is missing or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            told: dict[str, Any] = json.loads((path / "store.json").read_text())
            self.made = FeatureProvenance(**{k: told[k] for k in ("extractor", "weights", "sha256")})
            self.count, self.classes, self.layers = told["count"], told["classes"], told["layers"]
            h, w, c = told["size"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no feature store, or is damaged ({error}); remove it and run again") from None
        self.size: tuple[int, int, int] = (c, h, w)
        """(C, H, W) of the images."""

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) classes the images were made for; None where there are none."""
        return balanced_labels(np.arange(self.count), self.classes)

    def check(self, made: FeatureProvenance) -> None:
        """ValueError where these features are not of the same extractor with the same weights."""
        if (made.extractor, made.sha256) != (self.made.extractor, self.made.sha256):
            raise ValueError(
                f"{self.path} holds features of {self.made.extractor} with weights {self.made.sha256[:12]}, not of "
                f"{made.extractor} with {made.sha256[:12]}; remove it, or name the weights it was made with"
            )

    def widths(self) -> dict[str, int]:
        """Layer -> F."""
        return {layer: told["width"] for layer, told in self.layers.items()}

    def rows(self) -> dict[str, np.ndarray]:
        """{layer: (N, F) float32}, memory-mapped; their checksums are compared first."""
        return {layer: self._layer(layer) for layer in self.layers}

    def fitted(self, purposes: Mapping[str, str]) -> dict[str, Gaussian]:
        """{layer: statistics} of the purposes that need some."""
        with self._readable("statistics.npz"), np.load(self.path / "statistics.npz", allow_pickle=False) as z:
            return {
                purposes[p]: Gaussian(mu=z[mu], sigma=z[sigma], count=self.count)
                for p, (mu, sigma) in STATISTICS_KEYS.items()
                if p in purposes and mu in z.files
            }

    def pictures(self) -> tuple[np.ndarray, np.ndarray | None]:
        """(P, C, H, W) uint8 of the images that a picture shows, and their classes."""
        numbers = np.arange(self.count)
        numbers = numbers[in_sample_grid(numbers, self.classes)]
        with self._readable("pictures.npy"):
            images = np.load(self.path / "pictures.npy", allow_pickle=False)
        return images.transpose(0, 3, 1, 2), balanced_labels(numbers, self.classes)

    def _layer(self, layer: str) -> np.ndarray:
        path, told, crc = self.path / f"{layer}.npy", self.layers[layer], 0
        with self._readable(path.name):
            rows: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
            with path.open("rb") as f:  # not through the map, whose pages would count as memory of this process
                f.seek(rows.offset if isinstance(rows, np.memmap) else 0)
                while data := f.read(2**24):
                    crc = zlib.crc32(data, crc)
        if rows.shape != (self.count, told["width"]) or rows.dtype != np.float32 or crc != told["crc32"]:
            raise ValueError(f"{path} is damaged: not what was written; remove {self.path} and run again")
        return rows

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path / name} is damaged ({error}); remove {self.path} and run again") from None
