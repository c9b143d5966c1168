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
from pydantic import TypeAdapter

from bench.data.autoencoder import Encoder
from bench.data.dataset import Arrays
from bench.data.latents import (
    CHECKS,
    FORMAT,
    LABELS,
    MANIFEST,
    REFERENCE,
    Facts,
    File,
    Manifest,
    Shard,
    read_manifest,
    shards_of,
)
from bench.data.prefetch import Loader
from bench.storage.atomic import atomic, sha256, write_json

BEGUN = "encoding.json"
CHUNK = 256
"""Reference images read at a time."""


@dataclass(frozen=True)
class Entry:
    """A finished shard: its line of the manifest and its images' checks, (n, F)."""

    shard: Shard
    checks: list[list[int]]


def begin(out: Path, facts: Facts) -> Manifest | None:
    """Begin a set in a folder, or go on with one; its manifest where it was finished before.

    ValueError where the folder holds another set.
    """
    before = read_manifest(out) if (out / MANIFEST).is_file() else None
    there = before or unfinished(out)
    if there is None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / BEGUN, TypeAdapter(Facts).dump_python(facts, mode="json"))
        return None
    have, want = there.told(), facts.told()
    if other := [name for name in want if have[name] != want[name]]:
        kind = "finished" if before else "unfinished"
        what = "other images" if other[0] == "data_hash" else f"another {words(other[0], have, want)}"
        raise ValueError(f"{out} holds {kind} latents of {what}; name another --out, or remove it to begin anew")
    if before and not is_whole(out, before):
        write_json(out / BEGUN, TypeAdapter(Facts).dump_python(facts, mode="json"))
    return before


def is_whole(out: Path, m: Manifest) -> bool:
    """Whether a finished set has all its files, by their sizes, and nobody is at work on it."""
    with suppress(OSError):
        return all((out / f.file).stat().st_size == f.bytes for f in m.files()) and not (out / BEGUN).exists()
    return False


def words(name: str, have: dict[str, Any], want: dict[str, Any]) -> str:
    """What differs, in words where they are short."""
    values = f"{have[name]}, not {want[name]}"
    return f"{name} ({values})" if len(values) < 60 else name


def unfinished(out: Path) -> Facts | None:
    """What a folder was begun with; None for one that is new.  ValueError for one that holds other things."""
    path = out / BEGUN
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not path.is_file():
        raise ValueError(f"{out} holds other things than latents; name an empty or a new folder with --out")
    try:
        return TypeAdapter(Facts).validate_json(path.read_bytes())
    except ValueError:
        raise ValueError(f"{path} cannot be read; remove {out}, or name another --out") from None


def shard_name(index: int) -> str:
    return f"shard-{index:05d}.npy"


def entry(out: Path, facts: Facts, index: int, before: Manifest | None) -> Entry | None:
    """A shard that is there, whole by its size; None where it is to be made.

    Of a set that was finished, a shard whose checksum is wrong is to be made, too.
    """
    path = out / shard_name(index)
    beside = path.with_suffix(".json")
    try:
        told = json.loads(beside.read_text())
        found = Entry(TypeAdapter(Shard).validate_python(told["shard"]), told["checks"])
        return found if path.stat().st_size == found.shard.bytes else None
    except (OSError, ValueError, KeyError):
        pass
    if before is None or not path.is_file() or sha256(path) != before.shards[index].sha256:
        return None
    return Entry(before.shards[index], checks_of(np.load(path, mmap_mode="r", allow_pickle=False)))


def checks_of(latents: np.ndarray) -> list[list[int]]:
    """CRC-32 of each image's numbers, (n, F)."""
    return [[zlib.crc32(side.tobytes()) for side in image] for image in latents]


