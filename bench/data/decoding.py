"""Decode images on demand, crop them as ADM does, and hash files by samples of their content.

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
"""Maximum number of reference images.  Larger sets are subsampled at even spacing."""
DECODE_THREADS = min(8, os.cpu_count() or 1)
MIN_THREADED_ROWS = 4
"""Minimum number of rows for decoding in threads."""
HASH_BLOCK_BYTES, HASH_BLOCKS = 1 << 16, 16
"""Bytes per hashed block, and hashed blocks per file."""
DECODE_ERRORS = (Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError, struct.error)
"""Exceptions that PIL raises for files that it cannot decode."""


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Crop the central square to `size` pixels, exactly as ADM, DiT and U-ViT prepare ImageNet.

    The image is halved by a box filter while its shorter edge is at least twice the size, resized bicubically so that
    the shorter edge has the size, and cropped.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


@dataclass(frozen=True, kw_only=True)
class DecodedImages(LazyImages):
    """Images that threads decode when rows are read."""

    crop: bool
    """Whether images are cropped to the size; otherwise each must already have it."""
    read: Callable[[int], Image.Image]
    """Row -> its image."""
    name: Callable[[int], str]
    """Row -> the name of its image in messages."""

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Return (B, 3, size, size) uint8; ValueError names an image that cannot be used."""
        indices = np.arange(self.count)[rows].tolist()
        images = np.empty((len(indices), *self.shape[1:]), np.uint8)

        def decode(position: int) -> None:
            images[position] = self._decode(indices[position])

        if len(indices) < MIN_THREADED_ROWS or DECODE_THREADS == 1:
            for position in range(len(indices)):
                decode(position)
        else:
            with ThreadPoolExecutor(min(DECODE_THREADS, len(indices))) as pool:
                list(pool.map(decode, range(len(indices))))
        return images

    def _decode(self, row: int) -> np.ndarray:
        try:
            with self.read(row) as image:
                rgb = image.convert("RGB")
        except DECODE_ERRORS as error:
            reason = (
                "unknown format" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
            )
            raise ValueError(f"{self.name(row)} cannot be read as an image ({reason}); replace or remove it") from None
        if self.crop:
            rgb = centre_crop(rgb, self.size)
        elif rgb.size != (self.size, self.size):
            raise ValueError(
                f"{self.name(row)} is {rgb.width}x{rgb.height}, but the first image is {self.size}x{self.size}; "
                f"{CROP_HINT}"
            )
        return np.asarray(rgb).transpose(2, 0, 1)


CROP_HINT = "add a size to crop all images to, as in --data PATH@64"


def square_edge(image: Image.Image, name: str) -> int:
    """Return the edge length of a square image; ValueError for any other."""
    if image.width != image.height:
        raise ValueError(f"{name} is {image.width}x{image.height}; {CROP_HINT}")
    return image.width


def resize_images(images: np.ndarray, size: int, name: str) -> np.ndarray | DecodedImages:
    """Return in-memory images, (N, C, H, W) uint8, cropped to `size` when they are read; unchanged if it is 0."""
    if not size or images.shape[2:] == (size, size):
        return images

    def read(row: int) -> Image.Image:
        return Image.fromarray(images[row].transpose(1, 2, 0).squeeze())

    return DecodedImages(count=len(images), size=size, crop=True, read=read, name=lambda row: f"image {row} of {name}")


def evenly_spaced(count: int, limit: int = MAX_REFERENCE_IMAGES) -> np.ndarray:
    """Return rows evenly spaced over a set, (min(count, limit),)."""
    n = min(count, limit)
    return np.arange(n) * count // max(n, 1)


def hash_sampled_files(names: Sequence[str], samples: Sequence[Path]) -> str:
    """Hash names, and the size and some blocks of each sampled file, to 16 hexadecimal digits.

    The cost does not grow with the files.  Sets that differ only outside the sampled blocks have the same hash.
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
