"""This process among others: where it runs, and whether another still does.  Imports no torch."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from functools import cache
from pathlib import Path

UNREADABLE_START = "unseen"
"""The start of a process that exists and whose start this one may not read."""


@cache
def pid_namespace_id() -> str:
    """Eight hexadecimal digits of where process ids hold: one boot of one kernel, and one pid namespace of it.

    Nodes and containers may share a host name, and virtual nodes of one machine have several.
    """
    try:
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text(), Path("/proc/self/ns/pid").stat().st_ino]
    except OSError:
        parts = [socket.gethostname(), uuid.getnode()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def start_time(pid: int) -> str:
    """When a process of this place began, in the kernel's ticks; "" where none of that id runs (a zombie does not)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return UNREADABLE_START if pid_exists(pid) else ""
    return "" if fields[0] in "ZX" else fields[19]


def is_running(pid: int, start: str) -> bool:
    """Whether the process of this place with that id and start still runs."""
    now = start_time(pid)
    return bool(now) and (now == start or UNREADABLE_START in (now, start))


def pid_exists(pid: int) -> bool:
    """Whether there is a process of that id, be it another user's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_slurm_task() -> bool:
    """Whether this process is a task that submitit started under SLURM."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