def make_shard(
    out: Path,
    facts: Facts,
    index: int,
    arrays: Arrays,
    encode: Encoder,
    workers: int,
    report: Callable[[int], None],
) -> None:
    """Encode a shard's images, in batches from its beginning, and keep them; `report` is told of each batch."""
    own = shards_of(facts.images, facts.rows)[index]
    latents = np.empty(facts.shape_of(len(own)), np.float16)

    def read(_: int, first: int, size: int) -> tuple[torch.Tensor]:
        return (torch.from_numpy(pixels(arrays.images, np.arange(first, first + size), facts.resolution)),)

    steps = [(i, first, min(facts.batch, own.stop - first)) for i, first in enumerate(own[:: facts.batch])]
    with Loader(read, steps, workers) as batches:
        for (_, first, size), (images,) in zip(steps, batches, strict=True):
            part = latents[first - own.start : first - own.start + size]
            for flip in range(facts.flips):
                part[:, flip] = encode(images.numpy()[..., ::-1] if flip else images.numpy())
            report(size)
    written = write_array(out / shard_name(index), latents)
    shard = Shard(file=written.file, bytes=written.bytes, sha256=written.sha256, images=len(own))
    told = {"shard": TypeAdapter(Shard).dump_python(shard), "checks": checks_of(latents)}
    write_json((out / shard_name(index)).with_suffix(".json"), told)


def pixels(images: Any, rows: np.ndarray, resolution: int) -> np.ndarray:
    """(B, 3, S, S) uint8 of a source; ValueError for images that no autoencoder takes."""
    found = np.asarray(images[rows])
    if found.dtype != np.uint8 or found.shape[1:] != (3, resolution, resolution):
        raise ValueError(f"images are {found.dtype} {found.shape[1:]}; an autoencoder takes RGB pixels")
    return found


def write_array(path: Path, array: np.ndarray) -> File:
    """A .npy file, atomically."""
    with atomic(path) as partial:
        with partial.open("wb") as f:
            np.save(f, array, allow_pickle=False)
        found = File(file=path.name, bytes=partial.stat().st_size, sha256=sha256(partial))
    return found


def write_reference(out: Path, facts: Facts, arrays: Arrays) -> File:
    """Evenly spread real images, as they are given to the encoder."""
    size, path = facts.resolution, out / REFERENCE
    rows = np.linspace(0, len(arrays.reference) - 1, facts.references).round().astype(np.int64)
    with atomic(path) as partial:
        shape = (facts.references, 3, size, size)
        made = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        for first in range(0, len(rows), CHUNK):
            made[first : first + CHUNK] = pixels(arrays.reference, rows[first : first + CHUNK], size)
        made.flush()
        found = File(file=path.name, bytes=partial.stat().st_size, sha256=sha256(partial))
    return found


def finish(out: Path, facts: Facts, arrays: Arrays, before: Manifest | None) -> Manifest | None:
    """The manifest, where all shards are there: written now, or by another process just before; else None."""
    entries = [entry(out, facts, i, before) for i in range(len(shards_of(facts.images, facts.rows)))]
    found = [e for e in entries if e is not None]
    if len(found) < len(entries):
        return read_manifest(out) if (out / MANIFEST).is_file() and not (out / BEGUN).is_file() else None
    rows = np.arange(facts.images)
    made = Manifest(
        **TypeAdapter(Facts).dump_python(facts),
        shards=tuple(e.shard for e in found),
        labels=write_array(out / LABELS, np.asarray(arrays.labels[rows]).astype(np.int64)),
        checks=write_array(out / CHECKS, np.array([c for e in found for c in e.checks], np.uint32)),
        reference=write_reference(out, facts, arrays),
    )
    write_json(out / MANIFEST, TypeAdapter(Manifest).dump_python(made, mode="json"))
    tidy(out, [BEGUN, *(Path(e.shard.file).with_suffix(".json").name for e in found)])
    return made


def tidy(out: Path, names: Iterable[str]) -> None:
    """Remove what only the making needed."""
    for name in names:
        with suppress(FileNotFoundError):
            (out / name).unlink()


def facts_of(**known: Any) -> Facts:
    """Facts of this version's format."""
    return Facts(format=FORMAT, **known)
