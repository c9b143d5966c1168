"""Open data sets by the string of --data: a known name, a path, or latents:PATH.

`open_source` reads headers and labels, `load_source` opens the images.  A run opens its source once and passes it on.
Imports no torch: the trainer turns arrays into tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from architectures.suggestions import did_you_mean
from bench.config.schema import DataConfig
from bench.data import archives, huggingface, image_folder, latents, synthetic_shapes
from bench.data.array_folder import (
    ARRAY_FILES,
    IMAGES_FILE,
    REFERENCE_FILE,
    hash_array_folder,
    load_array_folder,
    open_array_folder,
)
from bench.data.dataset import Dataset, DataSource
from bench.data.digits import load_digits
from bench.data.numpy_files import memory_map

MIN_CROP, MAX_CROP = 4, 4096
"""Smallest and largest SIZE in PATH@SIZE."""


def _pixels(size: int, classes: int, about: str) -> DataSource:
    return DataSource(channels=3, size=size, num_classes=classes, about=about, flip=True, load=load_array_folder)


def _latents(channels: int, size: int, about: str, vq: bool = False) -> DataSource:
    return DataSource(
        channels=channels, size=size, num_classes=1000, latent=True, vq=vq, about=about, load=load_array_folder
    )


KNOWN_SOURCES: Mapping[str, DataSource] = {
    "digits": DataSource(
        channels=1, size=8, num_classes=10, about="handwritten digits, 8x8, built in", load=load_digits
    ),
    "shapes": synthetic_shapes.open_shapes(32),
    "shapes-64": synthetic_shapes.open_shapes(64),
    "shapes-256": synthetic_shapes.open_shapes(256),
    "cifar10": _pixels(32, 10, "CIFAR-10"),
    "cifar10-uncond": _pixels(32, 0, "CIFAR-10 without its labels, as U-ViT and DDPM were trained on it"),
    "celeba64": _pixels(64, 0, "CelebA, 64 pixels, no classes"),
    "imagenet64": _pixels(64, 1000, "ImageNet at 64 pixels"),
    "imagenet128": _pixels(128, 1000, "ImageNet at 128 pixels"),
    "imagenet256": _pixels(256, 1000, "ImageNet at 256 pixels"),
    "imagenet512": _pixels(512, 1000, "ImageNet at 512 pixels"),
    "imagenet256-latents": _latents(4, 32, "ImageNet at 256 pixels, Stable Diffusion latents"),
    "imagenet512-latents": _latents(4, 64, "ImageNet at 512 pixels, Stable Diffusion latents"),
    "imagenet256-vq4": _latents(3, 64, "ImageNet at 256 pixels, latents of LDM's VQ-f4", vq=True),
    "imagenet256-vq8": _latents(4, 32, "ImageNet at 256 pixels, latents of LDM's VQ-f8", vq=True),
}
"""Known name -> its properties; its files are in ROOT/NAME."""
LATENTS_PREFIX = "latents:"
"""Prefix of a folder that bench.encode wrote."""
PREFIX_OPENERS: Mapping[str, Callable[[Path], DataSource]] = {LATENTS_PREFIX.removesuffix(":"): latents.open_latents}
"""Prefix of a path, without the colon -> the function that opens the path."""
PATH_HELP = """\
  PATH@SIZE              images in class folders (PATH/CLASS/*, PATH/train/CLASS/*) or without classes (PATH/*),
                         parquet, Hugging Face's save_to_disk, .npz, cropped to SIZE; without @SIZE all images
                         must have one size
  PATH                   cifar-10-binary.tar.gz; .npz with arr_0 or images; a folder with images.npy, labels.npy
  latents:PATH           latents written by bench.encode"""


@dataclass(frozen=True, kw_only=True)
class PathFormat:
    """A format of data sets at a path: the test that recognizes it, and the function that opens it."""

    matches: Callable[[Path], bool]
    open: Callable[[Path, int], DataSource]
    """(path, size to crop to or 0) -> source."""


PATH_FORMATS = (
    PathFormat(matches=lambda path: (path / IMAGES_FILE).is_file(), open=open_array_folder),
    PathFormat(matches=latents.is_finished_set, open=lambda path, _: latents.open_latents(path)),
    PathFormat(matches=archives.is_cifar10, open=archives.open_cifar10),
    PathFormat(matches=lambda path: path.suffix == ".npz", open=archives.open_npz),
    PathFormat(
        matches=lambda path: huggingface.is_saved_dataset(path) or bool(huggingface.parquet_files(path)),
        open=huggingface.open_huggingface,
    ),
    PathFormat(matches=Path.is_dir, open=image_folder.open_image_folder),
)
"""A path is opened by the first format that matches it."""


def split_crop_size(name: str) -> tuple[str, int]:
    """Split PATH@SIZE into the path and the size to crop to; the size is 0 if absent or if a path PATH@SIZE exists."""
    path, at, size = name.rpartition("@")
    if not at or not size.isdecimal() or Path(name).exists():
        return name, 0
    if not MIN_CROP <= int(size) <= MAX_CROP:
        raise ValueError(f"{name} asks for images of {size} pixels; it must be from {MIN_CROP} to {MAX_CROP}")
    return path, int(size)


def data_folder(name: str, root: str) -> Path:
    """Return the path of a data set's files.  A set without labels shares the folder of its labelled version."""
    if name in KNOWN_SOURCES:
        return Path(root) / name.removesuffix("-uncond")
    prefix, colon, path = name.partition(":")
    return Path(path if colon and prefix in PREFIX_OPENERS else split_crop_size(name)[0])


def open_source(name: str, root: str = "data") -> DataSource:
    """Return the properties of a data set, from its headers, labels and sampled content.

    A known name needs no files: its hash is "" until they are there.  ValueError suggests known
    names if neither the name nor the path exists.
    """
    path = data_folder(name, root)
    prefix, colon, _ = name.partition(":")
    if name in KNOWN_SOURCES:
        source = _open_known(name, path)
    elif match := re.fullmatch(r"shapes-(\d+)", name):
        source = synthetic_shapes.open_shapes(int(match[1]))
    elif colon and prefix in PREFIX_OPENERS:
        source = PREFIX_OPENERS[prefix](path)
    elif path.exists():
        source = _open_path(path, split_crop_size(name)[1])
    else:
        raise ValueError(_explain_unknown(name))
    return replace(source, name=name, path=path)


def _explain_unknown(name: str) -> str:
    folder, at, size = name.rpartition("@")
    if at and Path(folder).exists():
        return f"{name}: {size!r} is not a size; write {folder}@64 to crop to 64 pixels"
    if folder == "shapes":
        return f"{name}: shapes are drawn at their size; write shapes-{size}"
    return f"unknown data set {name!r}, and no such folder or file; {did_you_mean(name, KNOWN_SOURCES)}"


def _open_known(name: str, folder: Path) -> DataSource:
    """Open a known data set: latents of bench.encode, arrays, or else the images in its folder."""
    known = KNOWN_SOURCES[name]
    if latents.is_finished_set(folder):
        return _open_known_latents(known, name, folder)
    if known.load is not load_array_folder or not folder.is_dir() or not any(folder.iterdir()):
        return known
    if known.latent or any((folder / file).is_file() for file in ARRAY_FILES):
        return replace(known, hash=hash_array_folder(folder))
    source = _open_path(folder, known.size)
    if known.num_classes and source.num_classes != known.num_classes:
        raise ValueError(f"{folder} has {source.num_classes} classes; {name} has {known.num_classes}")
    return replace(source, num_classes=known.num_classes, about=known.about)


def _open_known_latents(known: DataSource, name: str, folder: Path) -> DataSource:
    """Open latents of bench.encode under a known name; ValueError if their shape does not fit that name."""
    source = latents.open_latents(folder)
    for property_name in ("channels", "size", "vq"):
        actual, expected = getattr(source, property_name), getattr(known, property_name)
        if actual != expected:
            raise ValueError(
                f"{folder} has latents of {property_name} {actual}; {name} means {expected}: "
                f"name it with --data {LATENTS_PREFIX}{folder}"
            )
    return source


def _open_path(path: Path, crop_size: int) -> DataSource:
    for path_format in PATH_FORMATS:
        if path_format.matches(path):
            return path_format.open(path, crop_size)
    raise ValueError(
        f"{path} has no known format; name a folder of images, cifar-10-binary.tar.gz, an .npz, "
        f"parquet files, or a folder with {IMAGES_FILE} and labels.npy"
    )


def load_dataset(name: str, root: str = "data") -> Dataset:
    """Open and load a data set by name; callers that also need its properties call `load_source`."""
    return load_source(open_source(name, root))


def load_source(source: DataSource) -> Dataset:
    """Open the images of a source: memory-mapped or decoded on demand if the format allows.

    Raises ValueError if files are missing, or if images or labels do not fit the known name.
    """
    is_array_folder = source.load is load_array_folder
    if is_array_folder and not (source.path / IMAGES_FILE).is_file():
        raise ValueError(_explain_missing(source))
    dataset = source.load(source.path)
    shape = (source.channels, source.size, source.size)
    if dataset.images.shape[1:] != shape:
        raise ValueError(
            f"{source.path / IMAGES_FILE} holds {dataset.images.shape[1:]} images; {source.name} means {shape}"
        )
    if is_array_folder and source.num_classes and (last := dataset.labels[:].max()) >= source.num_classes:
        raise ValueError(f"{source.path} has the label {last}; {source.name} has {source.num_classes} classes")
    return replace(dataset, flip=source.flip)


def load_reference(source: DataSource) -> Dataset:
    """Load a data set for evaluation: in full, or only its reference if reference.npy is its only file.

    Published weights need no training images.  Raises ValueError as `load_source` does.
    """
    if source.load is not load_array_folder or (source.path / IMAGES_FILE).is_file():
        return load_source(source)
    path = source.path / REFERENCE_FILE
    if not path.is_file():
        raise ValueError(
            f"{source.name} is not in {source.path}: put {REFERENCE_FILE} (M, 3, H, W) uint8, the real images, there"
        )
    reference = memory_map(path)
    return Dataset(images=reference[:0], labels=np.zeros(0, np.int64), reference=reference)


def _explain_missing(source: DataSource) -> str:
    if source.latent:
        images = source.name.partition("-")[0]
        return (
            f"{source.name} is not in {source.path}: make it with python -m bench.encode {images} --vae PATH "
            f"--out {source.path} (PATH@256 for images elsewhere), or use --data digits, which works at once"
        )
    images = f"the images{' in class folders' if source.num_classes else ''}"
    return (
        f"{source.name} is not in {source.path}: put {IMAGES_FILE} (N, {source.channels}, {source.size}, "
        f"{source.size}) uint8 and labels.npy (N,), or {images}, there, or use --data digits, which works at once"
    )


def open_dataset(data: DataConfig, source: DataSource | None = None, *, trained: bool = True) -> Dataset:
    """Load the data set of a run, mirrored as the run's settings say; `source` saves opening it again.

    With `trained` False the reference is sufficient.  Raises ValueError as `load_source` does, and if the files have
    changed since the run was planned.
    """
    source = source or open_source(data.name, data.root)
    dataset = load_source(source) if trained else load_reference(source)
    if data.hash and source.hash != data.hash:
        raise ValueError(
            f"{data.name} has changed since this run was planned (its hash was {data.hash} and is "
            f"{source.hash or 'none'}); restore it, or start a new run with the same command"
        )
    return dataset if data.flip == "auto" else replace(dataset, flip=data.flip == "always")


def resolve_data(data: DataConfig, source: DataSource | None = None) -> DataConfig:
    """Fill in the hash and the mirroring of the data set; `source` saves opening it again."""
    source = source or open_source(data.name, data.root)
    if data.flip == "always" and source.load is load_array_folder and source.latent:
        raise ValueError(f"data.flip is always, but {data.name} holds no mirrored latents; make them with bench.encode")
    if data.flip == "auto":
        data = replace(data, flip="always" if source.flip else "never")
    return replace(data, hash=source.hash)
