"""Hugging Face data sets: what `save_to_disk` left, and parquet files, as ImageNet has on the hub.

Parquet is turned once into memory-mapped Arrow files, in Hugging Face's own cache, because rows of it
cannot be read one by one.  Imports no torch.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.data.dataset import Dataset, DataSource
from bench.data.decoding import DECODE_ERRORS, DecodedImages, evenly_spaced, hash_sampled_files, square_edge

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
"""Names that integer labels go by where no column says that it holds classes."""
HELD_OUT_SPLITS = ("val", "test")
SPLIT_FOLDERS = ("", "train", "validation", "val", "test")
PARQUET_FOLDERS = tuple(f"{base}/{split}".strip("/") for base in ("", "data", "default") for split in SPLIT_FOLDERS)
"""Folders that hold the parquet files of sets on the hub; a million images are not walked through for them."""


@dataclass(frozen=True, kw_only=True)
class ColumnNames:
    """Which columns hold the images and, if any, the labels."""

    image: str
    label: str
    """"": there are none."""
    classes: tuple[str, ...]
    """Their names, where the set tells them."""


def is_saved_dataset(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def parquet_files(path: Path) -> list[Path]:
    """The parquet files of a path, in order; [] where it has none in the usual places, which alone are searched."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    return sorted(file for inside in PARQUET_FOLDERS for file in (path / inside).glob("*.parquet"))


def split_files(path: Path, files: list[Path]) -> tuple[list[Path], list[Path]]:
    """(files to train on, files held out), by the words their names or folders begin with, as on the hub."""

    def begins(file: Path, *words: str) -> bool:
        return file != path and any(part.lower().startswith(words) for part in file.relative_to(path).parts)

    train = [f for f in files if begins(f, "train")]
    held = [f for f in files if begins(f, "val")] or [f for f in files if begins(f, "test")]
    return train or [f for f in files if not begins(f, *HELD_OUT_SPLITS)], held


def find_columns(features: Mapping[str, Any], path: Path) -> ColumnNames:
    """What the features of a set say; ValueError where there are no images among them."""
    from datasets import ClassLabel
    from datasets import Image as ImageFeature

    images = [name for name, f in features.items() if isinstance(f, ImageFeature) or _is_struct(f)]
    if not images:
        raise ValueError(f"{path} has the columns {', '.join(features)}, and no images among them")
    known = [name for name, f in features.items() if isinstance(f, ClassLabel)]
    plain = [name for name in LABEL_COLUMNS if name in features and "int" in str(getattr(features[name], "dtype", ""))]
    label = next(iter(known + plain), "")
    return ColumnNames(image=images[0], label=label, classes=tuple(features[label].names) if known else ())


def _is_struct(feature: Any) -> bool:
    """An image that nobody has declared one: its file's bytes, and perhaps its path."""
    return isinstance(feature, dict) and "bytes" in feature


def open_huggingface(path: Path, size: int = 0) -> DataSource:
    """The set, from its files' headers, labels and first image alone."""
    files, root = parquet_files(path), path if path.is_dir() else path.parent
    if is_saved_dataset(path):
        data, files = open_splits(path)[0], sorted(path.rglob("*.arrow"))
        columns = find_columns(data.features, path)
        picture, labels = data[0][columns.image], _labels(data, columns)
    else:
        columns, picture, labels = _of_parquet(path, split_files(path, files)[0])
    names = [str(f.relative_to(root)) for f in files] if len(files) > 1 else []
    return DataSource(
        channels=3,
        size=size or square_edge(_decoded(picture, path), f"the first image of {path}"),
        num_classes=len(columns.classes) or (int(labels.max()) + 1 if columns.label else 0),
        about="a Hugging Face data set",
        hash=hash_sampled_files(names, [files[i] for i in evenly_spaced(len(files), 16)]),
        flip=True,
        classes=columns.classes,
        load=lambda where: load_huggingface(where, size),
    )


