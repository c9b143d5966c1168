"""SHA-256 of files of extractor weights, computed once per process and file.

A run needs the hash of its extractor's weights in each stage, and the files have up to 1.2 GB.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from safetensors.torch import load_file

from bench.storage.atomic import file_sha256
from bench.storage.tensor_files import tensors_sha256


def hash_weights(path: Path) -> str:
    """Return the SHA-256 of a file; of the tensors alone for .safetensors, whose headers may differ.

    The hash is cached by path, inode, size and modification time.
    """
    status = path.stat()
    return _hash_weights(path.absolute(), status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash_weights(path: Path, inode: int, size: int, mtime_ns: int) -> str:
    if path.suffix != ".safetensors":
        return file_sha256(path)
    return tensors_sha256(load_file(path), dtypes=False)
