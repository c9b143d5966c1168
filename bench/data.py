"""Data sets as plain arrays: what each one is, where it comes from, and the order it is seen in.

N images, C channels, H W size.  Imports no torch: the trainer turns arrays into tensors.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from .seeds import fold


class Rows(Protocol):
    """What is read a batch of rows at a time: an array, or what decodes, draws or maps its rows when asked."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """A data set in memory, memory-mapped, or made when it is asked for."""

    images: Rows
    """(N, C, H, W) uint8 pixels, or floating-point latents."""
    labels: np.ndarray
    """(N,) int64."""
    reference: np.ndarray
    """(M, C, H, W) uint8 real images that the metrics compare with."""
    held_out: np.ndarray | None = None
    """(K, C, H, W) uint8 real images that are never trained on, if any."""
    held_out_labels: np.ndarray | None = None
    files: Mapping[Path, int] = field(default_factory=dict)
    """What is memory-mapped: file -> bytes."""
    flip: bool = False
    """Whether training mirrors each image with probability one half."""

    def order(self, seed: int, position: int, size: int) -> np.ndarray:
        """Rows of images number `position` to `position + size` of the training stream, (size,)."""
        return indices_at(seed, position, len(self.images), size)

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
        for start in range(0, len(self.reference), 4096):
            h.update(np.ascontiguousarray(self.reference[start : start + 4096]).tobytes())
        return h.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set: its shape, known without loading it, and its loader."""

    channels: int
    size: int
    num_classes: int
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
    load: Callable[[Path], Arrays]


def load_digits(folder: Path) -> Arrays:
    """scikit-learn's 1,797 handwritten digits (UCI, 8x8, 17 grey levels); every fourth is held out."""
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    held = np.arange(len(images)) % 4 == 3
    return Arrays(
        images=images[~held],
        labels=labels[~held],
        reference=images[~held],
        held_out=images[held],
        held_out_labels=labels[held],
    )


def load_folder(folder: Path) -> Arrays:
    """images.npy (N, C, H, W) uint8 or float, labels.npy (N,), both memory-mapped.

    Latents also need reference.npy, (M, 3, H, W) uint8 real images; for pixels it may be left out.
    ValueError says what is missing or misshapen.
    """
    missing = [name for name in ("images.npy", "labels.npy") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} has no {' and no '.join(missing)}")
    images = _open(folder / "images.npy")
    labels = np.asarray(_open(folder / "labels.npy")).astype(np.int64)
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"{folder / 'images.npy'} has shape {images.shape}; it must be (N, C, size, size)")
    if labels.shape != (len(images),) or not len(labels):
        raise ValueError(f"{folder / 'labels.npy'} has shape {labels.shape}; it must be ({len(images)},)")
    if labels.min() < 0:
        raise ValueError(f"{folder / 'labels.npy'} has the label {labels.min()}; labels start at 0")
    if (folder / "reference.npy").is_file():
        reference = _open(folder / "reference.npy")
    elif images.dtype == np.uint8:
        reference = images
    else:
        raise ValueError(f"{folder} has latents but no reference.npy, the real images (uint8) to compare with")
    files = {path: path.stat().st_size for path in (folder / "images.npy", folder / "reference.npy") if path.is_file()}
    return Arrays(images=images, labels=labels, reference=reference, files=files)