def _of_parquet(path: Path, files: list[Path]) -> tuple[ColumnNames, Any, np.ndarray]:
    """(columns, the first image, labels or, where the classes are named, a zero)."""
    import pyarrow
    import pyarrow.parquet
    from datasets import Features

    if not files:
        raise ValueError(f"{path} has no parquet files to train on")
    try:
        columns, labels = find_columns(Features.from_arrow_schema(pyarrow.parquet.read_schema(files[0])), path), [[0]]
        if columns.label and not columns.classes:
            tables = [pyarrow.parquet.read_table(f, columns=[columns.label]) for f in files]
            labels = [table[columns.label].to_numpy() for table in tables]
        with pyarrow.parquet.ParquetFile(files[0]) as f:
            batch = next(f.iter_batches(batch_size=1, columns=[columns.image]))
    except (pyarrow.ArrowException, OSError, StopIteration) as error:
        raise ValueError(f"{path} cannot be read as parquet ({_line(error)}); is it damaged?") from None
    return columns, batch.to_pylist()[0][columns.image], np.concatenate(labels)


def _decoded(picture: Any, path: Path) -> Image.Image:
    try:
        return _open(picture)
    except DECODE_ERRORS as error:
        raise ValueError(f"the first image of {path} cannot be read ({_line(error)})") from None


@lru_cache(maxsize=4)
def open_splits(path: Path) -> tuple[Any, Any]:
    """(the set to train on, the set that is held out or None), images as the bytes of their files."""
    import datasets

    try:
        if is_saved_dataset(path):
            found = datasets.load_from_disk(str(path))
            parts = found if isinstance(found, datasets.DatasetDict) else {"train": found}
        else:
            train, held = split_files(path, parquet_files(path))
            files = {"train": [str(f) for f in train], **({"test": [str(f) for f in held]} if held else {})}
            parts = datasets.load_dataset("parquet", data_files=files)
    except Exception as error:  # the library's own kinds are many
        raise ValueError(f"{path} cannot be opened by Hugging Face's datasets ({_line(error)})") from error
    names = list(parts)
    train_name = next((n for n in names if n.startswith("train")), names[0])
    held_name = next((n for word in HELD_OUT_SPLITS for n in names if n.startswith(word) and n != train_name), None)
    return _bare(parts[train_name], path), _bare(parts[held_name], path) if held_name else None


def _bare(data: Any, path: Path) -> Any:
    """The set with images left as the bytes of their files."""
    from datasets import Image as ImageFeature

    if not len(data):
        raise ValueError(f"{path} has no images")
    name = find_columns(data.features, path).image
    bare = isinstance(data.features[name], ImageFeature)
    return data.cast_column(name, ImageFeature(decode=False)) if bare else data


def load_huggingface(path: Path, size: int = 0) -> Dataset:
    """The set; its reference is evenly spread over it, and the validation or test split is held out."""
    data, held = open_splits(path)
    columns = find_columns(data.features, path)
    side = size or square_edge(_decoded(data[0][columns.image], path), f"the first image of {path}")

    def rows(of: Any, only: np.ndarray) -> DecodedImages:
        def read(row: int) -> Image.Image:
            return _open(of[int(only[row])][columns.image])

        name = f"of {path}"
        return DecodedImages(
            count=len(only), size=side, crop=bool(size), read=read, name=lambda r: f"image {only[r]} {name}"
        )

    labels = _labels(data, columns)
    if labels.min() < 0:
        raise ValueError(f"column {columns.label} of {path} has the label {labels.min()}; labels start at 0")
    some = evenly_spaced(len(held)) if held is not None else None
    other = _labels(held, columns)[some] if held is not None and columns.label in held.features else None
    return Dataset(
        images=rows(data, np.arange(len(data))),
        labels=labels,
        reference=rows(data, evenly_spaced(len(data))),
        held_out=None if some is None else rows(held, some),
        held_out_labels=other if other is not None and other.min() >= 0 else None,
        flip=True,
    )


def _open(picture: Any) -> Image.Image:
    """The image of a row: its bytes, or the file it names."""
    return Image.open(io.BytesIO(picture["bytes"]) if picture["bytes"] is not None else picture["path"])


def _labels(data: Any, columns: ColumnNames) -> np.ndarray:
    if not columns.label:
        return np.zeros(len(data), np.int64)
    return np.asarray(data.with_format("numpy", columns=[columns.label])[:][columns.label]).astype(np.int64)


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
