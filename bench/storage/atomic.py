"""Atomic writes of files and folders on local and network file systems, with readable messages for disk errors.

A file is written under another name in the same folder (a partial file) and then renamed, so that a reader, or a run
that continues after a crash, sees either the old file or the complete new one.  Imports no torch.
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

FREE_SPACE_ADVICE = "free some space and run the same command again; it continues from the last checkpoint"
PERMISSION_ADVICE = "make it writable, or choose another folder with --results"
DISK_ERRORS = {
    errno.ENOSPC: ("the disk is full", FREE_SPACE_ADVICE),
    errno.EDQUOT: ("your disk quota is used up", FREE_SPACE_ADVICE),
    errno.EFBIG: ("the file would exceed the size limit", "raise the limit (ulimit -f) and run the same command again"),
    errno.EROFS: ("the file system is read-only", PERMISSION_ADVICE),
    errno.EACCES: ("permission is denied", PERMISSION_ADVICE),
    errno.EPERM: ("permission is denied", PERMISSION_ADVICE),
    errno.EIO: ("the disk or its file server reports an I/O error", "repair it and run the same command again"),
}
"""Disk errors that a user can resolve: errno -> (cause, remedy)."""
LIBRARY_ERROR_PATTERNS = (r"\(os error (\d+)\)", r"\d+ requested and \d+ written")
"""Messages of libraries that drop the errno: safetensors (Rust), and numpy's tofile after a short write."""
PARTIAL_NAME = re.compile(r"\.(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.partial$")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def explain_disk_error(error: BaseException) -> tuple[str, str] | None:
    """Return (cause, remedy) of a disk error that a user can resolve; None for any other error."""
    if isinstance(error, ValueError):
        return None
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := re.search(LIBRARY_ERROR_PATTERNS[0], str(error))):
        number = int(match[1])
    if number is None and isinstance(error, OSError) and re.search(LIBRARY_ERROR_PATTERNS[1], str(error)):
        return "only part of the file was written; the disk or your quota is full", FREE_SPACE_ADVICE
    return DISK_ERRORS.get(number or 0)


@contextmanager
def disk_errors_explained(path: Path) -> Iterator[None]:
    """Turn a disk error during the write of `path` into a ValueError that names the cause and the remedy."""
    try:
        yield
    except Exception as error:
        if (explanation := explain_disk_error(error)) is None:
            raise
        cause, remedy = explanation
        raise ValueError(f"cannot write {path}: {cause}; {remedy}") from error


def partial_path(path: Path) -> Path:
    """Return a name for the partial file of `path`, unique across hosts and processes.

    The name contains the writer's pid namespace and process id.
    """
    writer = f"{process_identity.pid_namespace_id()}-{os.getpid()}"
    return path.with_name(f".{path.name[-150:]}.{writer}-{uuid.uuid4().hex[:8]}.partial")


@contextmanager
def atomic_write(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a partial file to write to; rename it to `path` if the block ends without an error.

    Without `sync` the file may be lost in a power failure.  ValueError if the disk refuses the write.
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
    """Yield a partial folder to write files into; rename it to `path` if the block ends without an error.

    If another process created `path` meanwhile, its folder is kept and the partial one is deleted.  ValueError if the
    disk refuses a write.
    """
    partial = partial_path(path)
    with disk_errors_explained(path):
        try:
            partial.mkdir(parents=True)
            yield partial
            os.sync()  # one call for all files
            with suppress(FileExistsError):
                move_into_place(partial, path)
            fsync_path(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def move_into_place(partial: Path, path: Path) -> None:
    """Rename a partial file or folder; FileExistsError if `path` is a folder that holds files."""
    try:
        partial.replace(path)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
        raise


def fsync_path(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # some servers cannot sync folders
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Any, *, sync: bool = True) -> None:
    """Write JSON atomically.  ValueError for NaN and infinity."""
    text = json.dumps(data, indent=2, allow_nan=False) + "\n"
    with atomic_write(path, sync=sync) as partial:
        partial.write_text(text)


def append_line(path: Path, line: str) -> None:
    """Append a line, in a single write unless the disk fills up.

    If a killed process left the last line incomplete, a line break is written first.
    """
    with disk_errors_explained(path), path.open("ab+", buffering=0) as f:
        data = line.encode() + b"\n"
        if f.seek(0, os.SEEK_END):
            f.seek(-1, os.SEEK_END)
            data = data if f.read(1) == b"\n" else b"\n" + data
        while data:
            data = data[f.write(data) :]


def remove_stale_partials(folder: Path, pattern: str, before: float) -> None:
    """Remove partial files that match a glob pattern and were abandoned by their writer.

    A file is abandoned if its writer ran in this pid namespace and no longer runs, or if the file was last modified
    before `before` (Unix seconds, by the clock of the file system).
    """
    for path in folder.glob(pattern):
        if not (match := PARTIAL_NAME.search(path.name)):
            continue
        with suppress(OSError):
            is_local = match["place"] == process_identity.pid_namespace_id()
            if (is_local and not process_identity.is_running(int(match["pid"]))) or path.stat().st_mtime < before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
