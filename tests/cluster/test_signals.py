import os
import signal
import subprocess
import time

import pytest

from bench.cluster import signals
from bench.cluster.signals import SignalHandler


class Submitit:
    """submitit's handler of SIGUSR2: it fails `away` times, then ends the process."""

    def __init__(self, away=0, ends=True):
        self.away, self.ends, self.calls = away, ends, 0

    def __call__(self, signum, frame):
        self.calls += 1
        if self.calls <= self.away:
            raise subprocess.CalledProcessError(1, ["scontrol", "requeue"])
        if self.ends:
            raise SystemExit(-1)


@pytest.fixture
def on_slurm(monkeypatch):
    """Pretend to be a task of submitit under SLURM; the previous handler is restored."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setattr(signals, "RETRY_SECONDS", 0.05)
    before = signal.getsignal(signal.SIGUSR2)
    yield lambda handler: signal.signal(signal.SIGUSR2, handler)
    signal.signal(signal.SIGUSR2, before)


def send_signal(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_sigint_and_sigterm_are_recorded(number):
    before, handler = signal.getsignal(number), SignalHandler()
    with handler.installed():
        assert not handler.stop_requested
        send_signal(number)
        assert handler.stop_requested and not handler.requeue_requested
        handler.end_job(requeue=False)  # outside of SLURM there is nothing to wait for
    assert signal.getsignal(number) is before


def test_sigusr2_requeues_after_the_work_has_saved(on_slurm):
    submitit_handler, handler = Submitit(), SignalHandler(60.0)
    on_slurm(submitit_handler)
    with handler.installed():
        send_signal(signal.SIGUSR2)
        assert handler.stop_requested and handler.requeue_requested and not submitit_handler.calls
        with pytest.raises(SystemExit):
            handler.end_job(requeue=handler.requeue_requested)
    assert submitit_handler.calls == 1 and signal.getsignal(signal.SIGUSR2) is submitit_handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("away", [0, 2])
def test_work_that_does_not_stop_is_requeued_in_time(on_slurm, away):
    submitit_handler, handler = Submitit(away), SignalHandler(0.5)
    on_slurm(submitit_handler)
    began = time.monotonic()
    with handler.installed(), pytest.raises(SystemExit):
        send_signal(signal.SIGUSR2)
        while time.monotonic() - began < 5:
            time.sleep(0.01)
    assert time.monotonic() - began >= 0.3 and submitit_handler.calls == away + 1


def test_a_failed_requeue_is_tried_again(on_slurm):
    submitit_handler, handler = Submitit(away=2), SignalHandler()
    on_slurm(submitit_handler)
    with handler.installed(), pytest.raises(SystemExit):
        handler.end_job(requeue=True)  # another rank got the signal
    assert submitit_handler.calls == 3


def test_other_ranks_request_a_requeue_once_and_wait(on_slurm, monkeypatch):
    monkeypatch.setattr(signals, "REQUEUE_TIMEOUT_SECONDS", 0.3)
    submitit_handler, handler = Submitit(ends=False), SignalHandler()
    on_slurm(submitit_handler)
    with handler.installed(), pytest.raises(RuntimeError, match="was not ended; submit it again"):
        handler.end_job(requeue=True)
    assert submitit_handler.calls == 1


def test_sigterm_waits_and_obeys_a_later_sigusr2(on_slurm):
    submitit_handler, handler = Submitit(), SignalHandler()
    on_slurm(submitit_handler)
    with handler.installed(), pytest.raises(SystemExit):
        send_signal(signal.SIGTERM)
        subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -USR2 {os.getpid()}"])
        handler.end_job(requeue=False)
    assert submitit_handler.calls == 1
