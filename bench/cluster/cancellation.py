"""Cancel runs: scancel their jobs, or send SIGTERM to their local processes.  Imports no torch."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from bench.cluster import run_status, slurm
from bench.cluster.run_status import RunStatus
from bench.storage.run_folder import RunFolder


def ask_and_cancel(runs: Sequence[RunFolder], *, yes: bool = False) -> list[str]:
    """List the queued and running runs, ask the user (unless `yes`), and cancel these runs.

    Returns their names.  ValueError if SLURM does not answer, or there is no terminal to ask on.
    """
    statuses, note = run_status.query_runs(runs, record_failures=False)
    if note and any(status.jobs for status in statuses):
        raise ValueError(f"{note}; nothing was cancelled")
    active = [status for status in statuses if status.alive or status.pid]
    if not active:
        print("none of these runs is queued or running")
        return []
    for status in active:
        reason = f" ({status.why})" if status.why else ""
        print(f"{status.run}  {status.state}{reason}  {describe_location(status)}")
    if not (yes or confirm_cancellation(active)):
        print("nothing was cancelled")
        return []
    end_runs(active)
    print(f"cancelled {describe_counts(active)}; checkpoints are kept; the same bench.run command continues from them")
    return [status.run for status in active]


def describe_location(status: RunStatus) -> str:
    """Describe the jobs or the process of an active run: "train 7_0, evaluate 8_0" or "process 123"."""
    if status.pid:
        return f"process {status.pid}"
    return ", ".join(f"{stage} {id_}" for stage, id_ in status.jobs.items() if id_ in status.alive)


def describe_counts(statuses: Sequence[RunStatus]) -> str:
    """Count runs, jobs and processes as text: "2 runs (4 jobs)"."""
    jobs, processes = sum(len(s.alive) for s in statuses), sum(bool(s.pid) for s in statuses)
    parts = [f"{jobs} job{'s' * (jobs != 1)}"] if jobs else []
    parts += [f"{processes} process{'es' * (processes != 1)}"] if processes else []
    return f"{len(statuses)} run{'s' * (len(statuses) != 1)} ({', '.join(parts)})"


def confirm_cancellation(statuses: Sequence[RunStatus]) -> bool:
    """Ask the user for confirmation.  ValueError without a terminal."""
    if not sys.stdin.isatty():
        raise ValueError(
            f"{describe_counts(statuses)} would be cancelled, but there is no terminal to ask on; use --yes"
        )
    try:
        return input(f"cancel {describe_counts(statuses)}? [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()
        return False


def end_runs(statuses: Sequence[RunStatus]) -> None:
    """Cancel all jobs with one scancel, and send SIGTERM to local processes (they save a checkpoint and stop)."""
    if jobs := [id_ for status in statuses for id_ in status.alive]:
        slurm.cancel_jobs(jobs)
    for status in statuses:
        if status.pid:
            try:
                os.kill(status.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
            except PermissionError:
                raise ValueError(f"process {status.pid} of {status.run} belongs to another user") from None
