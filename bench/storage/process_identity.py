"""Identify a process, and test whether it still runs.  Imports no torch."""

from __future__ import annotations

import hashlib
import math
import os
import socket
import time
import uuid
from functools import cache
from pathlib import Path

UNREADABLE_START = "unseen"
"""Value of `start_time` for a process that exists but has an unreadable /proc entry."""
CLOCK_TOLERANCE_SECONDS = 2.0


@cache
def pid_namespace_id() -> str:
    """Eight hexadecimal digits that identify one boot of one kernel and one of its pid namespaces.

    Process ids are comparable only within it.  Host names do not suffice: nodes and containers may share one.
    """
    try:
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text(), Path("/proc/self/ns/pid").stat().st_ino]
    except OSError:
        parts = [socket.gethostname(), uuid.getnode()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def start_time(pid: int) -> str:
    """Return the start time of a process in kernel ticks since boot; "" if it does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return UNREADABLE_START if _pid_exists(pid) else ""
    return "" if fields[0] in "ZX" else fields[19]


def is_running(pid: int, start: str = "", *, seen_at: float = math.inf) -> bool:
    """Whether a process of this pid namespace runs.  A later process that reused its id does not count.

    `start` is the expected `start_time`.  Without it, `seen_at` (Unix seconds) is a time at which the process ran.
    """
    current = start_time(pid)
    if not current or UNREADABLE_START in (current, start):
        return bool(current)
    return start in ("", current) and (seen_at == math.inf or _unix_time(current) < seen_at + CLOCK_TOLERANCE_SECONDS)


def _unix_time(start: str) -> float:
    """Convert a `start_time` to Unix seconds."""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - uptime + int(start) / os.sysconf("SC_CLK_TCK")


def _pid_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_slurm_task() -> bool:
    """Whether submitit started this process under SLURM."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
