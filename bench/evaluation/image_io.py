"""Image files of the evaluation: sources that are read batch by batch, and exports of generated samples.

Sources are folders of images, .npz files in ADM's layout and arrays.  Exports are .npz files in ADM's layout and
folders of PNGs.  Nothing is resized, cropped or converted.  A ValueError names an image that cannot be used; with
`skip_bad` such images are left out and listed instead.  Imports no torch.

N images, B images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.data.dataset import Rows
from bench.data.image_folder import IMAGE_ENDINGS
from bench.data.numpy_files import read_npy_header
from bench.storage.atomic import atomic_folder, atomic_write
from bench.storage.shards import ShardedOutput, balanced_labels, open_npz_member, write_npy_rows

PIL_MODES = {1: ("L",), 3: ("RGB",)}
MODE_NAMES = {"L": "grey", "LA": "grey with transparency", "RGBA": "RGBA", "P": "of a palette", "1": "black and white"}
ImageBatch = tuple[list[str], np.ndarray]


class ImageSource(Protocol):
    """Images of one size that are read batch by batch."""

    name: str
    """Name in messages."""
    count: int
    """Maximum number of images; fewer if files prove damaged when they are read."""
    size: tuple[int, int, int]
    """(C, H, W)"""
    left_out: list[dict[str, str]]
    """[{file, reason}] of the images that were left out."""

    def batches(self, size: int) -> Iterator[ImageBatch]:
        """Yield (names, images (B, C, H, W) uint8) in file order, at most `size` images at a time."""
        ...


class ArrayImages:
    """Images of an array (N, C, H, W) uint8, in memory or read on demand; ValueError for any other array."""

    def __init__(self, array: Rows, name: str = "array") -> None:
        if array.dtype != np.uint8 or len(array.shape) != 4 or array.shape[1] not in (1, 3):
            raise ValueError(f"{name} is {array.dtype} {array.shape}; images must be uint8 (N, 1 or 3, H, W)")
        self.array, self.name, self.count = array, name, len(array)
        self.size = (array.shape[1], array.shape[2], array.shape[3])
        self.left_out: list[dict[str, str]] = []

    def batches(self, size: int) -> Iterator[ImageBatch]:
        for start in range(0, self.count, size):
            part = np.array(self.array[start : start + size])
            yield [f"image {start + i} of {self.name}" for i in range(len(part))], part


class NpzImages:
    """Images of an .npz file: its `arr_0`, (N, H, W, C) uint8, read from the archive batch by batch.

    ValueError if there is no such array, or a number of channels that is not in `channels`.
    """

    def __init__(self, path: Path, channels: tuple[int, ...] = (3,)) -> None:
        self.path, self.name, self.left_out = path, str(path), list[dict[str, str]]()
        with _archive(path) as archive, _member(path, archive) as f:
            shape, dtype = _header(path, f)
        what = f"arr_0 of {path} is {dtype} {shape}"
        if len(shape) == 3 or (len(shape) == 4 and shape[3] not in channels):
            kind = {1: "grey", 4: "RGBA"}.get(shape[3] if len(shape) == 4 else 1, "no RGB")
            raise ValueError(f"{what}, {kind} images; they must be uint8 (N, H, W, {' or '.join(map(str, channels))})")
        if dtype != np.uint8 or len(shape) != 4:
            raise ValueError(f"{what}; images must be uint8 (N, H, W, C), 0 to 255")
        self.count, self.size = shape[0], (shape[3], shape[1], shape[2])

    def batches(self, size: int) -> Iterator[ImageBatch]:
        c, h, w = self.size
        with _archive(self.path) as archive, _member(self.path, archive) as f:
            _header(self.path, f)
            for start in range(0, self.count, size):
                n = min(size, self.count - start)
                try:
                    data = f.read(n * h * w * c)
                except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
                    raise ValueError(f"{self.path} is damaged at image {start}: {error}") from None
                if len(data) < n * h * w * c:
                    raise ValueError(f"{self.path} is truncated after image {start + len(data) // (h * w * c)}")
                images = np.frombuffer(data, np.uint8).reshape(n, h, w, c).transpose(0, 3, 1, 2)
                yield [f"image {start + i} of {self.path}" for i in range(n)], np.array(images, order="C")


class FolderImages:
    """Image files (IMAGE_ENDINGS) of a folder in order of their names; subfolders are not searched.

    All headers are read on opening, so that a wrong mode or size is reported before any work.  ValueError if there
    is no usable image.
    """

    def __init__(self, path: Path, channels: tuple[int, ...] = (3,), skip_bad: bool = False) -> None:
        self.name, self.skip_bad, self.left_out = str(path), skip_bad, list[dict[str, str]]()
        self.modes = {mode: c for c in channels for mode in PIL_MODES[c]}
        files = [f for f in sorted(path.iterdir()) if f.suffix.lower() in IMAGE_ENDINGS]
        if not files:
            raise ValueError(f"{path} holds no {', '.join(IMAGE_ENDINGS)} files (subfolders are not searched)")
        headers = [(f, self._read_size(f)) for f in files]
        sizes = Counter(h for _, h in headers if isinstance(h, tuple))
        if sizes:
            common = sizes.most_common(1)[0][0]
            headers = [
                (f, self._size_problem(h, common) if isinstance(h, tuple) and h != common else h) for f, h in headers
            ]
            self.size = common
        self.files = [f for f, h in headers if isinstance(h, tuple) or self._leave_out(f, h)]
        self.count = len(self.files)
        if not self.files:
            raise ValueError(f"{path} holds no image that can be used; the first: {self.left_out[0]['reason']}")

    def _read_size(self, file: Path) -> tuple[int, int, int] | str:
        """Read (C, H, W) from a header; returns the reason if that is impossible."""
        try:
            with Image.open(file) as image:
                if image.mode not in self.modes:
                    kind = MODE_NAMES.get(image.mode, f"of mode {image.mode}")
                    return f"is {kind}; it must be {' or '.join(self.modes)}, so convert it first"
                return self.modes[image.mode], image.height, image.width
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            return f"cannot be read as an image ({_reason(error, file)})"

    @staticmethod
    def _size_problem(size: tuple[int, int, int], common: tuple[int, int, int]) -> str:
        (c, h, w), (c0, h0, w0) = size, common
        return f"is {w}x{h} with {c} channels, where most are {w0}x{h0} with {c0}; all must be of one size"

    def _leave_out(self, file: Path, reason: str) -> bool:
        """List an unusable file and return False; ValueError without `skip_bad`."""
        if not self.skip_bad:
            raise ValueError(f"{file} {reason}; --skip-bad leaves such files out")
        self.left_out.append({"file": str(file), "reason": reason})
        return False

    def _read_pixels(self, file: Path) -> np.ndarray | str:
        """Read (C, H, W) uint8; returns the reason if that is impossible."""
        try:
            with Image.open(file) as image:
                pixels = np.asarray(image)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            return f"is damaged or truncated ({_reason(error, file)})"
        return pixels.reshape(self.size[1], self.size[2], self.size[0]).transpose(2, 0, 1)

    def batches(self, size: int) -> Iterator[ImageBatch]:
        with ThreadPoolExecutor(4) as pool:
            for start in range(0, len(self.files), size):
                files = self.files[start : start + size]
                names, images = list[str](), list[np.ndarray]()
                for file, pixels in zip(files, list(pool.map(self._read_pixels, files)), strict=True):
                    if isinstance(pixels, str):
                        self._leave_out(file, pixels)
                    else:
                        names.append(str(file))
                        images.append(pixels)
                if names:
                    yield names, np.stack(images)


def read_npz_labels(path: Path) -> np.ndarray | None:
    """Read the classes (N,) that the images of an .npz file were conditioned on; None if it has none."""
    with np.load(path, allow_pickle=False) as z:
        labels: np.ndarray | None = z["labels"] if "labels" in z.files else None
    return labels if labels is not None and len(labels) else None


def _reason(error: Exception, file: Path) -> str:
    """Return PIL's reason without the file's path, which the sentence names already."""
    if isinstance(error, UnidentifiedImageError):
        return "no known format"
    return (str(error) or type(error).__name__).replace(str(file), "the file")


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} is not an .npz, or is damaged or truncated: {error}") from None


def _member(path: Path, archive: zipfile.ZipFile) -> IO[bytes]:
    try:
        return archive.open("arr_0.npy")
    except KeyError:
        inside = ", ".join(name.removesuffix(".npy") for name in archive.namelist()[:8]) or "nothing"
        raise ValueError(f"{path} has no arr_0, the images (N, H, W, 3) of ADM's layout; it holds {inside}") from None
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _header(path: Path, f: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Read shape and dtype of a .npy stream; ValueError for pickles and column order."""
    shape, fortran_order, dtype = read_npy_header(f, f"arr_0 of {path}")
    if dtype.hasobject:
        raise ValueError(f"arr_0 of {path} holds pickled objects, which are never read; it must be uint8 (N, H, W, 3)")
    if fortran_order:
        raise ValueError(f"arr_0 of {path} is stored by columns; save it again with numpy.ascontiguousarray")
    return shape, dtype


