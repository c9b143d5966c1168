"""Training images a second by number of processes: python -m bench.scaling

Each number of processes has its own group, all started before anything is timed; the groups take turns
in this one session.  `same` keeps the batch of a step, `grown` the batch of a process; ideal is as many
times the rate of one process.  The overheads are of a step: what agreeing costs, and what averaging
gradients adds.  Gradients go over NCCL on GPUs and gloo on CPUs; processes share what CPUs there are.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch

from bench.config.schema import RunConfig
from bench.diffusion.gaussian_diffusion import make_diffusion
from bench.experiments import presets
from bench.training.distributed import SINGLE_PROCESS, World, device_of, join_world_as
from bench.training.parallel import rank_slice
from bench.training.rendezvous import ProcessInfo
from bench.training.trainer import new_training_state, train_step

WARM_UP = 3
MODES = ("same", "grown")


@dataclass(frozen=True)
class ScalingResult:
    """Seconds of a step, and of what many processes add to it."""

    step: float
    agree: float
    gradients: float
    """NaN where sharding leaves nothing to compare with."""


def run_rank(place: ProcessInfo, config: RunConfig, pipe: Connection) -> None:
    """A process of a group: times so many steps of a batch whenever it is asked to."""
    torch.set_num_threads(config.compute.threads)
    try:
        if place.size == 1:
            serve_requests(SINGLE_PROCESS, config, pipe)
        else:
            with join_world_as(place, config) as world:
                serve_requests(world, config, pipe)
    except (ValueError, RuntimeError, EOFError) as error:
        pipe.send(str(error) or type(error).__name__)


def serve_requests(world: World, config: RunConfig, pipe: Connection) -> None:
    device, io = device_of(config, world), presets.network_io(config)
    state, diffusion = new_training_state(config, io, device, world), make_diffusion(config.diffusion, device)
    pipe.send("ready")
    while (batch := pipe.recv()) is not None:
        own = rank_slice(batch, world)
        x = torch.randn(own.stop - own.start, io.channels, io.size, io.size)
        zeros = torch.zeros(len(x), dtype=torch.long)

        def train(x: torch.Tensor = x, zeros: torch.Tensor = zeros, batch: int = batch) -> None:
            float(train_step(state, config, diffusion, (x, zeros, x, zeros), batch, world))

        whole = timed(train, world)
        agree = timed(lambda: world.agree(0, 0, 0), world)
        replicas, state.replicas = state.replicas, None
        alone = timed(train, world) if config.compute.sharding == "none" else math.nan
        state.replicas = replicas
        pipe.send(ScalingResult(whole, agree, whole - alone if world.size > 1 else 0.0))


def timed(what: Any, world: World) -> float:
    """Median seconds of a call, over about a second in all processes."""
    for _ in range(WARM_UP):
        what()
    began = time.perf_counter()
    what()
    count = int(world.agree(min(1000, max(5, 1 / max(1e-6, time.perf_counter() - began))))[0])
    world.barrier()
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        what()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


@contextmanager
def process_group(size: int, config: RunConfig) -> Iterator[list[Connection]]:
    """The pipes of `size` processes that have met; they end with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    context, pipes, processes = multiprocessing.get_context("spawn"), [], []
    for rank in range(size):
        ours, theirs = context.Pipe()
        place = ProcessInfo(
            rank=rank, local_rank=rank, size=size, host="127.0.0.1", ports=(port,), job=f"scaling {size}"
        )
        processes.append(context.Process(target=run_rank, args=(place, config, theirs), daemon=True))
        pipes.append(ours)
    for process in processes:
        process.start()
    try:
        for pipe in pipes:
            read_answer(pipe, "ready")
        yield pipes
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(20)
    finally:
        for process in processes:
            process.terminate()


def read_answer(pipe: Connection, wanted: Any = None) -> Any:
    """What a process says; ValueError where that is a sentence."""
    try:
        found = pipe.recv()
    except EOFError:
        raise ValueError("a process ended without a word") from None
    if isinstance(found, str) and found != wanted:
        raise ValueError(found)
    return found


def measure_scaling(config: RunConfig, sizes: list[int], rounds: int) -> dict[tuple[str, int], list[ScalingResult]]:
    """{(mode, processes): what process 0 found each round}, the groups taking turns."""
    found: dict[tuple[str, int], list[ScalingResult]] = defaultdict(list)
    with start_groups(sizes, config) as pipes:
        for turn in range(rounds):
            for size, mode in ((size, mode) for mode in MODES for size in sizes):
                if mode == "grown" and size == 1:
                    continue
                print(f"round {turn + 1} of {rounds}: {size} processes, batch {mode}", file=sys.stderr, flush=True)
                for pipe in pipes[size]:
                    pipe.send(config.recipe.batch * (size if mode == "grown" else 1))
                first, *_ = [read_answer(pipe) for pipe in pipes[size]]
                found[mode, size].append(first)
    return found


@contextmanager
def start_groups(sizes: list[int], config: RunConfig) -> Iterator[dict[int, list[Connection]]]:
    """The pipes of each size's group."""
    if not sizes:
        yield {}
        return
    print(f"starting {sizes[0]} process{'es' * (sizes[0] > 1)}", file=sys.stderr, flush=True)
    with process_group(sizes[0], config) as own, start_groups(sizes[1:], config) as rest:
        yield {sizes[0]: own, **rest}


def scaling_table(found: dict[tuple[str, int], list[ScalingResult]], batch: int) -> list[dict[str, str]]:
    """Rows of median rates, against ideal, and overheads."""
    rows, one = [], batch / median(f.step for f in found["same", 1])
    for (mode, size), rounds in found.items():
        whole = batch * (size if mode == "grown" else 1)
        rate = whole / median(f.step for f in rounds)
        rows.append(
            {
                "processes": str(size),
                "batch": f"{whole} {mode}",
                "images/s": f"{rate:.4g}",
                "ideal": f"{one * size:.4g}",
                "of ideal": f"{rate / (one * size):.0%}",
                "agree (ms)": f"{1e3 * median(f.agree for f in rounds):.3f}",
                "gradients (ms)": f"{1e3 * median(f.gradients for f in rounds):.2f}",
                "step (ms)": f"{1e3 * median(f.step for f in rounds):.2f}",
            }
        )
    return rows


def describe_devices(config: RunConfig) -> str:
    """What was measured on, in words."""
    if device_of(config).type == "cuda":
        return f"{torch.cuda.device_count()} GPUs ({torch.cuda.get_device_name()})"
    return f"{os.cpu_count()} CPUs"
