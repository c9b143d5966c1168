"""Signal handlers of a running job: stop after saving (SIGINT, SIGTERM), or save and requeue (SIGUSR2).

The handlers only record the signal; the trainer and the sampler ask `stop_requested` where it is safe to stop.
SLURM sends SIGUSR2 before a time limit or a preemption.  submitit's own handler of SIGUSR2 requeues the job at once,
so it is replaced here and called after the work has saved, or when most of the time before the limit has passed.
Imports no torch.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench.storage.process_identity import is_slurm_task

logger = logging.getLogger(__name__)

REQUEUE_DEADLINE_SHARE = 0.6
"""Fraction of `signal_seconds` after which the job is requeued even if the work has not stopped."""
REQUEUE_TIMEOUT_SECONDS, RETRY_SECONDS = 600.0, 0.5


class SignalHandler:
    """Handlers that record the signals which this process receives.

    `signal_seconds` is the time between SLURM's SIGUSR2 and the end of the job (slurm.signal_seconds); 0 outside SLURM.
    """

    def __init__(self, signal_seconds: float = 0.0) -> None:
        self.signal_seconds = signal_seconds
        self.received: list[int] = []
        self.submitit_handler: Callable[[int, Any], Any] | None = None

    @property
    def stop_requested(self) -> bool:
        """Whether any signal was received."""
        return bool(self.received)

    @property
    def requeue_requested(self) -> bool:
        """Whether SLURM's SIGUSR2 was received."""
        return signal.SIGUSR2 in self.received

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the handlers, and restore the previous ones at the end."""
        handlers: dict[int, Any] = {signal.SIGINT: self._record, signal.SIGTERM: self._record}
        submitit_handler = signal.getsignal(signal.SIGUSR2)
        if is_slurm_task() and callable(submitit_handler):
            self.submitit_handler = submitit_handler
            handlers |= {signal.SIGUSR2: self._record, signal.SIGALRM: self._requeue_unstopped}
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _record(self, signum: int, frame: Any) -> None:
        self.received.append(signum)
        if signum == signal.SIGUSR2 and self.signal_seconds:
            signal.setitimer(signal.ITIMER_REAL, self.signal_seconds * REQUEUE_DEADLINE_SHARE)

    def _requeue_unstopped(self, signum: int, frame: Any) -> None:
        logger.warning("the work did not stop in time; the requeued job continues from the last checkpoint")
        if not self.requeue_job():
            signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)

    def requeue_job(self) -> bool:
        """Let submitit requeue this job; False if SLURM has not accepted the request yet.

        Success ends the process in rank 0; in the other ranks submitit does nothing.
        Raises submitit's UncompletedJobError if the job was requeued too often.
        """
        assert self.submitit_handler is not None, "only a SLURM job can be requeued"
        try:
            self.submitit_handler(signal.SIGUSR2, None)
        except subprocess.SubprocessError as error:  # the controller may be restarting
            logger.warning("cannot be requeued yet: %s", error)
            return False
        return True

    def end_job(self, requeue: bool) -> None:
        """End a job that stopped and saved: requeue it, or wait until SLURM ends it.

        SIGTERM alone comes from scancel, or from a preemption after which SLURM itself requeues the job.
        Returning would mark the job as successful and raising would mark it as failed, so this waits.
        RuntimeError if the job still runs after ten minutes.
        """
        if not is_slurm_task():
            return
        deadline, requeued = time.monotonic() + REQUEUE_TIMEOUT_SECONDS, False
        while time.monotonic() < deadline:
            if not requeued and (requeue or self.requeue_requested):
                requeued = self.requeue_job()
            time.sleep(RETRY_SECONDS)
        raise RuntimeError("the job was signalled, saved and waited ten minutes, but was not ended; submit it again")
