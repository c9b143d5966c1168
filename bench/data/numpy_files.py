"""Headers and memory maps of .npy files, including those inside an .npz.  Pickles are never read.  Imports no torch."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Version of the .npy format -> numpy's reader of its header."""


class NpyHeader(NamedTuple):
    """Shape, memory order and dtype of a .npy array."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


def read_npy_header(stream: IO[bytes], name: str) -> NpyHeader:
    """Read the header at the start of a .npy stream, and leave the stream at the first value.

    `name` begins the message of the ValueError that is raised if the stream holds no array.
    """
    try:
        version = np.lib.format.read_magic(stream)
        return NpyHeader(*HEADER_READERS[version](stream))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{name} is not an array: {error}") from None


def memory_map(path: Path, hint: str = "is it damaged?") -> np.ndarray:
    """Memory-map a .npy file.  `hint` ends the message of the ValueError for a file that holds no plain array."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a .npy array of numbers; {hint}") from error
