"""Making a set of latents shard by shard, in any number of processes that share nothing but the folder.

A set in the making has encoding.json (class latents.Facts), and beside each finished shard a shard-00000.json with
its checksums; whoever sees all shards there writes the manifest.  What was killed leaves whole shards.

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
    FORMAT_VERSION,
    LABELS_FILE,
    MANIFEST_FILE,
    REFERENCE_FILE,
    FileInfo,
    LatentManifest,
    LatentSpec,
    ShardInfo,
    read_manifest,
    shard_ranges,
)
from bench.data.prefetch import PrefetchLoader
from bench.storage.atomic import atomic_write, file_sha256, write_json

UNFINISHED_FILE = "encoding.json"
REFERENCE_CHUNK = 256
"""Reference images read at a time."""


@dataclass(frozen=True)
class FinishedShard:
    """A finished shard: its line of the manifest and its images' checks, (n, F)."""

    shard: ShardInfo
    checks: list[list[int]]


def begin_latents(out: Path, facts: LatentSpec) -> LatentManifest | None:
    """Begin a set in a folder, or go on with one; its manifest where it was finished before.

    ValueError where the folder holds another set.
    """
    before = read_manifest(out) if (out / MANIFEST_FILE).is_file() else None
    there = before or read_unfinished(out)
    if there is None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / UNFINISHED_FILE, adapter(LatentSpec).dump_python(facts, mode="json"))
        return None
    have, want = there.told(), facts.told()
    if other := [name for name in want if have[name] != want[name]]:
        kind = "finished" if before else "unfinished"
        what = "other images" if other[0] == "data_hash" else f"another {describe_difference(other[0], have, want)}"
        raise ValueError(f"{out} holds {kind} latents of {what}; name another --out, or remove it to begin anew")
    if before and not is_complete(out, before):
        write_json(out / UNFINISHED_FILE, adapter(LatentSpec).dump_python(facts, mode="json"))
    return before


def is_complete(out: Path, m: LatentManifest) -> bool:
    """Whether a finished set has all its files, by their sizes, and nobody is at work on it."""
    with suppress(OSError):
        return all((out / f.file).stat().st_size == f.bytes for f in m.files()) and not (out / UNFINISHED_FILE).exists()
    return False


def describe_difference(name: str, have: dict[str, Any], want: dict[str, Any]) -> str:
    """What differs, in words where they are short."""
    values = f"{have[name]}, not {want[name]}"
    return f"{name} ({values})" if len(values) < 60 else name


def read_unfinished(out: Path) -> LatentSpec | None:
    """What a folder was begun with; None for one that is new.  ValueError for one that holds other things."""
    path = out / UNFINISHED_FILE
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not path.is_file():
        raise ValueError(f"{out} holds other things than latents; name an empty or a new folder with --out")
    try:
        return validate_json(LatentSpec, path.read_bytes())
    except ValueError:
        raise ValueError(f"{path} cannot be read; remove {out}, or name another --out") from None


def shard_name(index: int) -> str:
    return f"shard-{index:05d}.npy"


def find_finished_shard(
    out: Path, facts: LatentSpec, index: int, before: LatentManifest | None
) -> FinishedShard | None:
    """A shard that is there, whole by its size; None where it is to be made.

    Of a set that was finished, a shard whose checksum is wrong is to be made, too.
    """
    path = out / shard_name(index)
    beside = path.with_suffix(".json")
    try:
        told = json.loads(beside.read_text())
        found = FinishedShard(validate(ShardInfo, told["shard"]), told["checks"])
        return found if path.stat().st_size == found.shard.bytes else None
    except (OSError, ValueError, KeyError):
        pass
    if before is None or not path.is_file() or file_sha256(path) != before.shards[index].sha256:
        return None
    return FinishedShard(before.shards[index], image_checksums(np.load(path, mmap_mode="r", allow_pickle=False)))


def image_checksums(latents: np.ndarray) -> list[list[int]]:
    """CRC-32 of each image's numbers, (n, F)."""
    return [[zlib.crc32(side.tobytes()) for side in image] for image in latents]


