"""The processes of one run: how they meet, what they agree on, and what is said when one of them fails.

Process 0 listens on a port that the job's id decides, or on the next one where that is taken; the others
look for it there and ask whose it is, so that two jobs on one host never mix.  Gradients go over NCCL on
GPUs and gloo on CPUs; what is agreed on goes over gloo.
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
    """The work was asked to stop; what was done is saved."""


@dataclass(frozen=True)
class World:
    """This process among those of its run; alone unless told otherwise."""

    rank: int = 0
    local_rank: int = 0
    """Among the processes of its node."""
    size: int = 1
    control: Any = None
    """The gloo group of all."""
    store: Any = None
    """What process 0 keeps for all: keys and values."""
    turns: Iterator[int] = field(default_factory=count, compare=False, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and the log."""
        return self.rank == 0

    def agree(self, *values: float) -> list[float]:
        """The largest of all processes' values, one by one; every process must call it."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.control)
        return found.tolist()

    def total(self, value: float) -> float:
        """The sum of all processes' values; NaN where one is."""
        if self.size == 1:
            return value
        found = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(found, group=self.control)
        return float(found)

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in order of rank."""
        found: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value, group=self.control)
        return found

    def of_first(self, make: Callable[[], Any]) -> Any:
        """What process 0 makes, everywhere."""
        return self.gather(make() if self.first else None)[0]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier(group=self.control)

    def check(self, check: Callable[[], None]) -> None:
        """Ask `check`, which may raise Stopped; where it did in any process, Stopped is raised in all that ask."""
        try:
            check()
        except StopRequested:
            if self.size > 1:
                self.store.set("stop", "yes")
            raise
        if self.size > 1 and self.store.check(["stop"]):
            raise StopRequested

    def alone(self, work: Callable[[], Any], check: Callable[[], None] = lambda: None) -> None:
        """Process 0 does some work, however long; the others wait, and end as it ends.

        Raises RuntimeError in the others where it fails, Stopped where it was stopped.  They ask `check`, too,
        which process 0 hears of where its work asks `World.check`.
        """
        key, word = f"alone/{next(self.turns)}", "failed"
        if self.first:
            try:
                work()
                word = "done"
            except StopRequested:
                word = "stopped"
                raise
            finally:
                if self.size > 1:
                    self.store.set(key, word)
            return
        while not self.store.check([key]):
            with suppress(StopRequested):
                self.check(check)
            time.sleep(0.2)
        word = self.store.get(key).decode()
        if word == "stopped":
            raise StopRequested
        if word == "failed":
            raise RuntimeError("process 0 failed; its log says why")


SINGLE_PROCESS = World()


def device_of(config: RunConfig, world: World = SINGLE_PROCESS) -> torch.device:
    """The device of a process; ValueError for CUDA where there is none."""
    wanted = config.compute.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("compute.device is cuda, and torch finds no CUDA device; use cpu or auto")
    if wanted == "cuda" and world.size > 1:
        return torch.device("cuda", world.local_rank % torch.cuda.device_count())
    return torch.device(wanted)


@contextmanager
def join_world(config: RunConfig) -> Iterator[World]:
    """The world of this process: that of its submitit job's tasks, or itself alone.

    RuntimeError names the host that could not be reached, or the processes that did not come.
    """
    own = process_info()
    if own is None:
        yield SINGLE_PROCESS
        return
    with join_world_as(own, config) as world:
        yield world


@contextmanager
def join_world_as(own: ProcessInfo, config: RunConfig) -> Iterator[World]:
    """`joined`, for a place that is known."""
    store = open_store(own, config.compute.rendezvous_seconds)
    device = device_of(config, World(own.rank, own.local_rank, own.size))
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
        torch.cuda.init()  # or else a device mesh would choose by LOCAL_RANK, which SLURM's binding may not allow
    pairs = dist.PrefixStore("groups", store)  # type: ignore[attr-defined]
    dist.init_process_group(
        "nccl" if cuda else "gloo", store=pairs, rank=own.rank, world_size=own.size, timeout=COLLECTIVE_TIMEOUT
    )
    control = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT) if cuda else dist.group.WORLD
    world = World(own.rank, own.local_rank, own.size, control, store)
    try:
        yield world
        world.barrier()
    except StopRequested:
        world.barrier()
        dist.destroy_process_group()
        raise
    except Exception as error:
        first = first_failure(own, store, error)
        if not cuda:  # NCCL would wait for what is under way
            dist.destroy_process_group()
        if own.rank == 0:
            keep_store_open(own, store)
        if first:
            raise RuntimeError(first) from error
        raise
    dist.destroy_process_group()


def exit_without_cleanup() -> None:
    """For atexit, in a process that has done its part of the work: end it with status 0, before C++ takes it down.

    A process once aborted there ("terminate called without an active exception") when all was saved, and SLURM
    cancelled the evaluation that depended on it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def first_failure(own: ProcessInfo, store: Store, error: Exception) -> str:
    """What failed first, where that was in another process and `error` is but a lost connection, or the like."""
    words = f"{own} failed: {type(error).__name__}: {error}"
    noise = type(error) is RuntimeError or isinstance(error, dist.DistError)
    try:
        first: str = store.compare_set("failure", "", words).decode()
        store.set(f"ended/{own.rank}", "yes")
    except RuntimeError:  # the store is gone
        return f"process 0 on {own.host} is gone; its log may say why" if noise else ""
    return first if noise and first != words else ""


def keep_store_open(own: ProcessInfo, store: Store, seconds: float = 5.0) -> None:
    """Keep the store until the others have read from it what failed, but not for long."""
    with suppress(RuntimeError):
        store.wait([f"ended/{rank}" for rank in range(1, own.size)], timedelta(seconds=seconds))


def require_same(world: World, what: str, **facts: str) -> None:
    """RuntimeError that names the processes whose facts are not those of process 0."""
    if world.size == 1:
        return
    everyone = world.gather({"host": socket.gethostname(), **facts})
    for name, value in everyone[0].items():
        others = [f"{rank} on {own['host']}" for rank, own in enumerate(everyone) if own[name] != value]
        if others and name != "host":
            raise RuntimeError(
                f"{what} differ: process{'es' * (len(others) > 1)} {', '.join(others)} and process 0 on "
                f"{everyone[0]['host']} have different {name}; all nodes must see the same files and packages"
            )


def require_same_start(world: World, config: RunConfig, **facts: str) -> None:
    """`require_same` of the code, torch, the config, and what else is given."""
    own = {"code": code_hash(), "torch": torch.__version__, "config": digest_json(config.to_dict())}
    require_same(world, "the processes of this run", **own, **facts)
