"""Time workloads alternately in one process, so that their ratio holds when the machine's speed drifts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch import nn

from architectures import IOSpec

Workload = Callable[[], Any]


def time_alternately(works: Mapping[str, Workload], rounds: int = 5, seconds: float = 0.0) -> dict[str, list[float]]:
    """Time each workload once per round after one warm-up round; return the seconds of each workload in each round.

    There are at least `rounds` rounds, and further rounds until `seconds` have passed.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    completed, started = 0, time.perf_counter()
    while completed <= rounds or time.perf_counter() - started < seconds:
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if completed:
                times[name].append(time.perf_counter() - began)
        completed += 1
    return times


def median_ratio(seconds: Mapping[str, list[float]], name: str, to: str) -> float:
    """Median over the rounds of one workload's time divided by another's in the same round."""
    return median(a / b for a, b in zip(seconds[name], seconds[to], strict=True))


def training_work(net: nn.Module, inputs: tuple[Any, ...]) -> Workload:
    """Make a workload of one forward and backward pass; the loss is the mean square of the output."""

    def work() -> None:
        for p in net.parameters():
            p.grad = None
        out = net(*inputs)
        (out if torch.is_tensor(out) else out[0]).square().mean().backward()

    return work


def inputs_for(io: IOSpec, batch: int, device: torch.device) -> tuple[Any, ...]:
    """Make Gaussian images (B, C, H, W), times (B,) and labels (B,) or None on a device."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, io.channels, io.size, io.size, generator=generator)
    label = torch.randint(0, io.num_classes, (batch,), generator=generator).to(device) if io.num_classes else None
    return x.to(device), torch.linspace(0, 999, batch, device=device), label


def device_name(device: torch.device) -> str:
    """Describe the device: "CPU, 2 threads, float32" or the name of the GPU."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, float32"
    return f"CPU, {torch.get_num_threads()} thread{'s'[: torch.get_num_threads() > 1]}, float32"