def encode_shard(
    out: Path,
    facts: LatentSpec,
    index: int,
    arrays: Dataset,
    encode: Encoder,
    workers: int,
    report: Callable[[int], None],
) -> None:
    """Encode a shard's images, in batches from its beginning, and keep them; `report` is told of each batch."""
    own = shard_ranges(facts.images, facts.rows)[index]
    latents = np.empty(facts.shape_of(len(own)), np.float16)

    def read(_: int, first: int, size: int) -> tuple[torch.Tensor]:
        return (torch.from_numpy(read_rgb_pixels(arrays.images, np.arange(first, first + size), facts.resolution)),)

    steps = [(i, first, min(facts.batch, own.stop - first)) for i, first in enumerate(own[:: facts.batch])]
    with PrefetchLoader(read, steps, workers) as batches:
        for (_, first, size), (images,) in zip(steps, batches, strict=True):
            part = latents[first - own.start : first - own.start + size]
            for flip in range(facts.flips):
                part[:, flip] = encode(images.numpy()[..., ::-1] if flip else images.numpy())
            report(size)
    written = write_array(out / shard_name(index), latents)
    shard = ShardInfo(file=written.file, bytes=written.bytes, sha256=written.sha256, images=len(own))
    told = {"shard": adapter(ShardInfo).dump_python(shard), "checks": image_checksums(latents)}
    write_json((out / shard_name(index)).with_suffix(".json"), told)


def read_rgb_pixels(images: Any, rows: np.ndarray, resolution: int) -> np.ndarray:
    """(B, 3, S, S) uint8 of a source; ValueError for images that no autoencoder takes."""
    found = np.asarray(images[rows])
    if found.dtype != np.uint8 or found.shape[1:] != (3, resolution, resolution):
        raise ValueError(f"images are {found.dtype} {found.shape[1:]}; an autoencoder takes RGB pixels")
    return found


def write_array(path: Path, array: np.ndarray) -> FileInfo:
    """A .npy file, atomically."""
    with atomic_write(path) as partial:
        with partial.open("wb") as f:
            np.save(f, array, allow_pickle=False)
        found = FileInfo(file=path.name, bytes=partial.stat().st_size, sha256=file_sha256(partial))
    return found


def write_reference(out: Path, facts: LatentSpec, arrays: Dataset) -> FileInfo:
    """Evenly spread real images, as they are given to the encoder."""
    size, path = facts.resolution, out / REFERENCE_FILE
    rows = np.linspace(0, len(arrays.reference) - 1, facts.references).round().astype(np.int64)
    with atomic_write(path) as partial:
        shape = (facts.references, 3, size, size)
        made = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        for first in range(0, len(rows), REFERENCE_CHUNK):
            made[first : first + REFERENCE_CHUNK] = read_rgb_pixels(
                arrays.reference, rows[first : first + REFERENCE_CHUNK], size
            )
        made.flush()
        found = FileInfo(file=path.name, bytes=partial.stat().st_size, sha256=file_sha256(partial))
    return found


def finish_latents(
    out: Path, facts: LatentSpec, arrays: Dataset, before: LatentManifest | None
) -> LatentManifest | None:
    """The manifest, where all shards are there: written now, or by another process just before; else None."""
    entries = [find_finished_shard(out, facts, i, before) for i in range(len(shard_ranges(facts.images, facts.rows)))]
    found = [e for e in entries if e is not None]
    if len(found) < len(entries):
        return read_manifest(out) if (out / MANIFEST_FILE).is_file() and not (out / UNFINISHED_FILE).is_file() else None
    rows = np.arange(facts.images)
    made = LatentManifest(
        **adapter(LatentSpec).dump_python(facts),
        shards=tuple(e.shard for e in found),
        labels=write_array(out / LABELS_FILE, np.asarray(arrays.labels[rows]).astype(np.int64)),
        checks=write_array(out / CHECKSUMS_FILE, np.array([c for e in found for c in e.checks], np.uint32)),
        reference=write_reference(out, facts, arrays),
    )
    write_json(out / MANIFEST_FILE, adapter(LatentManifest).dump_python(made, mode="json"))
    remove_files(out, [UNFINISHED_FILE, *(Path(e.shard.file).with_suffix(".json").name for e in found)])
    return made


def remove_files(out: Path, names: Iterable[str]) -> None:
    """Remove what only the making needed."""
    for name in names:
        with suppress(FileNotFoundError):
            (out / name).unlink()


def new_spec(**known: Any) -> LatentSpec:
    """Facts of this version's format."""
    return LatentSpec(format=FORMAT_VERSION, **known)
