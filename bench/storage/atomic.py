"""Files that are there whole or not at all, on local and network file systems, and disks that refuse.

What is written is a partial beside its place, which then takes the place.  Imports no torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.storage import process_identity

FREE_SPACE_ADVICE = "free some space, and the same command goes on from the last checkpoint"
PERMISSION_ADVICE = "make it writable, or choose another folder with --results"
DISK_ERRORS = {
    errno.ENOSPC: ("the disk is full", FREE_SPACE_ADVICE),
    errno.EDQUOT: ("your disk quota is used up", FREE_SPACE_ADVICE),
    errno.EFBIG: ("the file would be larger than is allowed", "raise the limit (ulimit -f), and run the same again"),
    errno.EROFS: ("the file system is read-only", PERMISSION_ADVICE),
    errno.EACCES: ("permission is denied", PERMISSION_ADVICE),
    errno.EPERM: ("permission is denied", PERMISSION_ADVICE),
    errno.EIO: ("the disk, or its server, reports an error", "mend it, and the same command goes on"),
}
"""What a disk may answer that a user can mend: errno -> (why, what to do)."""
LIBRARY_ERROR_PATTERNS = (r"\(os error (\d+)\)", r"\d+ requested and \d+ written")
"""How libraries tell of it without an errno: safetensors' Rust, and numpy's tofile when not all was written."""
PARTIAL_NAME = re.compile(r"\.(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.partial$")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def explain_disk_error(error: BaseException) -> tuple[str, str] | None:
    """(why, what to do) where an error is a disk's refusal."""
    if isinstance(error, ValueError):
        return None
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(LIBRARY_ERROR_PATTERNS[0], str(error))):
        number = int(found[1])
    if number is None and isinstance(error, OSError) and re.search(LIBRARY_ERROR_PATTERNS[1], str(error)):
        return "the disk took only a part of it; it, or your quota, is full", FREE_SPACE_ADVICE
    return DISK_ERRORS.get(number or 0)


@contextmanager
def disk_errors_explained(path: Path) -> Iterator[None]:
    """A disk's refusal while `path` is written becomes a ValueError: what, why, and what to do."""
    try:
        yield
    except Exception as error:
        if (found := explain_disk_error(error)) is None:
            raise
        raise ValueError(f"cannot write {path}: {found[0]}; {found[1]}") from error


def partial_path(path: Path) -> Path:
    """A name for the partial of `path` that no process of any host has used; it tells its maker."""
    return path.with_name(
        f".{path.name[-150:]}.{process_identity.pid_namespace_id()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.partial"
    )


@contextmanager
def atomic_write(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A path to write to; it takes the place of `path` only when the block ends well.

    Without `sync` it may be lost with the machine's power.  ValueError when the disk refuses.
    """
    partial = partial_path(path)
    with disk_errors_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            if sync:
                fsync_path(partial)
            move_into_place(partial, path)
            if sync:
                fsync_path(path.parent)
        finally:
            with suppress(OSError):
                partial.unlink()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to write files into; it becomes `path` only when the block ends well.

    Where `path` is there by then, made by another process, that one stays.
    """
    partial = partial_path(path)
    with disk_errors_explained(path):
        try:
            partial.mkdir(parents=True)
            yield partial
            os.sync()  # one for all files
            with suppress(FileExistsError):
                move_into_place(partial, path)
            fsync_path(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def move_into_place(partial: Path, path: Path) -> None:
    """Let a partial take its place; FileExistsError for a folder whose place is taken."""
    try:
        partial.replace(path)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(errno.EEXIST, "taken", str(path)) from None
        raise


def fsync_path(path: Path) -> None:
    """Have the disk keep a file's content or, for a folder, its names."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # not every server knows it of folders
            raise
    finally:
        os.close(number)


def write_json(path: Path, data: Any, *, sync: bool = True) -> None:
    """JSON, atomically; NaN and infinity are refused."""
    text = json.dumps(data, indent=2, allow_nan=False) + "\n"
    with atomic_write(path, sync=sync) as partial:
        partial.write_text(text)


def append_line(path: Path, line: str) -> None:
    """Append a line, at one go where there is room; what a death left of the line before is ended first."""
    with disk_errors_explained(path), path.open("ab+", buffering=0) as f:
        data = line.encode() + b"\n"
        if f.seek(0, os.SEEK_END):
            f.seek(-1, os.SEEK_END)
            data = data if f.read(1) == b"\n" else b"\n" + data
        while data:
            data = data[f.write(data) :]


def remove_stale_partials(folder: Path, pattern: str, before: float) -> None:
    """Remove partials of processes of this place that are gone, and those that nobody has written to since `before`.

    `before` is in the file system's own seconds.
    """
    for path in folder.glob(pattern):
        if not (found := PARTIAL_NAME.search(path.name)):
            continue
        with suppress(OSError):
            here = found["place"] == process_identity.pid_namespace_id()
            if (here and not process_identity.start_time(int(found["pid"]))) or path.stat().st_mtime < before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
