"""Process group of a run's ranks: collective calls on control values, and an error that names the failed rank.

Gradients are reduced over NCCL on GPUs and gloo on CPUs.  Control values always use gloo.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist

from bench.config.identity import digest_json
from bench.config.schema import RunConfig
from bench.storage.paths import code_hash
from bench.training.rendezvous import COLLECTIVE_TIMEOUT, ProcessInfo, Store, open_store, process_info


class StopRequested(Exception):
    """The run was asked to stop; its state is saved."""


@dataclass(frozen=True)
class World:
    """This rank among the ranks of its run; one rank by default."""

    rank: int = 0
    local_rank: int = 0
    """Rank among the processes of this node."""
    size: int = 1
    control: Any = None
    """gloo process group of all ranks."""
    store: Any = None
    """Key-value store that rank 0 hosts."""
    calls: Iterator[int] = field(default_factory=count, compare=False, repr=False)
    """Count of the calls of `alone`, equal on all ranks."""

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes files and the log."""
        return self.rank == 0

    def agree(self, *values: float) -> list[float]:
        """Maximum over all ranks of each value; a collective call."""
        if self.size == 1:
            return list(values)
        maxima = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(maxima, dist.ReduceOp.MAX, group=self.control)
        return maxima.tolist()

    def total(self, value: float) -> float:
        """Sum over all ranks; NaN if any value is NaN; a collective call."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return float(total)

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in order of rank; a collective call."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self.control)
        return values

    def of_first(self, make: Callable[[], Any]) -> Any:
        """Call `make` on rank 0 and return its result on every rank; a collective call."""
        return self.gather(make() if self.first else None)[0]

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        if self.size > 1:
            dist.barrier(group=self.control)

    def check(self, check: Callable[[], None]) -> None:
        """Call `check`; raise StopRequested if `check` raised it on this rank or, earlier, on another rank."""
        try:
            check()
        except StopRequested:
            if self.size > 1:
                self.store.set("stop", "yes")
            raise
        if self.size > 1 and self.store.check(["stop"]):
            raise StopRequested

    def alone(self, work: Callable[[], Any], check: Callable[[], None] = lambda: None) -> None:
        """Call `work` on rank 0 while the other ranks wait without a time limit.

        The other ranks raise RuntimeError if `work` failed, and StopRequested if it was stopped.  They call `check`
        while they wait.  If `check` raises StopRequested, rank 0 raises it at its next `World.check`.
        """
        key, outcome = f"alone/{next(self.calls)}", "failed"
        if self.first:
            try:
                work()
                outcome = "done"
            except StopRequested:
                outcome = "stopped"
                raise
            finally:
                if self.size > 1:
                    self.store.set(key, outcome)
            return
        while not self.store.check([key]):
            with suppress(StopRequested):
                self.check(check)
            time.sleep(0.2)
        outcome = self.store.get(key).decode()
        if outcome == "stopped":
            raise StopRequested
        if outcome == "failed":
            raise RuntimeError("rank 0 failed; its log says why")


SINGLE_PROCESS = World()


def device_of(config: RunConfig, world: World = SINGLE_PROCESS) -> torch.device:
    """Device of this rank; ValueError if compute.device is cuda and there is no CUDA device."""
    device = config.compute.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("compute.device is cuda, and torch finds no CUDA device; use cpu or auto")
    if device == "cuda" and world.size > 1:
        return torch.device("cuda", world.local_rank % torch.cuda.device_count())
    return torch.device(device)


@contextmanager
def join_world(config: RunConfig) -> Iterator[World]:
    """Join the process group of this submitit job; outside of a job, or in a job of one task, yield a single rank.

    Raises RuntimeError that names the unreachable host, or the ranks that did not arrive in time.
    """
    process = process_info()
    if process is None:
        yield SINGLE_PROCESS
        return
    with join_world_as(process, config) as world:
        yield world


@contextmanager
def join_world_as(process: ProcessInfo, config: RunConfig) -> Iterator[World]:
    """Join the process group of a run with the rank in `process`."""
    store = open_store(process, config.compute.rendezvous_seconds)
    device = device_of(config, World(process.rank, process.local_rank, process.size))
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
        torch.cuda.init()  # otherwise DeviceMesh selects GPU LOCAL_RANK, which SLURM's GPU binding may hide
    group_store = dist.PrefixStore("groups", store)  # type: ignore[attr-defined]
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=group_store,
        rank=process.rank,
        world_size=process.size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    control = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT) if cuda else dist.group.WORLD
    world = World(process.rank, process.local_rank, process.size, control, store)
    try:
        yield world
        world.barrier()
    except StopRequested:
        world.barrier()
        dist.destroy_process_group()
        raise
    except Exception as error:
        first = first_failure(process, store, error)
        if not cuda:  # NCCL would wait for pending collectives
            dist.destroy_process_group()
        if process.rank == 0:
            keep_store_open(process, store)
        if first:
            raise RuntimeError(first) from error
        raise
    dist.destroy_process_group()


def exit_without_cleanup() -> None:
    """Exit with status 0 before C++ destructors run; registered with atexit once a rank has finished its work.

    A finished rank once aborted in a destructor ("terminate called without an active exception").  SLURM then
    cancelled the evaluation that depended on the job.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def first_failure(process: ProcessInfo, store: Store, error: Exception) -> str:
    """Return the failure of another rank that caused `error`; "" if there is none."""
    description = f"{process} failed: {type(error).__name__}: {error}"
    is_consequence = type(error) is RuntimeError or isinstance(error, dist.DistError)
    try:
        first: str = store.compare_set("failure", "", description).decode()
        store.set(f"ended/{process.rank}", "yes")
    except RuntimeError:  # the store is closed
        return f"rank 0 on {process.host} has ended; its log may say why" if is_consequence else ""
    return first if is_consequence and first != description else ""


def keep_store_open(process: ProcessInfo, store: Store, seconds: float = 5.0) -> None:
    """Keep the store open until the other ranks have read the first failure, at most `seconds`."""
    with suppress(RuntimeError):
        store.wait([f"ended/{rank}" for rank in range(1, process.size)], timedelta(seconds=seconds))


def require_same(world: World, what: str, **facts: str) -> None:
    """Raise RuntimeError that names the ranks with other values than rank 0; a collective call.

    `what` is the plural subject of the message, for example "the ranks of this run".
    """
    if world.size == 1:
        return
    by_rank = world.gather({"host": socket.gethostname(), **facts})
    for name, value in by_rank[0].items():
        others = [f"{rank} on {values['host']}" for rank, values in enumerate(by_rank) if values[name] != value]
        if others and name != "host":
            raise RuntimeError(
                f"{what} differ: rank{'s' * (len(others) > 1)} {', '.join(others)} and rank 0 on {by_rank[0]['host']} "
                f"have different {name}; all nodes must see the same files and packages"
            )


def require_same_start(world: World, config: RunConfig, **facts: str) -> None:
    """Raise RuntimeError unless all ranks have the same code, torch version, config and `facts`."""
    shared = {"code": code_hash(), "torch": torch.__version__, "config": digest_json(config.to_dict())}
    require_same(world, "the ranks of this run", **shared, **facts)
