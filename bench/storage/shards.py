"""Arrays that are made some rows at a time, in any order, by any number of processes: shards on disk.

A shard is FIRST-LAST-STRIDE.npz, written atomically, with a checksum, and never changed.  What is killed
leaves whole shards, and when all rows are there a Target puts them together in order.  Imports no torch.

N images, B images of a shard.
"""

from __future__ import annotations

import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.storage.atomic import atomic_write

ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""The date inside .npz files, so that equal content is equal files."""


class ArrayShards:
    """The rows that are there so far of `count`.

    `of` says what made them; shards made by something else count as damaged.
    """

    def __init__(self, folder: Path, count: int, of: str = "") -> None:
        self.folder, self.count, self.of = folder, count, of
        self.files: dict[Path, np.ndarray] = {}
        """File -> the image numbers in it, ascending."""
        self.damaged: list[str] = []

    def look(self) -> np.ndarray:
        """Which of the images are there, (N,) bool.  What cannot be read is removed and named in `damaged`."""
        self.files = {}
        there = np.zeros(self.count, bool)
        for path in sorted(self.folder.glob("[0-9]*.npz")):
            try:
                own = self._indices(path)
            except ValueError:
                if not path.exists():  # another process has put all together
                    continue
                self.damaged.append(path.name)
                path.unlink(missing_ok=True)
                continue
            self.files[path] = own
            there[own] = True
        return there

    def add(self, indices: np.ndarray, **arrays: np.ndarray) -> None:
        """Keep the rows of these images, (B,) ascending and of one stride."""
        stride = int(indices[1] - indices[0]) if len(indices) > 1 else 1
        path = self.folder / f"{indices[0]:08d}-{indices[-1]:08d}-{stride}.npz"
        try:
            self._write(path, indices, arrays)
        except FileNotFoundError:  # another process has put all together, and removed the folder meanwhile
            self._write(path, indices, arrays)

    def _write(self, path: Path, indices: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        with atomic_write(path) as partial, partial.open("wb") as f:
            np.savez(f, allow_pickle=False, indices=indices, of=np.array(self.of), **arrays)

    def rows(self, name: str, size: int = 1000) -> Iterator[np.ndarray]:
        """An array of all images in order, `size` rows at a time; `look` must have seen them all."""
        held: dict[Path, np.ndarray] = {}
        for start in range(0, self.count, size):
            stop = min(start + size, self.count)
            near = {p: own for p, own in self.files.items() if own[0] < stop and own[-1] >= start}
            held = {p: held[p] if p in held else self.read(p, name) for p in near}
            first = next(iter(held.values()))
            block = np.empty((stop - start, *first.shape[1:]), first.dtype)
            for path, own in near.items():
                here = (own >= start) & (own < stop)
                block[own[here] - start] = held[path][here]
            yield block

    def read(self, path: Path, name: str) -> np.ndarray:
        """An array of a shard; ValueError when it cannot be read."""
        try:
            with np.load(path, allow_pickle=False) as z:
                return np.asarray(z[name])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged ({error}); remove it and run again") from error

    def _indices(self, path: Path) -> np.ndarray:
        own = self.read(path, "indices")
        if not len(own) or own[-1] >= self.count or str(self.read(path, "of")) != self.of:
            raise ValueError(f"{path} holds other samples")
        return own


class ShardedOutput(ABC):
    """What all images of one evaluation point are made into: a file or a folder, and its shards beside it."""

    def __init__(self, path: Path, count: int, of: str = "") -> None:
        self.path = path
        self.shards = ArrayShards(path.with_suffix(".parts"), count, of)

    @property
    def done(self) -> bool:
        return self.path.exists()

    @abstractmethod
    def add(self, indices: np.ndarray, images: np.ndarray) -> None:
        """Keep what is wanted of images (B, H, W, C) uint8 with these numbers."""

    @abstractmethod
    def assemble(self) -> None:
        """Write `path`, all or nothing, from the shards of all images."""

    def finish(self) -> None:
        """Put the shards together where all are there, and remove them.

        Of processes that do so at once each makes the same, one's stays, and none fails.
        """
        if not self.done:
            try:
                if self.shards.look().all():
                    self.assemble()
            except (OSError, ValueError):
                if not self.done:  # else another process was first, and removed the shards meanwhile
                    raise
        if self.done:
            shutil.rmtree(self.shards.folder, ignore_errors=True)


def balanced_labels(indices: np.ndarray, num_classes: int) -> np.ndarray | None:
    """Balanced labels: image i has class i modulo the number of classes."""
    return indices % num_classes if num_classes else None


def missing_batches(there: np.ndarray, size: int, rank: int = 0, world: int = 1) -> list[np.ndarray]:
    """Image numbers still to make by process `rank` of `world`: block b is that of process b % world.

    The grid depends on neither what is there nor the number of processes, so that networks always see
    the same batches.
    """
    blocks = [np.arange(i, min(i + size, len(there))) for i in range(0, len(there), size)]
    return [block for block in blocks[rank::world] if not there[block].all()]


def write_npy_rows(f: IO[bytes], blocks: Iterable[np.ndarray], count: int) -> None:
    """A .npy of `count` rows that come some at a time."""
    started = False
    for block in blocks:
        if not started:
            header = {"descr": block.dtype.str, "fortran_order": False, "shape": (count, *block.shape[1:])}
            np.lib.format.write_array_header_1_0(f, header)
            started = True
        f.write(np.ascontiguousarray(block).data)


def open_npz_member(z: zipfile.ZipFile, name: str) -> Any:
    """A file to write within an .npz."""
    info = zipfile.ZipInfo(name, ZIP_DATE)
    info.compress_type = z.compression
    return z.open(info, "w", force_zip64=True)
