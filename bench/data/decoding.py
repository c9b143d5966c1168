"""Images that are decoded when they are asked for, cropped as ADM crops them.

B batch, N images, H W size.  Imports no torch.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.data.dataset import LazyImages

MAX_REFERENCE_IMAGES = 10_000
"""Real images, evenly spread over the set, that the metrics compare with where a set is too large for all."""
DECODE_THREADS = min(8, os.cpu_count() or 1)
HASH_BLOCK_BYTES, HASH_BLOCKS = 1 << 16, 16
DECODE_ERRORS = (Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError, struct.error)
"""What PIL raises for files that it cannot decode."""


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle square at `size` pixels, exactly as ADM, DiT and U-ViT prepare ImageNet.

    Box halving while the shorter side is at least twice the size, then bicubic to the size, then the middle.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


@dataclass(frozen=True, kw_only=True)
class DecodedImages(LazyImages):
    """Decoded by threads when rows are asked for."""

    crop: bool
    """Whether images are cropped to the size; else they must have it."""
    read: Callable[[int], Image.Image]
    """The image of a row."""
    name: Callable[[int], str]
    """How a sentence about that image begins."""

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """(B, 3, size, size); ValueError names the image that cannot be used."""
        wanted = np.arange(self.count)[rows].tolist()
        found = np.empty((len(wanted), *self.shape[1:]), np.uint8)

        def decode(place: int) -> None:
            found[place] = self._pixels(wanted[place])

        if len(wanted) < 4 or DECODE_THREADS == 1:
            for place in range(len(wanted)):
                decode(place)
        else:
            with ThreadPoolExecutor(min(DECODE_THREADS, len(wanted))) as pool:
                list(pool.map(decode, range(len(wanted))))
        return found

    def _pixels(self, row: int) -> np.ndarray:
        try:
            with self.read(row) as image:
                rgb = image.convert("RGB")
        except DECODE_ERRORS as error:
            why = "no known format" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
            raise ValueError(f"{self.name(row)} cannot be read as an image ({why}); mend or remove it") from None
        if self.crop:
            rgb = centre_crop(rgb, self.size)
        elif rgb.size != (self.size, self.size):
            raise ValueError(
                f"{self.name(row)} is {rgb.width}x{rgb.height}, the first {self.size}x{self.size}; {CROP_HINT}"
            )
        return np.asarray(rgb).transpose(2, 0, 1)


CROP_HINT = "say which size to crop all to, as in --data PATH@64"


def square_edge(image: Image.Image, name: str) -> int:
    """Height and width of a square image; ValueError for any other."""
    if image.width != image.height:
        raise ValueError(f"{name} is {image.width}x{image.height}; {CROP_HINT}")
    return image.width


def resize_images(images: np.ndarray, size: int, name: str) -> np.ndarray | DecodedImages:
    """Images (N, C, H, W) uint8 in memory, cropped to the size when they are asked for; 0 leaves them as they are."""
    if not size or images.shape[2:] == (size, size):
        return images

    def read(row: int) -> Image.Image:
        return Image.fromarray(images[row].transpose(1, 2, 0).squeeze())

    return DecodedImages(count=len(images), size=size, crop=True, read=read, name=lambda row: f"image {row} of {name}")


def evenly_spaced(count: int, most: int = MAX_REFERENCE_IMAGES) -> np.ndarray:
    """Rows evenly spread over a set, (min(count, most),)."""
    n = min(count, most)
    return np.arange(n) * count // max(n, 1)


def hash_sampled_files(names: Sequence[str], samples: Sequence[Path]) -> str:
    """16 hexadecimal digits of names, and of the size and some blocks of each sampled file.

    Cheap at any size; two sets that differ in less than that are taken for one.
    """
    h = hashlib.sha256("\n".join(names).encode())
    for path in samples:
        size = path.stat().st_size
        h.update(f"\n{size}".encode())
        with path.open("rb") as f:
            for start in sorted({max(0, size - HASH_BLOCK_BYTES) * i // (HASH_BLOCKS - 1) for i in range(HASH_BLOCKS)}):
                f.seek(start)
                h.update(f.read(HASH_BLOCK_BYTES))
    return h.hexdigest()[:16]
