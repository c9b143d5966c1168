"""Find the other ranks of a run and open the key-value store that they share.

Rank 0 listens on a port derived from the job id, or on the next free one of a short list.  The other ranks try these
ports and check the job id, so that two jobs on one host never mix.
"""

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
"""How long a rank waits for the others in a collective call, for example while a checkpoint is written."""


@dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    """Rank of a process, and host and ports of rank 0."""

    rank: int
    local_rank: int = 0
    size: int
    host: str
    """Host of rank 0."""
    ports: tuple[int, ...]
    """Ports that rank 0 tries in order; it listens on the first free one."""
    job: str = ""
    """Job id: the same for all ranks of a job, and different for every other job."""

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size} on {socket.gethostname()}"


def process_info() -> ProcessInfo | None:
    """Rank of this process in its submitit job; None outside of a job and for a job of one task."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return None
    import submitit
    from submitit.helpers import TorchDistributedEnvironment

    job = submitit.JobEnvironment()
    if job.num_tasks == 1:
        return None
    env = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    job_name = f"{job.job_id}/{os.environ.get('SLURM_RESTART_COUNT', 0)}"
    more = random.Random(job_name).sample(range(20_000, 32_000), 7)  # below the ephemeral ports
    return ProcessInfo(
        rank=env.rank,
        local_rank=env.local_rank,
        size=env.world_size,
        host=env.master_addr,
        ports=(env.master_port, *more),
        job=job_name,
    )


def open_store(process: ProcessInfo, seconds: float) -> Store:
    """Open the store and wait for all ranks; raise RuntimeError that names the absent ranks after `seconds`."""
    deadline = time.monotonic() + seconds
    store = listen_on_free_port(process) if process.rank == 0 else connect_to_rank_0(process, deadline)
    store.set(f"here/{process.rank}", socket.gethostname())
    keys = [f"here/{rank}" for rank in range(process.size)]
    try:
        store.wait(keys, timedelta(seconds=max(1.0, deadline - time.monotonic())))
    except RuntimeError as error:
        raise RuntimeError(
            f"{process} waited {seconds:g} s for {describe_absent(process, store)}; their logs may say why"
        ) from error
    return store


def describe_absent(process: ProcessInfo, store: Store) -> str:
    """Name the ranks that have not arrived."""
    try:
        ranks = [rank for rank in range(process.size) if not store.check([f"here/{rank}"])]
    except RuntimeError:
        return f"rank 0 on {process.host}, which ended meanwhile"
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}, which did not reach {process.host}"


def listen_on_free_port(process: ProcessInfo) -> Store:
    """Open the store on rank 0, on the first free port."""
    first_error = ""
    for port in process.ports:
        try:
            store = dist.TCPStore("127.0.0.1", port, process.size, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        except RuntimeError as error:
            first_error = first_error or str(error).splitlines()[0]
            continue
        store.set("job", process.job)
        os.environ["MASTER_PORT"] = str(port)
        return store
    ports = ", ".join(map(str, process.ports))
    raise RuntimeError(
        f"{process} cannot listen on any of the ports {ports} ({first_error}); set MASTER_PORT to a free one"
    )


def connect_to_rank_0(process: ProcessInfo, deadline: float) -> Store:
    """Connect to the store of rank 0; try all its ports until `deadline` (time.monotonic)."""
    began, last_error = time.monotonic(), "no port was tried"
    while time.monotonic() < deadline:
        for port in process.ports:
            try:
                with socket.create_connection((process.host, port), timeout=2):
                    pass
                connect_timeout = timedelta(seconds=5)
                store = dist.TCPStore(process.host, port, process.size, timeout=connect_timeout, wait_for_workers=False)  # type: ignore[attr-defined]
                if store.get("job").decode() == process.job:
                    store.set_timeout(COLLECTIVE_TIMEOUT)
                    os.environ["MASTER_PORT"] = str(port)
                    return store
                last_error = "another job listens there"
            except (OSError, RuntimeError) as error:
                last_error = str(error).splitlines()[0]
        time.sleep(0.1)
    raise RuntimeError(
        f"{process} could not reach rank 0 at {process.host}:{process.ports[0]} within "
        f"{time.monotonic() - began:.0f} s ({last_error}); check that {process.host} is up, that its name resolves "
        f"here, that no firewall blocks the port, and read the log of rank 0"
    )
