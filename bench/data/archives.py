"""Data sets in one file, read into memory: CIFAR-10's public archive, and .npz.  Imports no torch.

N images, C channels, H W size.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.dataset import Dataset, DataSource
from bench.data.decoding import hash_sampled_files, resize_images
from bench.data.numpy_files import read_npy_header

TAR_ENDINGS = (".tar.gz", ".tgz", ".tar")
TRAIN_BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_BATCH = "test_batch.bin"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BYTES_PER_IMAGE = 1 + 3 * 32 * 32
"""Bytes per image of CIFAR-10's binary version: the label, then the red, green and blue planes."""
NPZ_KEYS = (("arr_0", "arr_1"), ("images", "labels"), ("arr_0", "labels"))
"""Array names of images and labels in an .npz: ADM's names, plain names, and a mixture of both."""


def is_cifar10(path: Path) -> bool:
    """Return whether a path is CIFAR-10's archive, or a folder that contains it, packed or unpacked."""
    if path.is_file():
        return path.name.lower().endswith(TAR_ENDINGS)
    return find_cifar10(path) is not None


def find_cifar10(folder: Path) -> Path | None:
    """Find CIFAR-10 in a folder: return the folder of its batch files, else its archive, else None."""
    for inside in (folder, folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"):
        if (inside / TRAIN_BATCHES[0]).is_file() or (inside / TRAIN_BATCHES[0].removesuffix(".bin")).is_file():
            return inside
    return next((folder / f"cifar-10-{kind}.tar.gz" for kind in ("binary", "python") if _has(folder, kind)), None)


def _has(folder: Path, kind: str) -> bool:
    return (folder / f"cifar-10-{kind}.tar.gz").is_file()


def open_cifar10(path: Path, size: int = 0) -> DataSource:
    """Open CIFAR-10 at `size` pixels; size 0 keeps the native 32."""
    location = path if path.is_file() else find_cifar10(path)
    assert location, "the caller has checked is_cifar10"
    files = (
        [location] if location.is_file() else [location / name for name in TRAIN_BATCHES if (location / name).is_file()]
    )
    return DataSource(
        channels=3,
        size=size or 32,
        num_classes=10,
        about="CIFAR-10",
        hash=hash_sampled_files([], files),
        flip=True,
        classes=CIFAR10_CLASSES,
        load=lambda folder: load_cifar10(folder, size),
    )


def load_cifar10(path: Path, size: int = 0) -> Dataset:
    """Load the binary version, packed or not: 50,000 training images, 10,000 held out.

    The Python version is a pickle and is not read.  The ValueError for it names the file to use instead.
    """
    location = path if path.is_file() else find_cifar10(path)
    assert location
    with _reader(location) as read:
        batches = [_parse_batch(read(name), name, location) for name in TRAIN_BATCHES]
        held_out, held_out_labels = _parse_batch(read(TEST_BATCH), TEST_BATCH, location)
    images = resize_images(np.concatenate([pixels for pixels, _ in batches]), size, str(location))
    return Dataset(
        images=images,
        labels=np.concatenate([labels for _, labels in batches]),
        reference=images,
        held_out=resize_images(held_out, size, f"the test part of {location}"),
        held_out_labels=held_out_labels,
        flip=True,
    )


@contextmanager
def _reader(location: Path) -> Iterator[Callable[[str], bytes]]:
    """Yield a function from a batch's name to its bytes."""
    if location.is_dir():
        _require_binary({p.name for p in location.iterdir()}, location)
        yield lambda name: (location / name).read_bytes()
        return
    try:
        with tarfile.open(location) as tar:
            members = {m.name.rpartition("/")[2]: m for m in tar if m.isfile()}
            _require_binary(set(members), location)

            def read(name: str) -> bytes:
                file = tar.extractfile(members[name])
                assert file
                return file.read()

            yield read
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{location} is not a tar archive, or is damaged or truncated ({reason})") from None


def _require_binary(names: set[str], location: Path) -> None:
    if TRAIN_BATCHES[0].removesuffix(".bin") in names:
        raise ValueError(
            f"{location} is CIFAR-10's Python version, a pickle, which could run code and is not read; "
            "use the binary version, cifar-10-binary.tar.gz, from the same page"
        )
    if missing := [name for name in (*TRAIN_BATCHES, TEST_BATCH) if name not in names]:
        raise ValueError(f"{location} lacks {', '.join(missing)} of CIFAR-10's binary version")


def _parse_batch(data: bytes, name: str, location: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 3, 32, 32) uint8 and labels (N,) int64 of a batch."""
    if not data or len(data) % BYTES_PER_IMAGE:
        raise ValueError(
            f"{name} of {location} has {len(data):,} bytes, not a multiple of {BYTES_PER_IMAGE:,}; it is truncated"
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, BYTES_PER_IMAGE)
    if rows[:, 0].max() > 9:
        raise ValueError(f"{name} of {location} has the label {rows[:, 0].max()}; CIFAR-10 has 10 classes")
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64)


def open_npz(path: Path, size: int = 0) -> DataSource:
    """Open an .npz.  Read the header of its images, and its labels if there are any."""
    with open_npz_arrays(path) as z:
        images_key, labels_key = _keys(path, z)
        with z.zip.open(f"{images_key}.npy") as f:
            shape = read_npy_header(f, f"{images_key} of {path}").shape
        labels = _labels(path, z, labels_key, shape[0])
    _, channels, file_size = _layout(path, images_key, shape)
    return DataSource(
        channels=3 if size and size != file_size else channels,
        size=size or file_size,
        num_classes=0 if labels is None else int(labels.max()) + 1,
        about="images in an .npz",
        hash=hash_sampled_files([], [path]),
        load=lambda file: load_npz(file, size),
    )


def load_npz(path: Path, size: int = 0) -> Dataset:
    """Load arr_0 or images, (N, H, W, C) or (N, C, H, W) uint8, and arr_1 or labels, (N,), if present."""
    with open_npz_arrays(path) as z:
        images_key, labels_key = _keys(path, z)
        images = z[images_key]
        labels = _labels(path, z, labels_key, len(images))
    channels_last, _, _ = _layout(path, images_key, images.shape)
    if images.dtype != np.uint8:
        raise ValueError(f"{images_key} of {path} is {images.dtype}; images must be uint8, 0 to 255")
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if channels_last else images
    resized = resize_images(images, size, str(path))
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    return Dataset(images=resized, labels=labels, reference=resized)


@contextmanager
def open_npz_arrays(path: Path) -> Iterator[Any]:
    """Yield the arrays of an .npz; ValueError if the file is damaged or not an .npz."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an .npz, or is damaged or truncated")
    try:
        with np.load(path, allow_pickle=False) as z:
            yield z
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise ValueError(f"{path} is not an .npz, or is damaged or truncated ({error})") from None
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path} cannot be read ({error})") from None


