"""Folders of image files: PATH/CLASS/*, ImageNet's PATH/train/CLASS/*, or, without classes, PATH/*.

Images are read when they are asked for.  Imports no torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.data.dataset import Dataset, DataSource
from bench.data.decoding import DecodedImages, evenly_spaced, hash_sampled_files, square_edge

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
HELD_OUT_FOLDERS = ("val", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class FolderListing:
    """The image files below a folder."""

    root: Path
    files: list[str]
    """Relative to the root, class by class."""
    labels: np.ndarray
    """(N,) int64; zeros where there are no classes."""
    classes: tuple[str, ...]
    """Names of the class folders; () where there are none."""
    hash: str

    def rows(self, size: int, crop: bool, only: np.ndarray | slice = slice(None)) -> DecodedImages:
        """The images, or some of them."""
        chosen = np.arange(len(self.files))[only]

        def path(row: int) -> Path:
            return self.root / self.files[chosen[row]]

        def read(row: int) -> Image.Image:
            return Image.open(path(row))

        return DecodedImages(count=len(chosen), size=size, crop=crop, read=read, name=lambda row: str(path(row)))


def list_folder(path: Path) -> FolderListing:
    """What is in a folder; ValueError where that is no set of images."""
    root = path / "train" if (path / "train").is_dir() else path
    subfolders = sorted(e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith("."))
    stamps = tuple((name, (root / name).stat().st_mtime_ns) for name in subfolders)
    return _listing(root, stamps, root.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _listing(root: Path, subfolders: tuple[tuple[str, int], ...], stamp: int) -> FolderListing:
    found = {name: _images(root / name) for name, _ in subfolders}
    found = {name: [f"{name}/{file}" for file in files] for name, files in found.items() if files}
    own = sorted(e.name for e in os.scandir(root) if e.is_file() and _is_image(e.name))
    if own and found:
        first = next(iter(found))
        raise ValueError(f"{root} has images both of its own ({own[0]}) and in folders ({first}); keep one kind")
    if not own and not found:
        raise ValueError(
            f"{root} holds neither images ({', '.join(IMAGE_ENDINGS)}) nor folders of them, one a class, "
            "nor images.npy "
            "(N, C, size, size) with labels.npy"
        )
    classes = tuple(found) if len(found) > 1 else ()
    groups = list(found.values()) or [own]
    files = [file for group in groups for file in group]
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    samples = [root / files[i] for i in evenly_spaced(len(files), 16)]
    return FolderListing(
        root=root, files=files, labels=labels, classes=classes, hash=hash_sampled_files(files, samples)
    )


def _images(folder: Path) -> list[str]:
    """Image files anywhere below a folder, relative to it and in order."""
    found = [os.path.relpath(f"{where}/{f}", folder) for where, _, files in os.walk(folder) for f in files]
    return sorted(f for f in found if _is_image(f))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS) and not name.startswith(".")


def open_image_folder(path: Path, size: int = 0) -> DataSource:
    """The set in a folder, cropped to `size`, or with images that are all of one size already."""
    own = list_folder(path)
    return DataSource(
        channels=3,
        size=size or _first_side(own.root / own.files[0]),
        num_classes=len(own.classes),
        about="images in class folders" if own.classes else "images without classes",
        hash=own.hash,
        flip=True,
        classes=own.classes,
        load=lambda folder: load_image_folder(folder, size),
    )


def _first_side(file: Path) -> int:
    try:
        with Image.open(file) as image:
            return square_edge(image, str(file))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{file} cannot be read as an image ({error}); mend or remove it") from None


def load_image_folder(path: Path, size: int = 0) -> Dataset:
    """The set; its reference is evenly spread over it, and what lies in val or test is held out."""
    own, side = list_folder(path), size or _first_side(list_folder(path).root / list_folder(path).files[0])
    held = next((path / name for name in HELD_OUT_FOLDERS if own.root != path and (path / name).is_dir()), None)
    other = list_folder(held) if held else None
    only = evenly_spaced(len(other.files) if other else 0)
    return Dataset(
        images=own.rows(side, bool(size)),
        labels=own.labels,
        reference=own.rows(side, bool(size), evenly_spaced(len(own.files))),
        held_out=None if other is None else other.rows(side, bool(size), only),
        held_out_labels=other.labels[only] if other and other.classes == own.classes else None,
        flip=True,
    )
