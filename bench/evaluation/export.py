"""Images of a run as files, where they are asked for: ADM's .npz, or a folder of PNGs.  Imports no torch.

H height, W width, C channels.
"""

from __future__ import annotations

import zipfile
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from bench.storage.atomic import atomic_folder, atomic_write
from bench.storage.shards import ShardedOutput, balanced_labels, open_npz_member, write_npy_rows


class ImageExport(ShardedOutput):
    """Whole images are kept in shards until all are there."""

    def __init__(self, path: Path, count: int, num_classes: int) -> None:
        super().__init__(path, count)
        self.num_classes = num_classes

    def add(self, indices: np.ndarray, images: np.ndarray) -> None:
        self.shards.add(indices, images=images)


class NpzExport(ImageExport):
    """One .npz in ADM's layout (arr_0: N, H, W, C uint8; labels)."""

    def assemble(self) -> None:
        count = self.shards.count
        own = balanced_labels(np.arange(count), self.num_classes)
        with atomic_write(self.path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as z:
            with open_npz_member(z, "arr_0.npy") as f:
                write_npy_rows(f, self.shards.iterate_rows("images"), count)
            with open_npz_member(z, "labels.npy") as f:
                np.lib.format.write_array(f, np.zeros(0, np.int64) if own is None else own)


class PngExport(ImageExport):
    """A folder of 00000000.png, 00000001.png, ...: image i, of class i modulo the number of classes."""

    def assemble(self) -> None:
        with atomic_folder(self.path) as partial:
            for i, image in enumerate(chain.from_iterable(self.shards.iterate_rows("images"))):
                Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(partial / f"{i:08d}.png")


def export_target(path: Path, count: int, num_classes: int) -> ImageExport:
    """The export whose name this is: samples/IMAGES.npz, or the folder samples/IMAGES."""
    return (NpzExport if path.suffix == ".npz" else PngExport)(path, count, num_classes)
