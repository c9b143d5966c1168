"""Measure training throughput by number of processes: python -m bench.scaling

There is one process group for each number of processes.  All groups start before the first measurement, and then
alternate.  Mode `same` fixes the global batch, mode `grown` fixes the batch per process.  The ideal throughput is that
of one process times the number of processes.  The overheads of a step are the agreement between ranks and the
averaging of gradients.  Gradients use NCCL on GPUs and gloo on CPUs; on a CPU the processes share the cores.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import socket
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

log = logging.getLogger(__name__)

WARM_UP = 3
MODES = ("same", "grown")


@dataclass(frozen=True)
class ScalingResult:
    """Seconds of a step, of the agreement between ranks, and of averaging the gradients."""

    step: float
    agree: float
    gradients: float
    """NaN with FSDP, which has no step without communication."""


def run_rank(process: ProcessInfo, config: RunConfig, pipe: Connection) -> None:
    """Run one rank of a group; time train steps at each batch size that arrives through the pipe."""
    torch.set_num_threads(config.compute.threads)
    try:
        if process.size == 1:
            serve_requests(SINGLE_PROCESS, config, pipe)
        else:
            with join_world_as(process, config) as world:
                serve_requests(world, config, pipe)
    except (ValueError, RuntimeError, EOFError) as error:
        pipe.send(str(error) or type(error).__name__)


def serve_requests(world: World, config: RunConfig, pipe: Connection) -> None:
    """Receive batch sizes and send back ScalingResults until None arrives."""
    device, io = device_of(config, world), presets.network_io(config)
    state, diffusion = new_training_state(config, io, device, world), make_diffusion(config.diffusion, device)
    pipe.send("ready")
    while (batch := pipe.recv()) is not None:
        rows = rank_slice(batch, world)
        x = torch.randn(rows.stop - rows.start, io.channels, io.size, io.size)
        zeros = torch.zeros(len(x), dtype=torch.long)

        def train(x: torch.Tensor = x, zeros: torch.Tensor = zeros, batch: int = batch) -> None:
            float(train_step(state, config, diffusion, (x, zeros, x, zeros), batch, world))

        whole = time_call(train, world)
        agree = time_call(lambda: world.agree(0, 0, 0), world)
        replicas, state.replicas = state.replicas, None
        alone = time_call(train, world) if config.compute.sharding == "none" else math.nan
        state.replicas = replicas
        pipe.send(ScalingResult(whole, agree, whole - alone if world.size > 1 else 0.0))


def time_call(function: Any, world: World) -> float:
    """Median seconds of a call, repeated for about a second, equally often on all ranks."""
    for _ in range(WARM_UP):
        function()
    began = time.perf_counter()
    function()
    count = int(world.agree(min(1000, max(5, 1 / max(1e-6, time.perf_counter() - began))))[0])
    world.barrier()
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


@contextmanager
def process_group(size: int, config: RunConfig) -> Iterator[list[Connection]]:
    """Start `size` processes and yield their pipes; the processes end with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    context, pipes, processes = multiprocessing.get_context("spawn"), [], []
    for rank in range(size):
        ours, theirs = context.Pipe()
        info = ProcessInfo(
            rank=rank, local_rank=rank, size=size, host="127.0.0.1", ports=(port,), job=f"scaling {size}"
        )
        processes.append(context.Process(target=run_rank, args=(info, config, theirs), daemon=True))
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


def read_answer(pipe: Connection, expected: Any = None) -> Any:
    """Receive a process's answer; ValueError if it is an error message."""
    try:
        answer = pipe.recv()
    except EOFError:
        raise ValueError("a process ended without an answer") from None
    if isinstance(answer, str) and answer != expected:
        raise ValueError(answer)
    return answer


def measure_scaling(config: RunConfig, sizes: list[int], rounds: int) -> dict[tuple[str, int], list[ScalingResult]]:
    """Time the groups alternately; return {(mode, processes): rank 0's result of each round}."""
    results: dict[tuple[str, int], list[ScalingResult]] = defaultdict(list)
    with start_groups(sizes, config) as pipes:
        for i in range(rounds):
            for size, mode in ((size, mode) for mode in MODES for size in sizes):
                if mode == "grown" and size == 1:
                    continue
                log.info("round %d of %d: %d processes, batch %s", i + 1, rounds, size, mode)
                for pipe in pipes[size]:
                    pipe.send(config.recipe.batch * (size if mode == "grown" else 1))
                first, *_ = [read_answer(pipe) for pipe in pipes[size]]
                results[mode, size].append(first)
    return results


@contextmanager
def start_groups(sizes: list[int], config: RunConfig) -> Iterator[dict[int, list[Connection]]]:
    """Start one group per size; yield {size: pipes}."""
    if not sizes:
        yield {}
        return
    log.info("starting %d process%s", sizes[0], "es" * (sizes[0] > 1))
    with process_group(sizes[0], config) as pipes, start_groups(sizes[1:], config) as rest:
        yield {sizes[0]: pipes, **rest}


def scaling_table(results: dict[tuple[str, int], list[ScalingResult]], batch: int) -> list[dict[str, str]]:
    """Rows of median throughput, its share of the ideal, and the overheads."""
    rows, single = [], batch / median(r.step for r in results["same", 1])
    for (mode, size), rounds in results.items():
        global_batch = batch * (size if mode == "grown" else 1)
        throughput = global_batch / median(r.step for r in rounds)
        rows.append(
            {
                "processes": str(size),
                "batch": f"{global_batch} {mode}",
                "images/s": f"{throughput:.4g}",
                "ideal": f"{single * size:.4g}",
                "of ideal": f"{throughput / (single * size):.0%}",
                "agree (ms)": f"{1e3 * median(r.agree for r in rounds):.3f}",
                "gradients (ms)": f"{1e3 * median(r.gradients for r in rounds):.2f}",
                "step (ms)": f"{1e3 * median(r.step for r in rounds):.2f}",
            }
        )
    return rows


def describe_devices(config: RunConfig) -> str:
    """Describe the GPUs or CPUs."""
    if device_of(config).type == "cuda":
        return f"{torch.cuda.device_count()} GPUs ({torch.cuda.get_device_name()})"
    return f"{os.cpu_count()} CPUs"
