"""Choice between SLURM and this machine, and a queue of local processes run by submitit.  Imports no torch."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import submitit

logger = logging.getLogger(__name__)

CLUSTERS = ("auto", "local", "debug", "slurm")
TIMEOUT_MINUTES = 60 * 24 * 365
"""One year, in effect no limit; submitit requires one."""


def resolve_cluster(name: str) -> str:
    """Resolve "auto": "slurm" if sbatch works here, otherwise "local".  ValueError for "slurm" if it does not work."""
    if name not in ("auto", "slurm"):
        return name
    if not shutil.which("sbatch"):
        problem = "needs sbatch, which is not on PATH"
    elif not sbatch_is_configured():
        problem = "needs SLURM, but sbatch finds no configuration (is SLURM_CONF right?)"
    else:
        return "slurm"
    if name == "auto":
        if shutil.which("sbatch"):
            logger.warning("sbatch finds no configuration (is SLURM_CONF right?); running on this machine instead")
        return "local"
    raise ValueError(f"--cluster slurm {problem}; use --cluster local")


def sbatch_is_configured() -> bool:
    """Whether sbatch finds a configuration, without which even --version fails."""
    if not Path(os.environ.get("SLURM_CONF") or "/").exists():  # sbatch would wait two minutes for it
        return False
    return subprocess.run(["sbatch", "--version"], capture_output=True).returncode == 0


def make_local_executor(cluster: str, folder: Path, gpus: int = 0, processes: int = 1) -> submitit.AutoExecutor:
    """Return a submitit executor for this machine ("local" or "debug") that writes its logs to `folder`."""
    executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
    executor.update_parameters(timeout_min=TIMEOUT_MINUTES, gpus_per_node=gpus, tasks_per_node=processes, nodes=1)
    return executor


def count_gpus() -> int:
    """Count NVIDIA GPUs by their device files, without torch.  0 if CUDA_VISIBLE_DEVICES is empty."""
    return len(list(Path("/dev").glob("nvidia[0-9]*"))) if os.environ.get("CUDA_VISIBLE_DEVICES") != "" else 0


class LocalQueue:
    """A first-in first-out queue that runs at most `parallel` jobs at a time."""

    def __init__(self, executor: submitit.AutoExecutor, parallel: int) -> None:
        self.executor, self.parallel = executor, parallel
        self.waiting: list[tuple[str, Callable[[], Any]]] = []
        self.jobs: dict[str, submitit.Job[Any]] = {}

    def add(self, name: str, job: Callable[[], Any]) -> None:
        """Append a job."""
        self.waiting.append((name, job))

    def advance(self) -> bool:
        """Start jobs up to the limit, and return whether any job is still waiting or running."""
        running = [job for job in self.jobs.values() if not job.done()]
        while self.waiting and len(running) < self.parallel:
            name, callable_ = self.waiting.pop(0)
            with sigint_ignored():
                job = self.executor.submit(callable_)
            self.jobs[name] = job
            running.append(job)
        return bool(running or self.waiting)


@contextmanager
def sigint_ignored() -> Iterator[None]:
    """Ignore SIGINT in processes started here, since a Ctrl-C would kill submitit's controller process.

    The job installs its own handler.  It also saves and stops once the launcher has ended.
    """
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
