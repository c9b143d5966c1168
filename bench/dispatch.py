"""From runs that are not finished to jobs: in this process, on this machine, or on SLURM.  Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import chains, monitor, slurm, snapshot, submit
from .job import Job
from .profiles import Profile
from .runfolder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How the runs of one command are to be dispatched."""

    results: Path
    cluster: str
    profile: Profile
    parallel: int | None
    label: str
    """The suite, or the run."""
    retry_failed: bool = False


def default_parallel(cluster: str, count: int) -> int:
    """All at once on a cluster; one on a GPU or in this process; a few on a CPU, each with its share."""
    if cluster == "slurm":
        return count
    if cluster == "debug" or submit.gpus_here():
        return 1
    return min(count, max(3, os.cpu_count() or 1))


def here(todo: Mapping[str, RunFolder], wanted: Wanted) -> None:
    """Run them in this process (debug) or in processes of this machine, and watch them."""
    if wanted.cluster == "debug":
        for name, run in todo.items():
            print(f"{name} runs in this process")
            Job(str(run.path))()
        return
    first = next(iter(todo.values()))
    parallel = wanted.parallel or default_parallel(wanted.cluster, len(todo))
    processes = max(1, getattr(first.config().compute, "processes", 1))
    gpus = processes if submit.gpus_here() else 0
    logs = chains.jobs_folder(wanted.results) / "%j"
    queue = submit.Queue(submit.executor(wanted.cluster, logs, gpus, processes), parallel)
    for name, run in todo.items():
        queue.add(name, Job(str(run.path.absolute()), door=os.getpid()))
    monitor.watch(todo, queue.advance)


def to_slurm(todo: Mapping[str, RunFolder], wanted: Wanted) -> list[RunFolder]:
    """Submit what is neither queued nor failed (or also what failed); the runs that SLURM has afterwards.

    ValueError with SLURM's reason when it refuses a request.
    """
    for name in chains.mend(wanted.results):
        print(f"{name}: its submission was cut off, so its jobs were cancelled")
    queued = chains.queued(list(todo.values()))
    for name, where in queued.items():
        print(f"{name} is in the queue already: {where}")
    failed = {} if wanted.retry_failed else chains.failed([r for n, r in todo.items() if n not in queued])
    for name, why in failed.items():
        print(f"{name} failed ({why}); --retry-failed submits it again")
    rest = [run for name, run in todo.items() if name not in queued and name not in failed]
    train = [run for run in rest if not run.has_snapshots(run.config())]
    evaluate = [run for run in rest if run not in train]
    if rest:
        modules = {arch.partition(":")[0] for run in rest if ":" in (arch := run.config().model.arch)}
        code = snapshot.take(chains.jobs_folder(wanted.results), modules)
        submission = chains.Submission(
            results=wanted.results,
            profile=wanted.profile,
            code=code,
            make=Job,
            label=wanted.label,
            parallel=wanted.parallel,
        )
        for line in chains.submit(submission, train, evaluate):
            print(f"submitted {line}", flush=True)
    return [run for name, run in todo.items() if name in queued or run in rest]


def must_be_free(runs: Mapping[str, RunFolder]) -> None:
    """ValueError where SLURM still has a job of a run that is to be thrown away."""
    own = [run for run in runs.values() if chains.jobs_of(run)]
    if not own:
        return
    try:
        queued = chains.queued(own)
    except slurm.NoAnswer as error:
        raise ValueError(f"{error}; --fresh must know that no job works on what it throws away") from None
    for name, where in queued.items():
        raise ValueError(f"{name} is in the queue: {where}; python -m bench.cancel {name} first, then --fresh")