def _open(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a .npy array of numbers; is it damaged?") from error
    return array


def _imagenet(size: int, latent: bool) -> Source:
    about = f"ImageNet at {size * 8 if latent else size} pixels{', Stable Diffusion latents' if latent else ''}"
    channels = 4 if latent else 3
    return Source(channels=channels, size=size, num_classes=1000, latent=latent, about=about, load=load_folder)


def _vq(channels: int, size: int) -> Source:
    about = f"ImageNet at 256 pixels, latents of LDM's VQ-f{256 // size}"
    return Source(channels=channels, size=size, num_classes=1000, latent=True, vq=True, about=about, load=load_folder)


SOURCES: Mapping[str, Source] = {
    "digits": Source(channels=1, size=8, num_classes=10, about="handwritten digits, 8x8, built in", load=load_digits),
    "cifar10": Source(channels=3, size=32, num_classes=10, about="CIFAR-10", load=load_folder),
    "celeba64": Source(channels=3, size=64, num_classes=0, about="CelebA, 64 pixels, no classes", load=load_folder),
    "imagenet64": _imagenet(64, latent=False),
    "imagenet128": _imagenet(128, latent=False),
    "imagenet256": _imagenet(256, latent=False),
    "imagenet512": _imagenet(512, latent=False),
    "imagenet256-latents": _imagenet(32, latent=True),
    "imagenet512-latents": _imagenet(64, latent=True),
    "imagenet256-vq4": _vq(3, 64),
    "imagenet256-vq8": _vq(4, 32),
}


ENCODED = "latents:"
"""What a folder that bench.encode made is named with."""


def folder_of(name: str, root: str) -> Path:
    """Where a data set's files are."""
    return Path(root) / name if name in SOURCES else Path(name.removeprefix(ENCODED))


def is_encoded(name: str, root: str) -> bool:
    """Whether a data set is latents of bench.encode: it is said so, or its folder is such a set."""
    return name.startswith(ENCODED) or (folder_of(name, root) / "manifest.json").is_file()


def source(name: str, root: str = "data") -> Source:
    """The entry of a known data set, or one made for a folder of arrays.

    Raises ValueError with the nearest known names when it is neither.
    """
    if is_encoded(name, root):
        return _encoded(name, root)
    if name in SOURCES:
        return SOURCES[name]
    if Path(name).is_file():
        raise ValueError(f"{name} is a file; name a folder with images.npy and labels.npy")
    if not Path(name).is_dir():
        near = difflib.get_close_matches(name, SOURCES, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(SOURCES)}"
        raise ValueError(f"unknown data set {name!r}, and no such folder; {hint}")
    arrays = load_folder(Path(name))
    _, channels, size, _ = arrays.images.shape
    return Source(
        channels=channels,
        size=size,
        num_classes=int(arrays.labels.max()) + 1,
        latent=arrays.images.dtype != np.uint8,
        load=load_folder,
    )


def _encoded(name: str, root: str) -> Source:
    from . import latents

    found, promised = latents.source_of(folder_of(name, root)), SOURCES.get(name)
    for what in ("channels", "size", "vq") if promised else ():
        if getattr(found, what) != getattr(promised, what):
            raise ValueError(
                f"{folder_of(name, root)} has latents of {what} {getattr(found, what)}; {name} means "
                f"{getattr(promised, what)}: name the folder with --data latents:PATH"
            )
    return found


def load_reference(name: str, root: str = "data") -> Arrays:
    """The data set without what is trained on, where only reference.npy is there.

    Published weights are evaluated against it; ValueError as `load`.
    """
    what, path = source(name, root), folder_of(name, root) / "reference.npy"
    if what.load is not load_folder or (path.parent / "images.npy").is_file():
        return load(name, root)
    if not path.is_file():
        raise ValueError(
            f"{name} is not in {path.parent}: put reference.npy (M, 3, H, W) uint8, the real images, there"
        )
    reference = _open(path)
    return Arrays(images=reference[:0], labels=np.zeros(0, np.int64), reference=reference)


def load(name: str, root: str = "data") -> Arrays:
    """The arrays of a data set.

    Where the files are not there, or have another shape than the name promises, ValueError says
    what is missing and how to make it.
    """
    what, folder = source(name, root), folder_of(name, root)
    if what.load is load_folder and not (folder / "images.npy").is_file():
        kind = "float16 latents, scaled by 0.18215" if what.latent else "uint8"
        also = ", and reference.npy (M, 3, H, W) uint8," if what.latent else ""
        raise ValueError(
            f"{name} is not in {folder}: put images.npy (N, {what.channels}, {what.size}, {what.size}) {kind} and "
            f"labels.npy (N,){also} there, or use --data digits, which works at once"
        )
    arrays = what.load(folder)
    shape = (what.channels, what.size, what.size)
    if arrays.images.shape[1:] != shape:
        raise ValueError(f"{folder / 'images.npy'} holds {arrays.images.shape[1:]} images; {name} means {shape}")
    if what.num_classes and arrays.labels.max() >= what.num_classes:
        raise ValueError(f"{folder} has the label {arrays.labels.max()}; {name} has {what.num_classes} classes")
    return arrays


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(fold(seed, "epoch", epoch))).permutation(count)


def indices_at(seed: int, position: int, count: int, size: int) -> np.ndarray:
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
