"""Cancel runs: scancel their jobs, or signal their local processes.  Imports no torch."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from bench.cluster import run_status, slurm
from bench.cluster.run_status import RunStatus
from bench.storage.run_folder import RunFolder


def ask_and_cancel(runs: Sequence[RunFolder], *, yes: bool = False) -> list[str]:
    """Name what lives of the runs, ask (unless `yes`), and end it; the names of the runs that were ended.

    ValueError when SLURM does not answer, or there is nobody to ask.
    """
    rows, note = run_status.query_runs(runs, reap=False)
    if note and any(r.jobs for r in rows):
        raise ValueError(f"{note}; nothing was cancelled")
    living = [r for r in rows if r.alive or r.pid]
    if not living:
        print("nothing of this is queued or running")
        return []
    for r in living:
        print(f"{r.run}  {r.state}{f' ({r.why})' if r.why else ''}  {describe_location(r)}")
    if not (yes or confirm_cancellation(living)):
        print("nothing was cancelled")
        return []
    end_runs(living)
    print(f"cancelled {describe_counts(living)}; checkpoints are kept, the same bench.run command goes on from them")
    return [r.run for r in living]


def describe_location(r: RunStatus) -> str:
    """The jobs or the process that a run lives in."""
    if r.pid:
        return f"process {r.pid}"
    return ", ".join(f"{stage} {id_}" for stage, id_ in r.jobs.items() if id_ in r.alive)


def describe_counts(rows: Sequence[RunStatus]) -> str:
    """2 runs (4 jobs, 0 processes)."""
    counts = {"job": sum(len(r.alive) for r in rows), "process": sum(bool(r.pid) for r in rows)}
    plural = {"job": "jobs", "process": "processes"}
    parts = [f"{n} {word if n == 1 else plural[word]}" for word, n in counts.items() if n]
    return f"{len(rows)} run{'s'[: len(rows) != 1]} ({', '.join(parts)})"


def confirm_cancellation(rows: Sequence[RunStatus]) -> bool:
    """Whether the user says y; no, Ctrl-C and the end of input leave everything as it is."""
    if not sys.stdin.isatty():
        raise ValueError(f"{describe_counts(rows)} would be cancelled, and there is no terminal to ask on; use --yes")
    try:
        return input(f"cancel {describe_counts(rows)}? [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()
        return False


def end_runs(rows: Sequence[RunStatus]) -> None:
    """One scancel for all jobs, and SIGTERM for processes, which save and stop."""
    if jobs := [id_ for r in rows for id_ in r.alive]:
        slurm.cancel_jobs(jobs)
    for r in rows:
        if r.pid:
            try:
                os.kill(r.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
            except PermissionError:
                raise ValueError(f"process {r.pid} of {r.run} is another user's, who must end it") from None