class ImageExport(ShardedOutput):
    """Export of generated samples; the images stay in shards until all exist."""

    def __init__(self, path: Path, count: int, num_classes: int) -> None:
        super().__init__(path, count)
        self.num_classes = num_classes

    def add(self, indices: np.ndarray, images: np.ndarray) -> None:
        """Keep images (B, H, W, C) uint8 with these numbers."""
        self.shards.add(indices, images=images)


class NpzExport(ImageExport):
    """Export as one .npz file in ADM's layout: arr_0 (N, H, W, C) uint8, labels (N,) or (0,)."""

    def assemble(self) -> None:
        count = self.shards.count
        labels = balanced_labels(np.arange(count), self.num_classes)
        with atomic_write(self.path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as z:
            with open_npz_member(z, "arr_0.npy") as f:
                write_npy_rows(f, self.shards.iterate_rows("images"), count)
            with open_npz_member(z, "labels.npy") as f:
                np.lib.format.write_array(f, np.zeros(0, np.int64) if labels is None else labels)


class PngExport(ImageExport):
    """Export as a folder of 00000000.png, 00000001.png, ...: image i has class i modulo the number of classes."""

    def assemble(self) -> None:
        with atomic_folder(self.path) as partial:
            for i, image in enumerate(chain.from_iterable(self.shards.iterate_rows("images"))):
                Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(partial / f"{i:08d}.png")


def export_target(path: Path, count: int, num_classes: int) -> ImageExport:
    """Return the export for a path: samples/IMAGES.npz, or the folder samples/IMAGES."""
    return (NpzExport if path.suffix == ".npz" else PngExport)(path, count, num_classes)
