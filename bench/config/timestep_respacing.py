"""Which timesteps a respaced process keeps.  Imports no torch."""

from __future__ import annotations


def respaced_timesteps(steps: int, spec: str) -> list[int]:
    """Indices that a respaced process keeps, ascending, by ADM's and DiT's specifications.

    "" keeps all; "10,15,20" cuts 0..S-1 into three equal sections and keeps so many of each, first and
    last included, fractions rounded half to even; "ddimN" keeps every k-th for the integer k that
    gives exactly N.  Raises ValueError when a section is too short or there is no such k.
    """
    if not spec:
        return list(range(steps))
    if spec.startswith("ddim"):
        count = int(spec[4:])
        stride = next((k for k in range(1, steps) if len(range(0, steps, k)) == count), 0)
        if not stride:
            raise ValueError(f"no integer stride keeps exactly {count} of {steps} timesteps")
        return list(range(0, steps, stride))
    counts = [int(word) for word in spec.split(",")]
    found: list[int] = []
    start = 0
    for i, count in enumerate(counts):
        size = steps // len(counts) + (i < steps % len(counts))
        if count > size:
            raise ValueError(f"cannot keep {count} timesteps of a section of {size}")
        stride_within, at = (size - 1) / (count - 1) if count > 1 else 1.0, 0.0
        for _ in range(count):  # the published sum of floats, whose halves round as the published ones do
            found.append(start + round(at))
            at += stride_within
        start += size
    return sorted(set(found))


def adm_timesteps(sampler: str, steps: int, count: int) -> list[int]:
    """The spacing "adm" of a sampler: every k-th timestep for ddim, else the whole range evenly.

    As ADM's and DiT's sampling scripts are told with "ddim50" and with "250".  ValueError as `kept` raises.
    """
    return respaced_timesteps(steps, f"ddim{count}" if sampler == "ddim" else str(count))
