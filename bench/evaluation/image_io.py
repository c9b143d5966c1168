"""Images for the evaluation, read batch by batch: folders of files, .npz in ADM's layout, arrays.

Nothing is resized, cropped or converted here.  An image that cannot be used is a ValueError that
names its file; with `skip_bad` it is left out and listed.  Imports no torch.

B batch, N images, C channels, H W size.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.data.dataset import Rows
from bench.data.image_folder import IMAGE_ENDINGS
from bench.data.numpy_files import read_npy_header

PIL_MODES = {1: ("L",), 3: ("RGB",)}
MODE_NAMES = {"L": "grey", "LA": "grey with transparency", "RGBA": "RGBA", "P": "of a palette", "1": "black and white"}
ImageBatch = tuple[list[str], np.ndarray]


class ImageSource(Protocol):
    """Images of one size, and those that were left out."""

    name: str
    """How messages call them."""
    count: int
    """Images that `batches` gives, at most: a file may turn out damaged when it is read."""
    size: tuple[int, int, int]
    """(C, H, W)"""
    left_out: list[dict[str, str]]
    """[{file, reason}]"""

    def batches(self, size: int) -> Iterator[ImageBatch]:
        """(names, (B, C, H, W) uint8) in file order."""
        ...


class ArrayImages:
    """(N, C, H, W) uint8 that are there already, or read as they are asked for."""

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
    """`arr_0`, (N, H, W, C) uint8, of an .npz; read through the archive, never as a whole."""

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
                    raise ValueError(f"{self.path} is cut short after image {start + len(data) // (h * w * c)}")
                images = np.frombuffer(data, np.uint8).reshape(n, h, w, c).transpose(0, 3, 1, 2)
                yield [f"image {start + i} of {self.path}" for i in range(n)], np.array(images, order="C")


class FolderImages:
    """The image files of a folder (IMAGE_ENDINGS), by name; its own subfolders are not searched.

    Headers are read at once, so that a wrong mode or size is known before anything is measured.
    """

    def __init__(self, path: Path, channels: tuple[int, ...] = (3,), skip_bad: bool = False) -> None:
        self.name, self.skip_bad, self.left_out = str(path), skip_bad, list[dict[str, str]]()
        self.modes = {mode: c for c in channels for mode in PIL_MODES[c]}
        found = [f for f in sorted(path.iterdir()) if f.suffix.lower() in IMAGE_ENDINGS]
        if not found:
            raise ValueError(f"{path} holds no {', '.join(IMAGE_ENDINGS)} files (subfolders are not searched)")
        headers = [(f, self._header_of(f)) for f in found]
        known = Counter(h for _, h in headers if isinstance(h, tuple))
        if known:
            common = known.most_common(1)[0][0]
            headers = [(f, self._other(h, common) if isinstance(h, tuple) and h != common else h) for f, h in headers]
            self.size = common
        self.files = [f for f, h in headers if isinstance(h, tuple) or self._bad(f, h)]
        self.count = len(self.files)
        if not self.files:
            raise ValueError(f"{path} holds no image that can be used; the first: {self.left_out[0]['reason']}")

    def _header_of(self, file: Path) -> tuple[int, int, int] | str:
        """(C, H, W), or what is wrong."""
        try:
            with Image.open(file) as image:
                if image.mode not in self.modes:
                    kind = MODE_NAMES.get(image.mode, f"of mode {image.mode}")
                    return f"is {kind}; it must be {' or '.join(self.modes)}, so convert it first"
                return self.modes[image.mode], image.height, image.width
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            return f"cannot be read as an image ({_words(error, file)})"

    @staticmethod
    def _other(found: tuple[int, int, int], common: tuple[int, int, int]) -> str:
        (c, h, w), (c0, h0, w0) = found, common
        return f"is {w}x{h} with {c} channels, where most are {w0}x{h0} with {c0}; all must be of one size"

    def _bad(self, file: Path, reason: str) -> bool:
        """Refuse a file, or list it; False."""
        if not self.skip_bad:
            raise ValueError(f"{file} {reason}; --skip-bad leaves such files out")
        self.left_out.append({"file": str(file), "reason": reason})
        return False

    def _read(self, file: Path) -> np.ndarray | str:
        try:
            with Image.open(file) as image:
                pixels = np.asarray(image)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            return f"is damaged or cut short ({_words(error, file)})"
        return pixels.reshape(self.size[1], self.size[2], self.size[0]).transpose(2, 0, 1)

    def batches(self, size: int) -> Iterator[ImageBatch]:
        with ThreadPoolExecutor(4) as pool:
            for start in range(0, len(self.files), size):
                files = self.files[start : start + size]
                pixels = list(pool.map(self._read, files))
                good = [(f, p) for f, p in zip(files, pixels, strict=True) if not isinstance(p, str) or self._bad(f, p)]
                if good:
                    yield [str(f) for f, _ in good], np.stack([p for _, p in good if not isinstance(p, str)])


def read_npz_labels(path: Path) -> np.ndarray | None:
    """Labels that the images of an .npz were made for, (N,); None where it has none."""
    with np.load(path, allow_pickle=False) as z:
        labels: np.ndarray | None = z["labels"] if "labels" in z.files else None
    return labels if labels is not None and len(labels) else None


def _words(error: Exception, file: Path) -> str:
    """PIL's reason without the path that the sentence names already."""
    if isinstance(error, UnidentifiedImageError):
        return "no known format"
    return (str(error) or type(error).__name__).replace(str(file), "the file")


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} is no .npz, or is damaged or cut short: {error}") from None


def _member(path: Path, archive: zipfile.ZipFile) -> IO[bytes]:
    try:
        return archive.open("arr_0.npy")
    except KeyError:
        inside = ", ".join(name.removesuffix(".npy") for name in archive.namelist()[:8]) or "nothing"
        raise ValueError(f"{path} has no arr_0, the images (N, H, W, 3) of ADM's layout; it holds {inside}") from None
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _header(path: Path, f: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a .npy stream; ValueError for pickles and column order."""
    shape, fortran_order, dtype = read_npy_header(f, f"arr_0 of {path}")
    if dtype.hasobject:
        raise ValueError(f"arr_0 of {path} holds pickled objects, which are never read; it must be uint8 (N, H, W, 3)")
    if fortran_order:
        raise ValueError(f"arr_0 of {path} is stored by columns; save it again with numpy.ascontiguousarray")
    return shape, dtype
