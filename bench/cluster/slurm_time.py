"""Durations as SLURM writes them.  Imports no torch."""

from __future__ import annotations

import re

PATTERN = re.compile(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?)|(?:(\d+)(?::(\d+))?(?::(\d+))?)")


def parse_slurm_time(text: str) -> int:
    """Return the seconds of M, M:S, H:M:S, D-H, D-H:M or D-H:M:S, as sbatch reads and squeue prints them.

    ValueError for anything else.
    """
    match = PATTERN.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a SLURM time")
    days, hours, minutes, seconds, *clock = (int(part) if part else None for part in match.groups())
    if days is None:
        first, second, third = clock
        assert first is not None
        hours, minutes, seconds = (first, second, third) if third is not None else (0, first, second)
    return ((days or 0) * 24 + (hours or 0)) * 3600 + (minutes or 0) * 60 + (seconds or 0)
