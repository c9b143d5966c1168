"""Data sets by one string: a name of SOURCES, the path of images, of an archive or of arrays, or latents:PATH.

PATH@64 crops the images of a path to 64 pixels.  N images, C channels, H W size.  Imports no torch: the
trainer turns arrays into tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from architectures.suggestions import did_you_mean
from bench.config.schema import DataConfig
from bench.data import archives, huggingface, image_folder, synthetic_shapes
from bench.data.dataset import Dataset, DataSource
from bench.data.decoding import hash_sampled_files


def load_digits(folder: Path) -> Dataset:
    """scikit-learn's 1,797 handwritten digits (UCI, 8x8, 17 grey levels); every fourth is held out.

    Its file is read without the library, whose import takes 1.5 s of every process's start.
    """
    found = find_spec("sklearn")
    assert found and found.submodule_search_locations, "scikit-learn is installed with this package"
    table = np.loadtxt(Path(found.submodule_search_locations[0]) / "datasets/data/digits.csv.gz", delimiter=",")
    images = np.rint(table[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = table[:, -1].astype(np.int64)
    held = np.arange(len(images)) % 4 == 3
    return Dataset(
        images=images[~held],
        labels=labels[~held],
        reference=images[~held],
        held_out=images[held],
        held_out_labels=labels[held],
    )


ARRAY_FILES = ("images.npy", "labels.npy", "reference.npy")


def load_array_folder(folder: Path) -> Dataset:
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
    return Dataset(images=images, labels=labels, reference=reference, files=files)


def _open(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a .npy array of numbers; is it damaged?") from error
    return array


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
LATENTS_PREFIX = "latents:"
"""What a folder that bench.encode made is named with."""
PATH_HELP = """\
  PATH@SIZE              images in class folders (PATH/CLASS/*, PATH/train/CLASS/*) or without (PATH/*),
                         parquet, Hugging Face's save_to_disk, .npz, cropped; without @SIZE all of one size
  PATH                   cifar-10-binary.tar.gz; .npz with arr_0 or images; a folder with images.npy, labels.npy
  latents:PATH           what bench.encode made"""


@dataclass(frozen=True, kw_only=True)
class PathFormat:
    """What a path may be."""

    here: Callable[[Path], bool]
    source_of: Callable[[Path, int], DataSource]


PATH_FORMATS = (
    PathFormat(here=archives.is_cifar10, source_of=archives.open_cifar10),
    PathFormat(here=lambda path: path.suffix == ".npz", source_of=archives.open_npz),
    PathFormat(
        here=lambda path: huggingface.is_saved_dataset(path) or bool(huggingface.parquet_files(path)),
        source_of=huggingface.open_huggingface,
    ),
    PathFormat(here=Path.is_dir, source_of=image_folder.open_image_folder),
)
"""The first that is there is what a path is."""


def split_crop_size(name: str) -> tuple[str, int]:
    """(path, the size to crop to, or 0) of PATH@SIZE; a path that is there as it stands has no size."""
    path, at, size = name.rpartition("@")
    if not at or not size.isdecimal() or Path(name).exists():
        return name, 0
    if not 4 <= int(size) <= 4096:
        raise ValueError(f"{name} asks for images of {size} pixels; it must be from 4 to 4096")
    return path, int(size)


def data_folder(name: str, root: str) -> Path:
    """Where a data set's files are; those without labels have none of their own."""
    if name in KNOWN_SOURCES:
        return Path(root) / name.removesuffix("-uncond")
    kind, colon, path = name.partition(":")
    return Path(path if colon and kind in PREFIX_OPENERS else split_crop_size(name)[0])


def is_encoded(name: str, root: str = "data") -> bool:
    """Whether a data set is latents of bench.encode: it is said so, or its folder is such a set."""
    return name.startswith(LATENTS_PREFIX) or _is_encoded(data_folder(name, root))


def _is_encoded(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def _latents_in(folder: Path) -> DataSource:
    from bench.data import latents  # which needs more than the other kinds do

    return latents.open_latents(folder)


PREFIX_OPENERS: Mapping[str, Callable[[Path], DataSource]] = {"latents": _latents_in}
"""Prefix of a path -> the function that opens it."""


def _opened(kind: str, folder: Path) -> DataSource:
    return PREFIX_OPENERS[kind](folder)


def open_source(name: str, root: str = "data") -> DataSource:
    """The entry of a known data set, with the hash of its files if they are there, or one made for a path.

    Raises ValueError with the nearest known names when it is neither.
    """
    if name in KNOWN_SOURCES:
        return _known(name, data_folder(name, root))
    if drawn := re.fullmatch(r"shapes-(\d+)", name):
        return synthetic_shapes.open_shapes(int(drawn[1]))
    kind, colon, _ = name.partition(":")
    if colon and kind in PREFIX_OPENERS:
        return _opened(kind, data_folder(name, root))
    path, size = split_crop_size(name)
    if not Path(path).exists():
        folder, at, given = name.rpartition("@")
        if at and Path(folder).exists():
            raise ValueError(f"{name}: {given!r} is no size; write {folder}@64 to crop to 64 pixels")
        if folder == "shapes":
            raise ValueError(f"{name}: shapes are drawn at their size; write shapes-{given}")
        hint = did_you_mean(name, KNOWN_SOURCES)
        raise ValueError(f"unknown data set {name!r}, and no such folder or file; {hint}")
    return _of_path(Path(path), size)


def _known(name: str, folder: Path) -> DataSource:
    """A known data set: from arrays, or where there are none from the images in its folder."""
    what = KNOWN_SOURCES[name]
    if _is_encoded(folder):
        return _encoded(name, folder)
    if what.load is not load_array_folder or not folder.is_dir() or not any(folder.iterdir()):
        return what
    if what.latent or any((folder / file).is_file() for file in ARRAY_FILES):
        return replace(what, hash=_hash(folder))
    own = _of_path(folder, what.size)
    if what.num_classes and own.num_classes != what.num_classes:
        raise ValueError(f"{folder} has {own.num_classes} classes; {name} has {what.num_classes}")
    return replace(own, num_classes=what.num_classes, about=what.about)


def _encoded(name: str, folder: Path) -> DataSource:
    """A known set of latents that bench.encode made; ValueError where it made others there."""
    found, promised = _opened("latents", folder), KNOWN_SOURCES[name]
    for what in ("channels", "size", "vq"):
        have, want = getattr(found, what), getattr(promised, what)
        if have != want:
            raise ValueError(
                f"{folder} has latents of {what} {have}; {name} means {want}: "
                f"name it with --data {LATENTS_PREFIX}{folder}"
            )
    return found


def _of_path(path: Path, size: int) -> DataSource:
    if (path / "images.npy").is_file():
        return _of_arrays(path, size)
    if _is_encoded(path):
        return _opened("latents", path)
    for kind in PATH_FORMATS:
        if kind.here(path):
            return kind.source_of(path, size)
    raise ValueError(
        f"{path} is no data set that is known here; name a folder of images, cifar-10-binary.tar.gz, an .npz, "
        "parquet files, or a folder with images.npy and labels.npy"
    )


def _of_arrays(folder: Path, size: int) -> DataSource:
    arrays = load_array_folder(folder)
    _, channels, side, _ = arrays.images.shape
    if size and size != side:
        raise ValueError(f"{folder} holds arrays of {side} pixels, which are taken as they are; leave @{size} out")
    return DataSource(
        channels=channels,
        size=side,
        num_classes=int(arrays.labels[:].max()) + 1,
        latent=arrays.images.dtype != np.uint8,
        hash=_hash(folder),
        load=load_array_folder,
    )


def _hash(folder: Path) -> str:
    files = [folder / file for file in ARRAY_FILES if (folder / file).is_file()]
    return hash_sampled_files([file.name for file in files], files) if files else ""


def load_reference_images(name: str, root: str = "data") -> Dataset:
    """The data set without what is trained on, where only reference.npy is there.

    Published weights are evaluated against it; ValueError as `load`.
    """
    what, path = open_source(name, root), data_folder(name, root) / "reference.npy"
    if what.load is not load_array_folder or (path.parent / "images.npy").is_file():
        return load_dataset(name, root)
    if not path.is_file():
        raise ValueError(
            f"{name} is not in {path.parent}: put reference.npy (M, 3, H, W) uint8, the real images, there"
        )
    reference = _open(path)
    return Dataset(images=reference[:0], labels=np.zeros(0, np.int64), reference=reference)


def load_dataset(name: str, root: str = "data") -> Dataset:
    """The arrays of a data set.

    Where the files are not there, or have another shape than the name promises, ValueError says
    what is missing and how to make it.
    """
    what, folder = open_source(name, root), data_folder(name, root)
    if what.load is load_array_folder and not (folder / "images.npy").is_file():
        raise ValueError(_missing(name, what, folder))
    arrays = what.load(folder)
    shape = (what.channels, what.size, what.size)
    if arrays.images.shape[1:] != shape:
        raise ValueError(f"{folder / 'images.npy'} holds {arrays.images.shape[1:]} images; {name} means {shape}")
    if what.load is load_array_folder and what.num_classes and (last := arrays.labels[:].max()) >= what.num_classes:
        raise ValueError(f"{folder} has the label {last}; {name} has {what.num_classes} classes")
    return replace(arrays, flip=what.flip)


def _missing(name: str, what: DataSource, folder: Path) -> str:
    if what.latent:
        images = name.partition("-")[0]
        return (
            f"{name} is not in {folder}: make it with python -m bench.encode {images} --vae PATH --out {folder} "
            "(PATH@256 for images elsewhere), or use --data digits, which works at once"
        )
    kind, also = "uint8", ""
    images = f", or the images{' in class folders' if what.num_classes else ''},"
    return (
        f"{name} is not in {folder}: put images.npy (N, {what.channels}, {what.size}, {what.size}) {kind} and "
        f"labels.npy (N,){also}{images} there, or use --data digits, which works at once"
    )


def open_dataset(data: DataConfig, *, trained: bool = True) -> Dataset:
    """What a run reads: its set, mirrored as the run says; not `trained`, perhaps the reference alone.

    ValueError as `load`, and where the files are not those that the run was planned with.
    """
    arrays, found = (
        (load_dataset if trained else load_reference_images)(data.name, data.root),
        open_source(data.name, data.root).hash,
    )
    if data.hash and found != data.hash:
        raise ValueError(
            f"{data.name} has changed since this run was planned (its hash was {data.hash} and is {found or 'none'}); "
            "put it back, or start a new run with the same command"
        )
    return arrays if data.flip == "auto" else replace(arrays, flip=data.flip == "always")


def resolve_data(data: DataConfig) -> DataConfig:
    """The same with what the plan fills in: the hash of the set, and whether it is mirrored."""
    what = open_source(data.name, data.root)
    if data.flip == "always" and what.load is load_array_folder and what.latent:
        raise ValueError(f"data.flip is always, but {data.name} holds no mirrored latents; make them with bench.encode")
    if data.flip == "auto":
        data = replace(data, flip="always" if what.flip else "never")
    return replace(data, hash=what.hash)
