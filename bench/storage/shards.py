"""Arrays that many processes write a few rows at a time, in any order, as shards on disk.

A shard is FIRST-LAST-STRIDE.npz, written atomically and never changed; zip's CRC-32 detects damage.  A killed process
leaves only complete shards.  Once all rows exist, a ShardedOutput assembles them in order.  Imports no torch.

Shapes: N images in total, B images in one shard.
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
"""Fixed modification time in .npz files, so that equal arrays give equal files."""


class ArrayShards:
    """The shards of `count` images in a folder.

    `of` names the source of the rows (extractor and weights); shards of another source count as damaged.
    """

    def __init__(self, folder: Path, count: int, of: str = "") -> None:
        self.folder, self.count, self.of = folder, count, of
        self.files: dict[Path, np.ndarray] = {}
        """File -> image indices in it, ascending."""
        self.damaged: list[str] = []

    def scan(self) -> np.ndarray:
        """Return a mask of the images on disk, (N,) bool.

        Remove unreadable shards and add their names to `damaged`.
        """
        self.files = {}
        is_present = np.zeros(self.count, bool)
        for path in sorted(self.folder.glob("[0-9]*.npz")):
            try:
                indices = self._read_indices(path)
            except ValueError:
                if not path.exists():  # another process has assembled the output
                    continue
                self.damaged.append(path.name)
                path.unlink(missing_ok=True)
                continue
            self.files[path] = indices
            is_present[indices] = True
        return is_present

    def add(self, indices: np.ndarray, **arrays: np.ndarray) -> None:
        """Write the rows of the images `indices`, (B,) int, ascending with a constant stride; arrays are (B, ...)."""
        stride = int(indices[1] - indices[0]) if len(indices) > 1 else 1
        path = self.folder / f"{indices[0]:08d}-{indices[-1]:08d}-{stride}.npz"
        try:
            self._write(path, indices, arrays)
        except FileNotFoundError:  # another process has assembled the output and removed the folder
            self._write(path, indices, arrays)

    def _write(self, path: Path, indices: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        with atomic_write(path) as partial, partial.open("wb") as f:
            np.savez(f, allow_pickle=False, indices=indices, of=np.array(self.of), **arrays)

    def iterate_rows(self, name: str, size: int = 1000) -> Iterator[np.ndarray]:
        """Yield the rows of array `name` of all images, in order, in blocks (size, ...).

        Call `scan` first; all images must be on disk.
        """
        loaded: dict[Path, np.ndarray] = {}
        for start in range(0, self.count, size):
            stop = min(start + size, self.count)
            overlapping = {p: i for p, i in self.files.items() if i[0] < stop and i[-1] >= start}
            loaded = {p: loaded[p] if p in loaded else self.read_array(p, name) for p in overlapping}
            first = next(iter(loaded.values()))
            block = np.empty((stop - start, *first.shape[1:]), first.dtype)
            for path, indices in overlapping.items():
                is_inside = (indices >= start) & (indices < stop)
                block[indices[is_inside] - start] = loaded[path][is_inside]
            yield block

    def read_array(self, path: Path, name: str) -> np.ndarray:
        """Read one array of a shard, (B, ...).  ValueError if it cannot be read."""
        try:
            with np.load(path, allow_pickle=False) as z:
                return np.asarray(z[name])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged ({error}); remove it and run again") from error

    def _read_indices(self, path: Path) -> np.ndarray:
        indices = self.read_array(path, "indices")
        if not len(indices) or indices[-1] >= self.count or str(self.read_array(path, "of")) != self.of:
            raise ValueError(f"{path} holds other samples")
        return indices


class ShardedOutput(ABC):
    """A file or folder computed from all images of an evaluation point.  Its shards are beside it until then."""

    def __init__(self, path: Path, count: int, of: str = "") -> None:
        self.path = path
        self.shards = ArrayShards(path.with_suffix(".parts"), count, of)

    @property
    def done(self) -> bool:
        """Whether the output is assembled."""
        return self.path.exists()

    @abstractmethod
    def add(self, indices: np.ndarray, images: np.ndarray) -> None:
        """Write a shard computed from images (B, H, W, C) uint8 with these indices (B,)."""

    @abstractmethod
    def assemble(self) -> None:
        """Write `path` atomically from the shards of all images."""

    def finish(self) -> None:
        """Assemble the output if all shards exist, then remove them.

        Several processes may call this at once: each assembles the same bytes, and none fails.
        """
        if not self.done:
            try:
                if self.shards.scan().all():
                    self.assemble()
            except (OSError, ValueError):
                if not self.done:  # otherwise another process was first and removed the shards
                    raise
        if self.done:
            shutil.rmtree(self.shards.folder, ignore_errors=True)


def balanced_labels(indices: np.ndarray, num_classes: int) -> np.ndarray | None:
    """Return class labels (B,): image i has class i modulo `num_classes`.  None without classes."""
    return indices % num_classes if num_classes else None


def missing_batches(is_present: np.ndarray, size: int, rank: int = 0, world: int = 1) -> list[np.ndarray]:
    """Return the image indices that `rank` of `world` processes must still generate, in batches of `size`.

    Batch b belongs to rank b % world.  A batch with a missing image is generated in full.  The network therefore
    always sees the same batches, whatever is on disk and however many processes run.
    """
    blocks = [np.arange(i, min(i + size, len(is_present))) for i in range(0, len(is_present), size)]
    return [block for block in blocks[rank::world] if not is_present[block].all()]


def write_npy_rows(f: IO[bytes], blocks: Iterable[np.ndarray], count: int) -> None:
    """Write a .npy array of `count` rows from consecutive blocks (B, ...)."""
    has_header = False
    for block in blocks:
        if not has_header:
            header = {"descr": block.dtype.str, "fortran_order": False, "shape": (count, *block.shape[1:])}
            np.lib.format.write_array_header_1_0(f, header)
            has_header = True
        f.write(np.ascontiguousarray(block).data)


def open_npz_member(z: zipfile.ZipFile, name: str) -> Any:
    """Open a new member of an .npz file for writing."""
    info = zipfile.ZipInfo(name, ZIP_DATE)
    info.compress_type = z.compression
    return z.open(info, "w", force_zip64=True)
