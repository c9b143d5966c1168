"""Hugging Face data sets: folders that `save_to_disk` wrote, and parquet files as on the hub (ImageNet, for example).

Parquet is converted once to memory-mapped Arrow files in Hugging Face's cache, because its rows cannot be read one by
one.  Imports no torch.
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
"""Names of integer label columns, used if no column has the type ClassLabel."""
HELD_OUT_SPLITS = ("val", "test")
SPLIT_FOLDERS = ("", "train", "validation", "val", "test")
PARQUET_FOLDERS = tuple(f"{base}/{split}".strip("/") for base in ("", "data", "default") for split in SPLIT_FOLDERS)
"""Folders in which sets on the hub keep parquet files.  Others are not searched: they may hold a million images."""


@dataclass(frozen=True, kw_only=True)
class ColumnNames:
    """Names of the columns of images and labels."""

    image: str
    label: str
    """"" if there are no labels."""
    classes: tuple[str, ...]
    """Class names; () if the set does not have them."""


def is_saved_dataset(path: Path) -> bool:
    """Return whether `save_to_disk` wrote this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def parquet_files(path: Path) -> list[Path]:
    """Return the parquet files of a path, in order; only PARQUET_FOLDERS are searched."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    return sorted(file for subfolder in PARQUET_FOLDERS for file in (path / subfolder).glob("*.parquet"))


def split_files(path: Path, files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return (training files, held-out files), by the prefix of their file or folder names, as on the hub."""

    def begins(file: Path, *words: str) -> bool:
        return file != path and any(part.lower().startswith(words) for part in file.relative_to(path).parts)

    train = [f for f in files if begins(f, "train")]
    held_out = [f for f in files if begins(f, "val")] or [f for f in files if begins(f, "test")]
    return train or [f for f in files if not begins(f, *HELD_OUT_SPLITS)], held_out


def find_columns(features: Mapping[str, Any], path: Path) -> ColumnNames:
    """Find the columns of images and labels among the features of a set; ValueError if none holds images."""
    from datasets import ClassLabel
    from datasets import Image as ImageFeature

    images = [name for name, f in features.items() if isinstance(f, ImageFeature) or _is_struct(f)]
    if not images:
        raise ValueError(f"{path} has the columns {', '.join(features)}, none of which holds images")
    class_columns = [name for name, f in features.items() if isinstance(f, ClassLabel)]
    integer_columns = [
        name for name in LABEL_COLUMNS if name in features and "int" in str(getattr(features[name], "dtype", ""))
    ]
    label = next(iter(class_columns + integer_columns), "")
    return ColumnNames(image=images[0], label=label, classes=tuple(features[label].names) if class_columns else ())


def _is_struct(feature: Any) -> bool:
    """Return whether a feature is a struct with the bytes of an image file, but not declared as an image."""
    return isinstance(feature, dict) and "bytes" in feature


def open_huggingface(path: Path, size: int = 0) -> DataSource:
    """Open a set; only headers, labels and the first image are read."""
    files, root = parquet_files(path), path if path.is_dir() else path.parent
    if is_saved_dataset(path):
        data, files = open_splits(path)[0], sorted(path.rglob("*.arrow"))
        columns = find_columns(data.features, path)
        first_image, labels = data[0][columns.image], _labels(data, columns)
    else:
        columns, first_image, labels = _open_parquet(path, split_files(path, files)[0])
    names = [str(f.relative_to(root)) for f in files] if len(files) > 1 else []
    return DataSource(
        channels=3,
        size=size or square_edge(_decode_first(first_image, path), f"the first image of {path}"),
        num_classes=len(columns.classes) or (int(labels.max()) + 1 if columns.label else 0),
        about="a Hugging Face data set",
        hash=hash_sampled_files(names, [files[i] for i in evenly_spaced(len(files), 16)]),
        flip=True,
        classes=columns.classes,
        load=lambda location: load_huggingface(location, size),
    )


