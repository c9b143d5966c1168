"""Find the other ranks of a run and open the key-value store they share."""

from __future__ import annotations

import os
import random
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

Store = Any
"""torch.distributed.Store, which torch does not export to type checkers."""

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others within a step, e.g. while a checkpoint is written."""


@dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    """Where a process finds the others."""

    rank: int
    local_rank: int = 0
    size: int
    host: str
    """Process 0's."""
    ports: tuple[int, ...]
    """Where it listens: on the first that is free."""
    job: str = ""
    """Whose processes they are; the same for all, and for no other job."""

    def __str__(self) -> str:
        return f"process {self.rank} of {self.size} on {socket.gethostname()}"


def process_info() -> ProcessInfo | None:
    """This process's place among the tasks of a submitit job; None where there is but one, or no job."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return None
    import submitit
    from submitit.helpers import TorchDistributedEnvironment

    job = submitit.JobEnvironment()
    if job.num_tasks == 1:
        return None
    own = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    name = f"{job.job_id}/{os.environ.get('SLURM_RESTART_COUNT', 0)}"
    more = random.Random(name).sample(range(20_000, 32_000), 7)  # below the ports of outgoing connections
    return ProcessInfo(
        rank=own.rank,
        local_rank=own.local_rank,
        size=own.world_size,
        host=own.master_addr,
        ports=(own.master_port, *more),
        job=name,
    )


def open_store(own: ProcessInfo, seconds: float) -> Store:
    """The store of a job's processes, once all have come; RuntimeError in a sentence after `seconds`."""
    deadline = time.monotonic() + seconds
    store = listen_on_free_port(own) if own.rank == 0 else connect_to_rank_0(own, deadline)
    store.set(f"here/{own.rank}", socket.gethostname())
    keys = [f"here/{rank}" for rank in range(own.size)]
    try:
        store.wait(keys, timedelta(seconds=max(1.0, deadline - time.monotonic())))
    except RuntimeError as error:
        raise RuntimeError(
            f"{own} waited {seconds:g} s for {describe_absent(own, store)}; their logs may say why"
        ) from error
    return store


def describe_absent(own: ProcessInfo, store: Store) -> str:
    """Which processes have not come, in words."""
    try:
        ranks = [rank for rank in range(own.size) if not store.check([f"here/{rank}"])]
    except RuntimeError:
        return f"process 0 on {own.host}, which ended meanwhile"
    return f"process{'es' * (len(ranks) > 1)} {', '.join(map(str, ranks))}, which did not come to {own.host}"


def listen_on_free_port(own: ProcessInfo) -> Store:
    """Process 0's store, on the first port that is free."""
    trouble = ""
    for port in own.ports:
        try:
            store = dist.TCPStore("127.0.0.1", port, own.size, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        except RuntimeError as error:
            trouble = trouble or str(error).splitlines()[0]
            continue
        store.set("job", own.job)
        os.environ["MASTER_PORT"] = str(port)
        return store
    ports = ", ".join(map(str, own.ports))
    raise RuntimeError(f"{own} cannot listen on any of the ports {ports} ({trouble}); set MASTER_PORT to a free one")


def connect_to_rank_0(own: ProcessInfo, deadline: float) -> Store:
    """Process 0's store, on whichever port it is."""
    began, trouble = time.monotonic(), "nothing was tried"
    while time.monotonic() < deadline:
        for port in own.ports:
            try:
                with socket.create_connection((own.host, port), timeout=2):
                    pass
                brief = timedelta(seconds=5)
                store = dist.TCPStore(own.host, port, own.size, timeout=brief, wait_for_workers=False)  # type: ignore[attr-defined]
                if store.get("job").decode() == own.job:
                    store.set_timeout(COLLECTIVE_TIMEOUT)
                    os.environ["MASTER_PORT"] = str(port)
                    return store
                trouble = "another job listens there"
            except (OSError, RuntimeError) as error:
                trouble = str(error).splitlines()[0]
        time.sleep(0.1)
    raise RuntimeError(
        f"{own} could not reach process 0 at {own.host}:{own.ports[0]} within {time.monotonic() - began:.0f} s "
        f"({trouble}); check that {own.host} is up, that its name resolves here, that no firewall is between, "
        f"and the log of process 0"
    )