def _keys(path: Path, z: Any) -> tuple[str, str]:
    """Return the array names of images and labels; the second is "" if there are no labels."""
    for images, labels in sorted(NPZ_KEYS, key=lambda pair: pair[1] not in z.files):
        if images in z.files:
            return images, labels if labels in z.files else ""
    raise ValueError(
        f"{path} holds {', '.join(z.files) or 'nothing'}; it needs arr_0 or images, and optionally arr_1 or labels"
    )


def _layout(path: Path, key: str, shape: tuple[int, ...]) -> tuple[bool, int, int]:
    """Return (whether channels come last, channels, edge length); ValueError for images that are not square."""
    if len(shape) == 4 and shape[0]:
        for channels_last, (c, h, w) in ((True, (shape[3], *shape[1:3])), (False, shape[1:])):
            if c in (1, 3) and h == w:
                return channels_last, c, h
    expected = "(N, size, size, C) or (N, C, size, size) with 1 or 3 channels"
    raise ValueError(f"{key} of {path} has shape {shape}; it must be {expected}")


def _labels(path: Path, z: Any, key: str, count: int) -> np.ndarray | None:
    if not key:
        return None
    labels: np.ndarray = z[key]
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(f"{key} of {path} is {labels.dtype} {labels.shape}; it must be integers ({count},)")
    if labels.min() < 0:
        raise ValueError(f"{key} of {path} has the label {labels.min()}; labels start at 0")
    return labels.astype(np.int64)
