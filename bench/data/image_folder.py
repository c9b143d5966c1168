"""Folders of image files: PATH/CLASS/*, ImageNet's PATH/train/CLASS/*, or, without classes, PATH/*.

Images are decoded on demand.  Imports no torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.data.dataset import Dataset, DataSource
from bench.data.decoding import DecodedImages, evenly_spaced, hash_sampled_files, square_edge

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Suffixes of image files in data sets and in folders of samples."""
HELD_OUT_FOLDERS = ("val", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class FolderListing:
    """The image files below a folder."""

    root: Path
    files: list[str]
    """Paths relative to the root, ordered by class."""
    labels: np.ndarray
    """(N,) int64; zeros if there are no classes."""
    classes: tuple[str, ...]
    """Names of the class folders; () if there are none."""
    hash: str

    def images(self, size: int, crop: bool, rows: np.ndarray | slice = slice(None)) -> DecodedImages:
        """Return the images of these rows, decoded on demand."""
        indices = np.arange(len(self.files))[rows]

        def path(row: int) -> Path:
            return self.root / self.files[indices[row]]

        def read(row: int) -> Image.Image:
            return Image.open(path(row))

        return DecodedImages(count=len(indices), size=size, crop=crop, read=read, name=lambda row: str(path(row)))


def list_folder(path: Path) -> FolderListing:
    """List the images of a folder; ValueError if there are none.  The listing is cached until a folder changes."""
    root = path / "train" if (path / "train").is_dir() else path
    subfolders = sorted(e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith("."))
    stamps = tuple((name, (root / name).stat().st_mtime_ns) for name in subfolders)
    return _listing(root, stamps, root.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _listing(root: Path, subfolders: tuple[tuple[str, int], ...], stamp: int) -> FolderListing:
    by_class = {name: _list_images(root / name) for name, _ in subfolders}
    by_class = {name: [f"{name}/{file}" for file in files] for name, files in by_class.items() if files}
    top_level = sorted(e.name for e in os.scandir(root) if e.is_file() and _is_image(e.name))
    if top_level and by_class:
        folder = next(iter(by_class))
        raise ValueError(
            f"{root} has images at its top level ({top_level[0]}) and in folders ({folder}); keep only one of them"
        )
    if not top_level and not by_class:
        raise ValueError(
            f"{root} has no images ({', '.join(IMAGE_ENDINGS)}), no class folders of images, "
            "and no images.npy (N, C, size, size) with labels.npy"
        )
    classes = tuple(by_class) if len(by_class) > 1 else ()
    groups = list(by_class.values()) or [top_level]
    files = [file for group in groups for file in group]
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    samples = [root / files[i] for i in evenly_spaced(len(files), 16)]
    return FolderListing(
        root=root, files=files, labels=labels, classes=classes, hash=hash_sampled_files(files, samples)
    )


def _list_images(folder: Path) -> list[str]:
    """Return the image files anywhere below a folder, as sorted relative paths."""
    files = [os.path.relpath(f"{directory}/{f}", folder) for directory, _, names in os.walk(folder) for f in names]
    return sorted(f for f in files if _is_image(f))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS) and not name.startswith(".")


def open_image_folder(path: Path, size: int = 0) -> DataSource:
    """Open a folder of images, cropped to `size`; with size 0 all must have the same size."""
    listing = list_folder(path)
    return DataSource(
        channels=3,
        size=size or _first_edge(listing),
        num_classes=len(listing.classes),
        about="images in class folders" if listing.classes else "images without classes",
        hash=listing.hash,
        flip=True,
        classes=listing.classes,
        load=lambda folder: load_image_folder(folder, size),
    )


def _first_edge(listing: FolderListing) -> int:
    file = listing.root / listing.files[0]
    try:
        with Image.open(file) as image:
            return square_edge(image, str(file))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{file} cannot be read as an image ({error}); replace or remove it") from None


def load_image_folder(path: Path, size: int = 0) -> Dataset:
    """Load the images of a folder.  The reference is an evenly spaced subset; images in val or test are held out."""
    listing = list_folder(path)
    edge, crop = size or _first_edge(listing), bool(size)
    subfolders = [path / name for name in HELD_OUT_FOLDERS if listing.root != path and (path / name).is_dir()]
    dataset = Dataset(
        images=listing.images(edge, crop),
        labels=listing.labels,
        reference=listing.images(edge, crop, evenly_spaced(len(listing.files))),
        flip=True,
    )
    if not subfolders:
        return dataset
    held_out = list_folder(subfolders[0])
    rows = evenly_spaced(len(held_out.files))
    return replace(
        dataset,
        held_out=held_out.images(edge, crop, rows),
        held_out_labels=held_out.labels[rows] if held_out.classes == listing.classes else None,
    )
