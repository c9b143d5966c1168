"""Dispatch unfinished runs to jobs: in this process, on this machine, or on SLURM.  Imports no torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.cluster import cancellation, code_snapshot, job_chains, live_table, local_queue, run_status
from bench.cluster.profiles import SlurmProfile
from bench.config.overrides import load_config
from bench.runs.job import Job
from bench.storage import lease
from bench.storage.run_folder import RunFolder

WATCH_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class DispatchOptions:
    """Options of one command's dispatch."""

    results: Path
    cluster: str
    profile: SlurmProfile
    parallel: int | None
    label: str
    """Name of the suite or of the run."""
    retry_failed: bool = False


def default_parallel(cluster: str, count: int) -> int:
    """Return how many runs go at a time: all on SLURM, one on a GPU or in this process, a few on a CPU."""
    if cluster == "slurm":
        return count
    if cluster == "debug" or local_queue.count_gpus():
        return 1
    return min(count, max(3, os.cpu_count() or 1))


def dispatch_runs(todo: Mapping[str, RunFolder], options: DispatchOptions, stay: bool) -> int | None:
    """Dispatch runs; return None once they have ended, or the exit status where they are left to SLURM.

    `stay` watches the runs on SLURM.  The exit status is 1 where no run could be submitted.
    """
    if options.cluster != "slurm":
        require_not_queued(todo, "or leave it to SLURM", ask=False)
        run_locally(todo, options)
        return None
    there = submit_to_slurm(todo, options)
    if not there:
        return 1
    if stay:
        return None if watch_runs(there, options) else 130
    print("python -m bench.status shows them, python -m bench.cancel ends them; you can log out")
    return 0


def run_locally(todo: Mapping[str, RunFolder], options: DispatchOptions) -> None:
    """Run in this process (debug) or in processes of this machine, and show their progress."""
    if options.cluster == "debug":
        for name, run in todo.items():
            print(f"{name} runs in this process")
            Job(str(run.path))()
        return
    first = next(iter(todo.values()))
    parallel = options.parallel or default_parallel(options.cluster, len(todo))
    processes = max(1, load_config(first.path).compute.processes)
    gpus = processes if local_queue.count_gpus() else 0
    logs = job_chains.jobs_folder(options.results) / "%j"
    queue = local_queue.LocalQueue(local_queue.make_local_executor(options.cluster, logs, gpus, processes), parallel)
    for name, run in todo.items():
        queue.add(name, Job(str(run.path.absolute()), launcher_pid=os.getpid()))
    live_table.watch_local_runs(todo, queue.advance)


def submit_to_slurm(todo: Mapping[str, RunFolder], options: DispatchOptions) -> list[RunFolder]:
    """Submit runs that are neither queued nor failed (retry_failed: failed ones too); return the runs that SLURM has.

    Raises ValueError with SLURM's reason where it refuses a request.  Ctrl-C asks whether to cancel the submitted ones.
    """
    with lease.hold_lease(job_chains.jobs_folder(options.results), wait=60):
        for name in job_chains.cancel_orphans(options.results):
            print(f"{name}: its submission was cut off, so its jobs were cancelled")
        there, free = select_for_submission(todo, options.retry_failed)
        submitted: list[RunFolder] = []
        if not free:
            return there
        try:
            for line in job_chains.submit_runs(build_submission(free, options), *split_by_stage(free)):
                submitted.append(todo[line.partition(":")[0]])
                print(f"submitted {line}", flush=True)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                cancellation.ask_and_cancel(submitted)
            for run in free:
                remove_unstarted(run)
            raise
    return [*there, *submitted]


def select_for_submission(todo: Mapping[str, RunFolder], retry_failed: bool) -> tuple[list[RunFolder], list[RunFolder]]:
    """Return (runs that are queued or running, runs to submit), and print why the others are left out."""
    rows = query_states(todo)
    there, free = [], []
    for name, run in todo.items():
        row = rows[name]
        if row.alive:
            print(f"{name} is in the queue already: {cancellation.describe_location(row)}, {row.state}")
            there.append(run)
        elif row.state == "diverged":
            print(f"{name} diverged, which it would do again; --fresh starts it over")
        elif row.state == "failed" and not retry_failed:
            words = [line for line in row.error if not line.startswith("its evaluation is cancelled")]
            why = words[-1] if words else row.why
            print(f"{name} failed ({why}); --retry-failed submits it again")
        else:
            free.append(run)
    return there, free


def remove_unstarted(run: RunFolder) -> None:
    """Remove a run folder that holds its config alone."""
    if [path.name for path in run.path.iterdir()] == ["config.json"]:
        shutil.rmtree(run.path)


def query_states(runs: Mapping[str, RunFolder]) -> dict[str, run_status.RunStatus]:
    """Return the states of runs by name, from SLURM and their folders; ValueError where SLURM does not answer."""
    rows, note = run_status.query_runs(runs.values())
    if note:
        raise ValueError(f"{note}; nothing was submitted or removed")
    return {row.run: row for row in rows}


def split_by_stage(runs: list[RunFolder]) -> tuple[list[RunFolder], list[RunFolder]]:
    """Return (runs to train, runs that are trained and to evaluate)."""
    trained = [run.has_snapshots(load_config(run.path).budget.evaluation_points) for run in runs]
    pairs = list(zip(runs, trained, strict=True))
    return [run for run, done in pairs if not done], [run for run, done in pairs if done]


def build_submission(runs: list[RunFolder], options: DispatchOptions) -> job_chains.Submission:
    """Build the part of a submission that all jobs share, and copy the code for them."""
    modules = {arch.partition(":")[0] for run in runs if ":" in (arch := load_config(run.path).model.arch)}
    return job_chains.Submission(
        results=options.results,
        profile=options.profile,
        code=code_snapshot.copy_code(job_chains.jobs_folder(options.results), modules),
        job_factory=Job,
        label=options.label,
        parallel=options.parallel,
    )


def watch_runs(runs: list[RunFolder], options: DispatchOptions) -> bool:
    """Show the progress of runs on SLURM; return whether all have ended.  Ctrl-C asks whether to cancel them."""
    try:
        live_table.watch_runs(
            options.results, [run.path.name for run in runs], frozenset(run_status.RUN_STATES), WATCH_SECONDS
        )
    except KeyboardInterrupt:
        print()
        cancellation.ask_and_cancel(runs)
        return False
    return True


def require_not_queued(runs: Mapping[str, RunFolder], advice: str, ask: bool = True) -> None:
    """Raise ValueError where SLURM has a job of one of the runs.

    With `ask`, also where SLURM does not answer; without it the run's lease protects it in that case.
    """
    submitted = {name: run for name, run in runs.items() if (run.path / "jobs.json").is_file()}
    rows = (
        query_states(submitted)
        if ask
        else {row.run: row for row in run_status.query_runs(submitted.values(), record_failures=False)[0]}
    )
    for name, row in rows.items():
        if row.alive:
            where = cancellation.describe_location(row)
            raise ValueError(f"{name} is in the queue: {where}; python -m bench.cancel {name} first, {advice}")
