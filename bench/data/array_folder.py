"""Folders with images.npy, labels.npy and optionally reference.npy, memory-mapped.  Imports no torch.

N images, C channels, H W size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.data.dataset import Dataset, DataSource
from bench.data.decoding import hash_sampled_files
from bench.data.numpy_files import memory_map

IMAGES_FILE, LABELS_FILE, REFERENCE_FILE = "images.npy", "labels.npy", "reference.npy"
ARRAY_FILES = (IMAGES_FILE, LABELS_FILE, REFERENCE_FILE)


def open_array_folder(folder: Path, crop_size: int) -> DataSource:
    """Open a folder of arrays; ValueError if `crop_size` is neither 0 nor the size of the arrays."""
    dataset = load_array_folder(folder)
    _, channels, size, _ = dataset.images.shape
    if crop_size and crop_size != size:
        raise ValueError(
            f"{folder} holds arrays of {size} pixels, which are never resized; leave @{crop_size} out of the path"
        )
    return DataSource(
        channels=channels,
        size=size,
        num_classes=int(dataset.labels[:].max()) + 1,
        latent=dataset.images.dtype != np.uint8,
        hash=hash_array_folder(folder),
        load=load_array_folder,
    )


def load_array_folder(folder: Path) -> Dataset:
    """Memory-map images.npy, (N, C, H, W) uint8 pixels or floating-point latents, and labels.npy, (N,) integers.

    reference.npy, (M, 3, H, W) uint8 real images, is required for latents.  Without it, pixels are their own
    reference.  ValueError names the file that is missing or has a wrong shape.
    """
    missing = [name for name in (IMAGES_FILE, LABELS_FILE) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} has no {' and no '.join(missing)}")
    images = memory_map(folder / IMAGES_FILE)
    labels = np.asarray(memory_map(folder / LABELS_FILE)).astype(np.int64)
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"{folder / IMAGES_FILE} has shape {images.shape}; it must be (N, C, size, size)")
    if labels.shape != (len(images),) or not len(labels):
        raise ValueError(f"{folder / LABELS_FILE} has shape {labels.shape}; it must be ({len(images)},)")
    if labels.min() < 0:
        raise ValueError(f"{folder / LABELS_FILE} has the label {labels.min()}; labels start at 0")
    if (folder / REFERENCE_FILE).is_file():
        reference = memory_map(folder / REFERENCE_FILE)
    elif images.dtype == np.uint8:
        reference = images
    else:
        raise ValueError(f"{folder} has latents but no {REFERENCE_FILE}, the real images (uint8) to compare with")
    mapped = [path for path in (folder / IMAGES_FILE, folder / REFERENCE_FILE) if path.is_file()]
    files = {path: path.stat().st_size for path in mapped}
    return Dataset(images=images, labels=labels, reference=reference, files=files)


def hash_array_folder(folder: Path) -> str:
    """Hash the names and sampled content of a folder's arrays to 16 hexadecimal digits; "" if it has none."""
    files = [folder / name for name in ARRAY_FILES if (folder / name).is_file()]
    return hash_sampled_files([file.name for file in files], files) if files else ""
