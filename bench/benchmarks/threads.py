"""Measure training throughput by processes, threads and batch: python -m bench.threads

The settings alternate in one session, so that ratios between rows hold when the machine's speed drifts.  Column
`relative` is the ratio to the first row of the architecture.
"""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass, replace
from statistics import median

import torch

from bench.config.schema import RunConfig
from bench.diffusion.gaussian_diffusion import make_diffusion
from bench.experiments import presets
from bench.training.trainer import device_of, new_training_state, train_step


@dataclass(frozen=True)
class ThreadLayout:
    """Processes, threads per process, and batch per process of one row."""

    arch: str
    processes: int
    threads: int
    batch: int


def train_throughput(config: RunConfig, threads: int, seconds: float) -> float:
    """Images per second of one process that trains on noise."""
    torch.set_num_threads(threads)
    device, io = device_of(config), presets.network_io(config)
    state = new_training_state(config, io, device)
    diffusion = make_diffusion(config.diffusion, device)
    x = torch.randn(config.recipe.batch, io.channels, io.size, io.size)
    zeros = torch.zeros(len(x), dtype=torch.long)
    for _ in range(3):
        float(train_step(state, config, diffusion, (x, zeros, x, zeros)))
    began, images = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        float(train_step(state, config, diffusion, (x, zeros, x, zeros)))
        images += len(x)
    return images / (time.perf_counter() - began)


def measure_layout(layout: ThreadLayout, config: RunConfig, seconds: float) -> float:
    """Images per second of all processes together."""
    sized = replace(config, recipe=replace(config.recipe, batch=layout.batch))
    with multiprocessing.get_context("spawn").Pool(layout.processes) as pool:
        return sum(pool.starmap(train_throughput, [(sized, layout.threads, seconds)] * layout.processes))


def parse_layout(text: str) -> tuple[int, int]:
    """Parse text such as "2x1" to (processes, threads); raise ValueError for anything else."""
    processes, _, threads = text.partition("x")
    if not (processes.isdigit() and threads.isdigit() and int(processes) and int(threads)):
        raise ValueError(f"layout is {text!r}; write PROCESSESxTHREADS, for example 2x1")
    return int(processes), int(threads)


def throughput_table(throughputs: dict[ThreadLayout, list[float]]) -> list[dict[str, object]]:
    """Rows of median throughput, and its ratio to the architecture's first row."""
    rows: list[dict[str, object]] = []
    first: dict[str, float] = {}
    for layout, values in throughputs.items():
        throughput = median(values)
        base = first.setdefault(layout.arch, throughput)
        rows.append(
            {
                "arch": layout.arch,
                "processes x threads": f"{layout.processes} x {layout.threads}",
                "batch": layout.batch,
                "images/s": round(throughput),
                "relative": f"{throughput / base:.2f}",
            }
        )
    return rows
