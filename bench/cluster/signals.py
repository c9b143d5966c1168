"""What the system tells a running job: stop, or save and queue again.  Imports no torch.

SIGINT and SIGTERM are noted, and the work stops, saved, where it is safe.  SIGUSR2 is SLURM's notice of a time limit or
a preemption; submitit's handler for it (kept here) puts the job back into the queue, but only after the work has saved,
or when most of the notice has passed.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench.storage.process_identity import is_slurm_task

REQUEUE_DEADLINE_SHARE = 0.6
"""Share of the notice after which the job is queued again even where the work has not stopped."""
REQUEUE_TIMEOUT_SECONDS, RETRY_SECONDS = 600.0, 0.5


class SignalHandler:
    """The notices of one process."""

    def __init__(self, notice_seconds: float = 0.0) -> None:
        self.notice_seconds = notice_seconds
        self.heard: list[int] = []
        self.submitit: Callable[[int, Any], Any] | None = None

    @property
    def stop(self) -> bool:
        return bool(self.heard)

    @property
    def requeue(self) -> bool:
        return signal.SIGUSR2 in self.heard

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over, and give them back at the end."""
        wanted: dict[int, Any] = {signal.SIGINT: self._note, signal.SIGTERM: self._note}
        queued = signal.getsignal(signal.SIGUSR2)
        if is_slurm_task() and callable(queued):
            self.submitit = queued
            wanted |= {signal.SIGUSR2: self._note, signal.SIGALRM: self._last_call}
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, signum: int, frame: Any) -> None:
        self.heard.append(signum)
        if signum == signal.SIGUSR2 and self.notice_seconds:
            signal.setitimer(signal.ITIMER_REAL, self.notice_seconds * REQUEUE_DEADLINE_SHARE)

    def _last_call(self, signum: int, frame: Any) -> None:
        print("the work did not stop in time; what it has saved so far is what the next turn goes on from", flush=True)
        if not self.queue_again():
            signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)

    def queue_again(self) -> bool:
        """Let submitit requeue this job, which ends this process (of several, only the first one's); False: not yet.

        Raises submitit's UncompletedJobError where it has been requeued too often.
        """
        assert self.submitit is not None, "only a SLURM job can be queued again"
        try:
            self.submitit(signal.SIGUSR2, None)
        except subprocess.SubprocessError as error:  # the controller may be restarting
            print(f"cannot be queued again yet: {error}", flush=True)
            return False
        return True

    def leave(self, requeue: bool) -> None:
        """End a job that has stopped, saved: queue it again, or wait for the end that was announced.

        A SIGTERM alone is a preemption without notice, whose requeue is SLURM's, or a scancel.  To
        return would be a success, to raise a failure, and it is neither.  RuntimeError after ten minutes.
        """
        if not is_slurm_task():
            return
        deadline, queued = time.monotonic() + REQUEUE_TIMEOUT_SECONDS, False
        while time.monotonic() < deadline:
            if not queued and (requeue or self.requeue):
                queued = self.queue_again()
            time.sleep(RETRY_SECONDS)
        raise RuntimeError("the job was told to end, saved and waited, but was not ended; submit it again")
