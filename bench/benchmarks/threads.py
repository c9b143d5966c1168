"""Training images a second by processes, threads and batch: python -m bench.threads

Every setting is timed in this one session, the settings taking turns, so that ratios between rows
hold even where the machine's speed drifts.  `relative` is to the first row of each architecture.
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
    """One row: so many processes, each with so many threads and such a batch."""

    arch: str
    processes: int
    threads: int
    batch: int


def train_throughput(config: RunConfig, threads: int, seconds: float) -> float:
    """Training images a second of one process on noise."""
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


def measure_layout(case: ThreadLayout, config: RunConfig, seconds: float) -> float:
    """Images a second of all processes of a case together."""
    sized = replace(config, recipe=replace(config.recipe, batch=case.batch))
    with multiprocessing.get_context("spawn").Pool(case.processes) as pool:
        return sum(pool.starmap(train_throughput, [(sized, case.threads, seconds)] * case.processes))


def parse_layout(text: str) -> tuple[int, int]:
    """ "2x1" is two processes of one thread each."""
    processes, _, threads = text.partition("x")
    if not (processes.isdigit() and threads.isdigit() and int(processes) and int(threads)):
        raise ValueError(f"layout is {text!r}; write PROCESSESxTHREADS, for example 2x1")
    return int(processes), int(threads)


def throughput_table(rates: dict[ThreadLayout, list[float]]) -> list[dict[str, object]]:
    """Rows with the median rate and its ratio to the architecture's first row."""
    rows: list[dict[str, object]] = []
    first: dict[str, float] = {}
    for case, found in rates.items():
        middle = median(found)
        base = first.setdefault(case.arch, middle)
        rows.append(
            {
                "arch": case.arch,
                "processes x threads": f"{case.processes} x {case.threads}",
                "batch": case.batch,
                "images/s": round(middle),
                "relative": f"{middle / base:.2f}",
            }
        )
    return rows
