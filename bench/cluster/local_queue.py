"""Which cluster there is, and the queue of this machine: processes through submitit.  Imports no torch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import submitit

CLUSTERS = ("auto", "local", "debug", "slurm")
TIMEOUT_MINUTES = 60 * 24 * 365


def resolve_cluster(name: str) -> str:
    """auto is SLURM where sbatch finds its configuration, or else local; ValueError for slurm where it does not."""
    if name not in ("auto", "slurm"):
        return name
    if not shutil.which("sbatch"):
        problem = "needs sbatch, which is not on PATH"
    elif not sbatch_is_configured():
        problem = "needs a SLURM, and sbatch finds no configuration of one (is SLURM_CONF right?)"
    else:
        return "slurm"
    if name == "auto":
        if shutil.which("sbatch"):
            print("sbatch finds no configuration of a SLURM (is SLURM_CONF right?): this runs on this machine")
        return "local"
    raise ValueError(f"--cluster slurm {problem}; use --cluster local")


def sbatch_is_configured() -> bool:
    """Whether sbatch is more than an installed package: it reads its configuration before it tells its version."""
    if not Path(os.environ.get("SLURM_CONF") or "/").exists():  # which sbatch would wait two minutes for
        return False
    return subprocess.run(["sbatch", "--version"], capture_output=True).returncode == 0


def make_local_executor(cluster: str, folder: Path, gpus: int = 0, processes: int = 1) -> submitit.AutoExecutor:
    """A submitit executor of this machine, local or debug, whose logs are kept in `folder`."""
    made = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
    made.update_parameters(timeout_min=TIMEOUT_MINUTES, gpus_per_node=gpus, tasks_per_node=processes, nodes=1)
    return made


def count_gpus() -> int:
    """GPUs of this machine as the driver's device files tell."""
    return len(list(Path("/dev").glob("nvidia[0-9]*"))) if os.environ.get("CUDA_VISIBLE_DEVICES") != "" else 0


class LocalQueue:
    """Submits jobs, at most `parallel` at a time, in the order given."""

    def __init__(self, make: submitit.AutoExecutor, parallel: int) -> None:
        self.make, self.parallel = make, parallel
        self.waiting: list[tuple[str, Callable[[], Any]]] = []
        self.jobs: dict[str, submitit.Job[Any]] = {}

    def add(self, name: str, job: Callable[[], Any]) -> None:
        self.waiting.append((name, job))

    def advance(self) -> bool:
        """Submit what there is room for; True while anything is waiting or running."""
        running = [job for job in self.jobs.values() if not job.done()]
        while self.waiting and len(running) < self.parallel:
            name, callable_ = self.waiting.pop(0)
            with sigint_ignored():
                job = self.make.submit(callable_)
            self.jobs[name] = job
            running.append(job)
        return bool(running or self.waiting)


@contextmanager
def sigint_ignored() -> Iterator[None]:
    """Processes started here ignore SIGINT, so that submitit's controller does not die of a Ctrl-C.

    A Job listens for it by itself, and stops, saved, when the door that started it is gone.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
