"""The job of one run in one process, local or on a cluster's node.

Every stage continues where it stopped, so a job can be run again at any time.
"""

from __future__ import annotations

import atexit
import logging
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cluster.signals import SignalHandler
from bench.config.overrides import load_config
from bench.config.schema import RunConfig
from bench.records import failures
from bench.runs.pipeline import Stage, run_stages
from bench.storage import process_identity
from bench.storage.lease import Lease, LeaseHeld, LeaseLost, this_process
from bench.storage.process_identity import is_slurm_task
from bench.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from bench.training.distributed import World
    from bench.training.run_context import RunContext

logger = logging.getLogger(__name__)
MAX_FRUITLESS_ATTEMPTS, PROGRESS_EVENTS = 5, ("train", "trained", "sample", "evaluate")


class Job:
    """The callable that submitit pickles: run folder, stage, seconds of warning before a time limit, launcher's pid."""

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
        """Requeue the same job; submitit calls this on preemption and at the time limit."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def execute_run(
    run: RunFolder, stage: Stage = "all", signals: SignalHandler | None = None, launcher_pid: int | None = None
) -> bool:
    """Train ("train"), or sample, evaluate and record ("evaluate"), or all of it; return whether that is done now.

    A failure is logged, written to error.txt and to a record, and raised.  The work stops, saved, when a
    signal comes to any of its processes, or when the process `launcher_pid` that started it is gone; a signal of
    SLURM then ends in another attempt.
    """
    from bench.training import distributed, rendezvous
    from bench.training.checkpointing import Diverged

    signals, config, process = signals or SignalHandler(), load_config(run.path), rendezvous.process_info()
    first = process is None or process.rank == 0
    try:
        with run.lease() if first else nullcontext() as lease, distributed.join_world(config) as world:
            attempt = Attempt(run, config, stage, signals, launcher_pid, world, lease)
            done = attempt.execute()
            requeue = not done and bool(world.agree(signals.requeue_requested)[0])
    except (LeaseHeld, LeaseLost):
        raise
    except Exception as error:
        if first or type(error) not in (RuntimeError, Diverged):  # else rank 0 reports it
            failures.record_failure(run, error, "diverged" if isinstance(error, Diverged) else "failed")
        raise
    if not done:
        signals.end_job(requeue)
    elif process is not None:
        atexit.register(distributed.exit_without_cleanup)
    return done


@dataclass(frozen=True)
class Attempt:
    """One start of a run's job in this process; a run that was interrupted takes several."""

    run: RunFolder
    config: RunConfig
    stage: Stage
    signals: SignalHandler
    launcher_pid: int | None
    world: World
    lease: Lease | None
    """Rank 0's."""

    def execute(self) -> bool:
        """Work until the stages are done or a stop is requested; return whether they are done."""
        from bench.training.distributed import StopRequested

        if self.world.of_first(self.is_complete):
            return True
        if self.world.first:
            (self.run.path / "error.txt").unlink(missing_ok=True)
            require_progress(self.run)
            self.run.log("start", stage=self.stage, **describe_process())
        try:
            run_stages(self.open_context(), self.stage)
        except StopRequested:
            if self.world.first:
                self.run.log("requeued" if self.signals.requeue_requested else "stopped")
            return False
        if self.world.first:
            if self.stage == "evaluate":
                update_leaderboard(self.run.results)
            self.run.log("trained" if self.stage == "train" else "done")
        return True

    def is_complete(self) -> bool:
        """Whether the run has its record and the images that are to be exported."""
        points, export = self.config.budget.evaluation_points, self.config.compute.export
        return self.run.record_path.is_file() and self.run.has_exports(points, export)

    def stop_requested(self) -> bool:
        """Whether a signal came, or the launcher is gone."""
        gone = self.launcher_pid is not None and not process_identity.is_running(self.launcher_pid)
        return self.signals.stop_requested or gone

    def check_lease(self) -> None:
        """Raise LeaseLost where another process holds the run; only rank 0 has a lease."""
        if self.lease:
            self.lease.check()

    def open_context(self) -> RunContext:
        """Set the process's CPU threads and open the run's data."""
        from bench.training import trainer
        from bench.training.run_context import RunContext

        trainer.set_threads(self.config)
        return RunContext.open(self.run, self.config, self.world, self.stop_requested, self.check_lease)


def require_progress(run: RunFolder) -> None:
    """Raise ValueError where SLURM started a run MAX_FRUITLESS_ATTEMPTS times in a row without progress."""
    attempts = 0
    for event in reversed(run.events()[0]):
        if event["event"] in (*PROGRESS_EVENTS, "failed"):
            break
        attempts += event["event"] == "start"
    if is_slurm_task() and attempts >= MAX_FRUITLESS_ATTEMPTS:
        raise ValueError(
            f"{attempts} attempts in a row ended before a step was reported; raise slurm.time or lower "
            "slurm.signal_seconds (the log says how far each came), then --retry-failed"
        )


def update_leaderboard(results: Path) -> None:
    """Update the leaderboard; log an error, which is no failure of this run, as a warning."""
    from bench.records import leaderboard_files

    try:
        leaderboard_files.write_leaderboard(results)
    except (ValueError, OSError) as error:
        logger.warning("the leaderboard is not up to date: %s", error)


def describe_process() -> dict[str, Any]:
    """Return host, pid, SLURM's job id and its count of requeues, for the log."""
    me = this_process()
    return {"pid": me.pid, "host": me.host, "job": me.job if is_slurm_task() else None, "requeues": me.restarts}
