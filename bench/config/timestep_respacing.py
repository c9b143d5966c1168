"""Timesteps of a respaced diffusion process (iDDPM, arXiv:2102.09672; ADM's code).  Imports no torch."""

from __future__ import annotations


def respaced_timesteps(steps: int, spec: str) -> list[int]:
    """Return the selected timestep indices, ascending, for a specification in the syntax of ADM and DiT.

    "" selects all of the `steps` timesteps.  "10,15,20" divides them into three equal sections and selects that many
    of each, first and last included, fractions rounded half to even.  "ddimN" selects every k-th for the integer k
    that gives exactly N.  ValueError if a section is too short or no such k exists.
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
    timesteps: list[int] = []
    start = 0
    for i, count in enumerate(counts):
        size = steps // len(counts) + (i < steps % len(counts))
        if count > size:
            raise ValueError(f"cannot keep {count} timesteps of a section of {size}")
        stride_within, position = (size - 1) / (count - 1) if count > 1 else 1.0, 0.0
        for _ in range(count):  # sums floats as the published code does, so that halves round alike
            timesteps.append(start + round(position))
            position += stride_within
        start += size
    return sorted(set(timesteps))


def adm_timesteps(sampler: str, steps: int, count: int) -> list[int]:
    """Return the timesteps of spacing "adm": every k-th for ddim, else `count` evenly over the whole range.

    ADM's and DiT's sampling scripts select the same with "ddim50" and with "250".  ValueError as
    `respaced_timesteps` raises.
    """
    return respaced_timesteps(steps, f"ddim{count}" if sampler == "ddim" else str(count))
