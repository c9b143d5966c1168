"""One run from its folder to its record; what a local process or a cluster's node executes.

Every stage goes on where it stopped, so running a job again is always right.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from bench.cluster.signals import SignalHandler
from bench.config.overrides import load_config
from bench.config.schema import RunConfig
from bench.records import failures
from bench.runs.pipeline import Stage, run_stages
from bench.storage import lease as claims
from bench.storage.process_identity import is_running, is_slurm_task
from bench.storage.run_folder import RunFolder

MAX_FRUITLESS_ATTEMPTS, PROGRESS_EVENTS = 5, ("train", "trained", "sample", "evaluate")


class Job:
    """The callable that submitit pickles: a folder's name, which part of the work, and what it may count on."""

    def __init__(
        self, folder: str, stage: Stage = "all", signal_seconds: float = 0.0, launcher_pid: int | None = None
    ) -> None:
        self.folder, self.stage, self.signal_seconds, self.launcher_pid = folder, stage, signal_seconds, launcher_pid

    def __call__(self) -> str:
        signals = SignalHandler(self.signal_seconds)
        with signals.installed():
            execute_run(RunFolder(Path(self.folder)), self.stage, signals, self.launcher_pid)
        return self.folder

    def checkpoint(self) -> Any:
        """submitit calls this on preemption and time-out: the same job goes on from its files."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def execute_run(
    run: RunFolder, stage: Stage = "all", signals: SignalHandler | None = None, launcher_pid: int | None = None
) -> bool:
    """Train ("train"), or sample, evaluate and record ("evaluate"), or all of it; whether that is done now.

    A failure is logged, written to error.txt and to a record, and raised.  The work stops, saved, when a
    notice comes to any of its processes, or when the process `launcher_pid` that started it is gone; a notice of
    SLURM then ends in another turn.
    """
    from bench.training import distributed, rendezvous
    from bench.training.checkpointing import Diverged

    signals, config, own = signals or SignalHandler(), load_config(run.path), rendezvous.process_info()
    first = own is None or own.rank == 0
    try:
        with run.lease() if first else nullcontext() as lease, distributed.join_world(config) as world:
            done = run_attempt(run, config, stage, signals, launcher_pid, world, lease.check if lease else lambda: None)
            requeue = not done and bool(world.agree(signals.requeue_requested)[0])
    except (claims.LeaseHeld, claims.LeaseLost):
        raise
    except Exception as error:
        if first or type(error) not in (RuntimeError, Diverged):  # else it is the first process's to tell
            failures.record_failure(run, error, "diverged" if isinstance(error, Diverged) else "failed")
        raise
    if not done:
        signals.end_job(requeue)
    elif own is not None:
        atexit.register(distributed.exit_without_cleanup)
    return done


def run_attempt(
    run: RunFolder,
    config: RunConfig,
    stage: Stage,
    signals: SignalHandler,
    launcher_pid: int | None,
    world: Any,
    check_lease: Callable[[], None],
) -> bool:
    """The work of one process, until it is done or told to stop; whether it is done."""
    from bench.training.distributed import StopRequested

    def stop() -> bool:
        return signals.stop_requested or (launcher_pid is not None and not is_running(launcher_pid))

    if world.of_first(
        lambda: run.record_path.is_file() and run.has_exports(config.budget.evaluation_points, config.compute.export)
    ):
        return True
    if world.first:
        (run.path / "error.txt").unlink(missing_ok=True)
        require_progress(run)
        run.log("start", stage=stage, **describe_process())
    try:
        run_stages(run, config, stage, stop, world, check_lease)
    except StopRequested:
        if world.first:
            run.log("requeued" if signals.requeue_requested else "stopped")
        return False
    if world.first:
        if stage == "evaluate":
            update_leaderboard(run.results)
        run.log("trained" if stage == "train" else "done")
    return True


def require_progress(run: RunFolder) -> None:
    """ValueError where SLURM has started a run TURNS times in a row and nothing came of it."""
    turns = 0
    for event in reversed(run.events()[0]):
        if event["event"] in (*PROGRESS_EVENTS, "failed"):
            break
        turns += event["event"] == "start"
    if is_slurm_task() and turns >= MAX_FRUITLESS_ATTEMPTS:
        raise ValueError(
            f"{turns} turns in a row ended before a step was reported; raise slurm.time or lower slurm.signal_seconds "
            "(the log says how far each came), then --retry-failed"
        )


def update_leaderboard(results: Path) -> None:
    """Bring the leaderboard up to date; what keeps it from that is said, and is no failure of this run."""
    from bench.records import leaderboard_files

    try:
        leaderboard_files.write_leaderboard(results)
    except (ValueError, OSError) as error:
        print(f"the leaderboard is not up to date: {error}", file=sys.stderr, flush=True)


def describe_process() -> dict[str, Any]:
    """Where this process runs: host, pid, and SLURM's job and how often it was requeued."""
    own = claims.this_process()
    return {"pid": own.pid, "host": own.host, "job": own.job if is_slurm_task() else None, "requeues": own.restarts}
