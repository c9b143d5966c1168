"""Encode a set of latents shard by shard, in any number of processes that share only the folder.

An unfinished set has encoding.json (class latents.LatentSpec) and, beside each finished shard, a file
shard-00000.json with its checksums.  The process that finds all shards finished writes the manifest.  A process that
is killed leaves complete shards only.

N images, B batch, C H W latent.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.config.validation import adapter, validate, validate_json
from bench.data.autoencoder import Encoder
from bench.data.dataset import Dataset
from bench.data.latents import (
    CHECKSUMS_FILE,
    LABELS_FILE,
    MANIFEST_FILE,
    REFERENCE_FILE,
    FileInfo,
    LatentManifest,
    LatentSpec,
    ShardInfo,
    is_finished_set,
    read_manifest,
    shard_ranges,
)
from bench.data.prefetch import PrefetchLoader
from bench.storage.atomic import atomic_write, file_sha256, write_json

UNFINISHED_FILE = "encoding.json"
REFERENCE_CHUNK = 256
"""Reference images read at a time."""
MAX_SHOWN_VALUES = 60
"""Maximum characters of a pair of values in a message; longer pairs are omitted."""


@dataclass(frozen=True)
class FinishedShard:
    """A finished shard: its entry of the manifest and the checksums of its images, (n, F)."""

    info: ShardInfo
    checks: list[list[int]]


def begin_latents(out: Path, spec: LatentSpec) -> LatentManifest | None:
    """Start or continue a set of latents in a folder; return its manifest if it was finished before.

    Raises ValueError if the folder holds a different set.
    """
    manifest = read_manifest(out) if is_finished_set(out) else None
    existing = manifest or read_unfinished(out)
    if existing is None:
        out.mkdir(parents=True, exist_ok=True)
        _write_spec(out, spec)
        return None
    actual, expected = existing.identity(), spec.identity()
    if different := [name for name in expected if actual[name] != expected[name]]:
        state = "finished" if manifest else "unfinished"
        name = different[0]
        contents = "other images" if name == "data_hash" else f"another {describe_difference(name, actual, expected)}"
        raise ValueError(f"{out} holds {state} latents of {contents}; name another --out, or remove it to start over")
    if manifest and not is_complete(out, manifest):
        _write_spec(out, spec)
    return manifest


def _write_spec(out: Path, spec: LatentSpec) -> None:
    write_json(out / UNFINISHED_FILE, adapter(LatentSpec).dump_python(spec, mode="json"))


def is_complete(out: Path, manifest: LatentManifest) -> bool:
    """Return whether a finished set has all its files, judged by their sizes, and no process is writing it."""
    with suppress(OSError):
        all_there = all((out / file.file).stat().st_size == file.bytes for file in manifest.files())
        return all_there and not (out / UNFINISHED_FILE).exists()
    return False


def describe_difference(name: str, actual: dict[str, Any], expected: dict[str, Any]) -> str:
    """Describe a property that differs, with both values if they are short."""
    values = f"{actual[name]}, not {expected[name]}"
    return f"{name} ({values})" if len(values) < MAX_SHOWN_VALUES else name


def read_unfinished(out: Path) -> LatentSpec | None:
    """Return the spec of the unfinished set in a folder, None if it is new or empty; ValueError otherwise."""
    path = out / UNFINISHED_FILE
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not path.is_file():
        raise ValueError(f"{out} holds files that are not latents; name an empty or new folder with --out")
    try:
        return validate_json(LatentSpec, path.read_bytes())
    except ValueError:
        raise ValueError(f"{path} cannot be read; remove {out}, or name another --out") from None


def shard_name(index: int) -> str:
    return f"shard-{index:05d}.npy"


def find_finished_shard(out: Path, index: int, manifest: LatentManifest | None) -> FinishedShard | None:
    """Return a shard if it is finished, judged by its file size; None if it must be encoded.

    `manifest` is that of a set that was finished before; a shard with another SHA-256 must then be encoded again.
    """
    path = out / shard_name(index)
    try:
        summary = json.loads(path.with_suffix(".json").read_text())
        shard = FinishedShard(validate(ShardInfo, summary["shard"]), summary["checks"])
        return shard if path.stat().st_size == shard.info.bytes else None
    except (OSError, ValueError, KeyError):
        pass
    if manifest is None or not path.is_file() or file_sha256(path) != manifest.shards[index].sha256:
        return None
    return FinishedShard(manifest.shards[index], image_checksums(np.load(path, mmap_mode="r", allow_pickle=False)))


def image_checksums(latents: np.ndarray) -> list[list[int]]:
    """Return the CRC-32 of each latent, (n, F)."""
    return [[zlib.crc32(moments.tobytes()) for moments in image] for image in latents]


def encode_shard(
    out: Path,
    spec: LatentSpec,
    index: int,
    dataset: Dataset,
    encode: Encoder,
    workers: int,
    report: Callable[[int], None],
) -> None:
    """Encode the images of a shard in batches and write it; `report` gets the image count of each batch."""
    shard_rows = shard_ranges(spec.images, spec.rows)[index]
    latents = np.empty(spec.shape_of(len(shard_rows)), np.float16)

    def read(_: int, first: int, size: int) -> tuple[torch.Tensor]:
        return (torch.from_numpy(read_rgb_pixels(dataset.images, np.arange(first, first + size), spec.resolution)),)

    steps = [(i, first, min(spec.batch, shard_rows.stop - first)) for i, first in enumerate(shard_rows[:: spec.batch])]
    with PrefetchLoader(read, steps, workers) as batches:
        for (_, first, size), (images,) in zip(steps, batches, strict=True):
            batch = latents[first - shard_rows.start : first - shard_rows.start + size]
            for flip in range(spec.flips):
                batch[:, flip] = encode(images.numpy()[..., ::-1] if flip else images.numpy())
            report(size)
    file = write_array(out / shard_name(index), latents)
    shard = ShardInfo(file=file.file, bytes=file.bytes, sha256=file.sha256, images=len(shard_rows))
    summary = {"shard": adapter(ShardInfo).dump_python(shard), "checks": image_checksums(latents)}
    write_json((out / shard_name(index)).with_suffix(".json"), summary)


def read_rgb_pixels(images: Any, rows: np.ndarray, resolution: int) -> np.ndarray:
    """Read (B, 3, S, S) uint8 pixels of a data set; ValueError if they are not RGB pixels of this resolution."""
    pixels = np.asarray(images[rows])
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, resolution, resolution):
        raise ValueError(f"images are {pixels.dtype} {pixels.shape[1:]}; an autoencoder takes RGB pixels")
    return pixels


def write_array(path: Path, array: np.ndarray) -> FileInfo:
    """Write a .npy file atomically."""
    with atomic_write(path) as partial:
        with partial.open("wb") as f:
            np.save(f, array, allow_pickle=False)
        file = FileInfo(file=path.name, bytes=partial.stat().st_size, sha256=file_sha256(partial))
    return file


def write_reference(out: Path, spec: LatentSpec, dataset: Dataset) -> FileInfo:
    """Write evenly spaced real images, cropped as for the encoder."""
    size, path = spec.resolution, out / REFERENCE_FILE
    rows = np.linspace(0, len(dataset.reference) - 1, spec.references).round().astype(np.int64)
    with atomic_write(path) as partial:
        shape = (spec.references, 3, size, size)
        images = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        for first in range(0, len(rows), REFERENCE_CHUNK):
            chunk = rows[first : first + REFERENCE_CHUNK]
            images[first : first + REFERENCE_CHUNK] = read_rgb_pixels(dataset.reference, chunk, size)
        images.flush()
        file = FileInfo(file=path.name, bytes=partial.stat().st_size, sha256=file_sha256(partial))
    return file


def finish_latents(
    out: Path, spec: LatentSpec, dataset: Dataset, previous: LatentManifest | None
) -> LatentManifest | None:
    """Write the manifest if all shards are finished.

    Returns the manifest, even if another process wrote it; None if shards are missing.
    """
    shards = [find_finished_shard(out, i, previous) for i in range(len(shard_ranges(spec.images, spec.rows)))]
    finished = [shard for shard in shards if shard is not None]
    if len(finished) < len(shards):
        return read_manifest(out) if is_finished_set(out) and not (out / UNFINISHED_FILE).is_file() else None
    rows = np.arange(spec.images)
    manifest = LatentManifest(
        **adapter(LatentSpec).dump_python(spec),
        shards=tuple(shard.info for shard in finished),
        labels=write_array(out / LABELS_FILE, np.asarray(dataset.labels[rows]).astype(np.int64)),
        checks=write_array(out / CHECKSUMS_FILE, np.array([c for s in finished for c in s.checks], np.uint32)),
        reference=write_reference(out, spec, dataset),
    )
    write_json(out / MANIFEST_FILE, adapter(LatentManifest).dump_python(manifest, mode="json"))
    remove_files(out, [UNFINISHED_FILE, *(Path(shard.info.file).with_suffix(".json").name for shard in finished)])
    return manifest


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove files, ignoring those that another process has removed already."""
    for name in names:
        with suppress(FileNotFoundError):
            (folder / name).unlink()
