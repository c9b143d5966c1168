"""What a data set is to the trainer: rows that are read when asked, the order they are seen in, what a source tells.

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


class Rows(Protocol):
    """What is read a batch of rows at a time: an array, or what decodes, draws or maps its rows when asked."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class LazyImages:
    """(N, 3, S, S) uint8 that are made when they are asked for; a subclass has `__getitem__`."""

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
    """A data set in memory, memory-mapped, or made when it is asked for."""

    images: Rows
    """(N, C, H, W) uint8 pixels, or floating-point latents."""
    labels: Rows
    """(N,) int64."""
    reference: Rows
    """(M, C, H, W) uint8 real images that the metrics compare with."""
    held_out: Rows | None = None
    """(K, C, H, W) uint8 real images that are never trained on, if any."""
    held_out_labels: np.ndarray | None = None
    files: Mapping[Path, int] = field(default_factory=dict)
    """What is memory-mapped: file -> bytes."""
    flip: bool = False
    """Whether training mirrors each image with probability one half."""

    def order(self, seed: int, position: int, size: int) -> np.ndarray:
        """Rows of images number `position` to `position + size` of the training stream, (size,)."""
        return stream_indices(seed, position, len(self.images), size)

    def inputs(self, rows: np.ndarray, seed: int, own: slice = slice(None)) -> np.ndarray:
        """What the network is trained on, (B, C, H, W) float32: pixels in [-1, 1], or latents.

        `rows` are the whole batch's, of which `own` are wanted; what is drawn (mirroring) is a function of
        the seed and the place in the whole batch.
        """
        flips = np.random.Generator(np.random.PCG64(seed)).random(len(rows)) < 0.5 if self.flip else None
        images = normalise(self.images[rows[own]])
        if flips is not None:
            images[flips[own]] = images[flips[own], ..., ::-1]
        return images

    def check(self) -> None:
        """ValueError when a mapped file is gone or has shrunk, which reading from it would not survive."""
        for path, size in self.files.items():
            try:
                now = path.stat().st_size
            except OSError as error:
                raise ValueError(
                    f"{path} is gone while it is read ({error.strerror}); put it back, and go on"
                ) from None
            if now < size:
                raise ValueError(
                    f"{path} has shrunk from {size:,} to {now:,} bytes while it is read; put it back whole"
                )

    def reference_hash(self) -> str:
        """SHA-256 of the reference images and their shape."""
        h = hashlib.sha256(repr((self.reference.shape, str(self.reference.dtype))).encode())
        for start in range(0, len(self.reference), 256):
            h.update(np.ascontiguousarray(self.reference[start : start + 256]).tobytes())
        return h.hexdigest()


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One data set: what is known without loading it, and its loader."""

    channels: int
    size: int
    num_classes: int
    """0: there are no classes."""
    latent: bool = False
    vq: bool = False
    """Latents of LDM's VQ autoencoders, which are not scaled."""
    about: str = ""
    hash: str = ""
    """Short digest of what the set is, wherever it lies; "" for what is built in."""
    flip: bool = False
    """The set's own habit: whether training mirrors its images unless it is told otherwise."""
    classes: tuple[str, ...] = ()
    """Names of the classes, where they are known."""
    load: Callable[[Path], Dataset]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(derive_seed(seed, "epoch", epoch))).permutation(count)


def stream_indices(seed: int, position: int, count: int, size: int) -> np.ndarray:
    """Indices of images number `position` to `position + size` of the training stream, (size,).

    The stream visits every image once an epoch, in an order drawn from (seed, epoch): a pure
    function of its arguments, so a resumed run goes on exactly where it stopped.
    """
    positions = np.arange(position, position + size)
    epochs, offsets = positions // count, positions % count
    return np.concatenate([_permutation(seed, int(e), count)[offsets[epochs == e]] for e in np.unique(epochs)])


def normalise(images: np.ndarray) -> np.ndarray:
    """uint8 pixels to float32 in [-1, 1]; latents to float32 as they are."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 127.5 - 1
    return images.astype(np.float32)