def _open_parquet(path: Path, files: list[Path]) -> tuple[ColumnNames, Any, np.ndarray]:
    """Return (columns, first image, labels); labels are not read if the classes have names."""
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
        raise ValueError(f"{path} cannot be read as parquet ({_first_line(error)}); is it damaged?") from None
    return columns, batch.to_pylist()[0][columns.image], np.concatenate(labels)


def _decode_first(image: Any, path: Path) -> Image.Image:
    try:
        return _open_image(image)
    except DECODE_ERRORS as error:
        raise ValueError(f"the first image of {path} cannot be read ({_first_line(error)})") from None


@lru_cache(maxsize=4)
def open_splits(path: Path) -> tuple[Any, Any]:
    """Return (training split, held-out split or None), with images as the bytes of their files."""
    import datasets

    try:
        if is_saved_dataset(path):
            saved = datasets.load_from_disk(str(path))
            splits = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
        else:
            train, held_out = split_files(path, parquet_files(path))
            files = {"train": [str(f) for f in train]}
            if held_out:
                files["test"] = [str(f) for f in held_out]
            splits = datasets.load_dataset("parquet", data_files=files)
    except Exception as error:  # the library raises many types
        raise ValueError(f"{path} cannot be opened by Hugging Face's datasets ({_first_line(error)})") from error
    names = list(splits)
    train_name = next((n for n in names if n.startswith("train")), names[0])
    held_out_name = next((n for word in HELD_OUT_SPLITS for n in names if n.startswith(word) and n != train_name), None)
    return _undecoded(splits[train_name], path), _undecoded(splits[held_out_name], path) if held_out_name else None


def _undecoded(data: Any, path: Path) -> Any:
    """Return the set with images left as the bytes of their files; ValueError if it is empty."""
    from datasets import Image as ImageFeature

    if not len(data):
        raise ValueError(f"{path} has no images")
    name = find_columns(data.features, path).image
    is_declared = isinstance(data.features[name], ImageFeature)
    return data.cast_column(name, ImageFeature(decode=False)) if is_declared else data


def load_huggingface(path: Path, size: int = 0) -> Dataset:
    """Load a set.  The reference is an evenly spaced subset; the validation or test split is held out."""
    data, held_out = open_splits(path)
    columns = find_columns(data.features, path)
    edge = size or square_edge(_decode_first(data[0][columns.image], path), f"the first image of {path}")

    def decoded(split: Any, rows: np.ndarray) -> DecodedImages:
        def read(row: int) -> Image.Image:
            return _open_image(split[int(rows[row])][columns.image])

        def name(row: int) -> str:
            return f"image {rows[row]} of {path}"

        return DecodedImages(count=len(rows), size=edge, crop=bool(size), read=read, name=name)

    labels = _labels(data, columns)
    if labels.min() < 0:
        raise ValueError(f"column {columns.label} of {path} has the label {labels.min()}; labels start at 0")
    held_rows = evenly_spaced(len(held_out)) if held_out is not None else None
    held_labels = None
    if held_out is not None and columns.label in held_out.features:
        held_labels = _labels(held_out, columns)[held_rows]
    return Dataset(
        images=decoded(data, np.arange(len(data))),
        labels=labels,
        reference=decoded(data, evenly_spaced(len(data))),
        held_out=None if held_rows is None else decoded(held_out, held_rows),
        held_out_labels=held_labels if held_labels is not None and held_labels.min() >= 0 else None,
        flip=True,
    )


def _open_image(value: Any) -> Image.Image:
    """Open the image of a row from its bytes, or from the file that it names."""
    return Image.open(io.BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"])


def _labels(data: Any, columns: ColumnNames) -> np.ndarray:
    if not columns.label:
        return np.zeros(len(data), np.int64)
    return np.asarray(data.with_format("numpy", columns=[columns.label])[:][columns.label]).astype(np.int64)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
