"""Types of a data set: `DataSource` (known without reading images), `Dataset` (the images), `Rows` (read on demand).

N images, C channels, H W size, B batch.  Imports no torch: the trainer turns arrays into tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from bench.config.seeds import derive_seed

REFERENCE_CHUNK = 256
"""Reference images hashed at a time."""


class Rows(Protocol):
    """Rows that are read a batch at a time: an array, or an object that decodes, draws or maps them on demand."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class LazyImages:
    """(N, 3, S, S) uint8 images that are computed on demand; subclasses define `__getitem__`."""

    count: int
    size: int

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, 3, self.size, self.size)

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images and labels of a data set, in memory, memory-mapped, or read on demand."""

    images: Rows
    """(N, C, H, W) uint8 pixels, or floating-point latents."""
    labels: Rows
    """(N,) int64."""
    reference: Rows
    """(M, C, H, W) uint8 real images that the metrics compare with."""
    held_out: Rows | None = None
    """(K, C, H, W) uint8 real images that are never trained on, or None."""
    held_out_labels: np.ndarray | None = None
    files: Mapping[Path, int] = field(default_factory=dict)
    """Memory-mapped files -> their sizes in bytes."""
    flip: bool = False
    """Whether training mirrors each image with probability one half."""

    def stream_rows(self, seed: int, position: int, count: int) -> np.ndarray:
        """Return the rows of images `position` to `position + count` of the training stream, (count,)."""
        return stream_indices(seed, position, len(self.images), count)

    def model_inputs(self, rows: np.ndarray, seed: int, selected: slice = slice(None)) -> np.ndarray:
        """Return the network's inputs, (B, C, H, W) float32: pixels in [-1, 1], or latents.

        `rows` are those of the whole batch; `selected` is the part of it to return.  Mirroring depends on
        the seed and on the position in the whole batch.
        """
        flips = np.random.Generator(np.random.PCG64(seed)).random(len(rows)) < 0.5 if self.flip else None
        images = normalise(self.images[rows[selected]])
        if flips is not None:
            images[flips[selected]] = images[flips[selected], ..., ::-1]
        return images

    def check_files(self) -> None:
        """Raise ValueError if a memory-mapped file is gone or has shrunk; reading it would raise SIGBUS."""
        for path, size in self.files.items():
            try:
                current_size = path.stat().st_size
            except OSError as error:
                raise ValueError(
                    f"{path} disappeared while in use ({error.strerror}); restore it and run the same command"
                ) from None
            if current_size < size:
                raise ValueError(f"{path} shrank from {size:,} to {current_size:,} bytes while in use; restore it")

    def reference_hash(self) -> str:
        """Return the SHA-256 of the reference images, their shape and their dtype."""
        h = hashlib.sha256(repr((self.reference.shape, str(self.reference.dtype))).encode())
        for start in range(0, len(self.reference), REFERENCE_CHUNK):
            h.update(np.ascontiguousarray(self.reference[start : start + REFERENCE_CHUNK]).tobytes())
        return h.hexdigest()


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Properties of a data set that are known without reading its images, and the function that reads them."""

    channels: int
    size: int
    num_classes: int
    """0 for a set without classes."""
    latent: bool = False
    vq: bool = False
    """Whether the images are latents of LDM's VQ autoencoders, which are not scaled."""
    about: str = ""
    hash: str = ""
    """Short digest of the contents, independent of the path; "" for built-in sets."""
    flip: bool = False
    """Whether training mirrors the images if `data.flip` is auto."""
    classes: tuple[str, ...] = ()
    """Class names; () if unknown."""
    decoder: str = ""
    """Folder of the autoencoder that bench.encode made these latents with."""
    decoder_hash: str = ""
    """SHA-256 of that autoencoder."""
    name: str = ""
    """The --data string, set by `sources.open_source`."""
    path: Path = Path()
    """The folder or file it is read from, set by `sources.open_source`."""
    load: Callable[[Path], Dataset]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(derive_seed(seed, "epoch", epoch))).permutation(count)


def stream_indices(seed: int, position: int, dataset_size: int, count: int) -> np.ndarray:
    """Return the indices of images `position` to `position + count` of the training stream, (count,).

    The stream visits every image once per epoch, in an order drawn from (seed, epoch).  It is a pure
    function of its arguments, so a resumed run continues exactly where it stopped.
    """
    positions = np.arange(position, position + count)
    epochs, offsets = positions // dataset_size, positions % dataset_size
    return np.concatenate([_permutation(seed, int(e), dataset_size)[offsets[epochs == e]] for e in np.unique(epochs)])


def normalise(images: np.ndarray) -> np.ndarray:
    """Convert uint8 pixels to float32 in [-1, 1], and latents to float32 unchanged."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 127.5 - 1
    return images.astype(np.float32)
