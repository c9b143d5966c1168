"""The loss is copied asynchronously, and no checkpoint is written before the loss has been checked."""

import pytest
import torch
from helpers import make_run, tiny_config

from bench.training import metrics_logger
from bench.training.checkpointing import TrainingState


class Event:
    """CUDA event that completes when a test sets `here`, or when it is waited for."""

    def __init__(self):
        self.here, self.waited = False, 0

    def query(self):
        return self.here

    def synchronize(self):
        self.waited += not self.here
        self.here = True


@pytest.fixture
def metered(tmp_path, monkeypatch):
    """(run, state, logger, the events of its copies)."""
    config, events = tiny_config(), []
    run, state = make_run(tmp_path, config), TrainingState(net=None, ema=None, optimizer=None)

    def fetched(value):
        events.append(Event())
        return value, events[-1]

    monkeypatch.setattr(metrics_logger, "copy_to_host", fetched)
    return run, state, metrics_logger.MetricsLogger(run, config, state), events


def losses(run):
    return [(e["images"], e["loss"]) for e in run.events()[0] if e["event"] == "train"]


def test_a_pending_loss_is_logged_with_its_own_image_count(metered):
    run, state, logger, events = metered
    for value in (1.0, 3.0):
        logger.add(torch.tensor(value), 16)
        state.images += 16
    logger.report(wait=False)
    assert losses(run) == [] and logger.is_copying()
    logger.add(torch.tensor(7.0), 16)
    state.images += 16
    events[0].here = True
    assert not logger.is_copying()
    logger.settle()
    assert losses(run) == [(32, 2.0)] and events[0].waited == 0
    logger.report()
    assert losses(run) == [(32, 2.0), (48, 7.0)] and events[1].waited == 1


def test_a_report_waits_for_the_one_before_it(metered):
    run, state, logger, events = metered
    for _ in range(3):
        logger.add(torch.tensor(1.0), 16)
        state.images += 16
        logger.report(wait=False)
    assert [images for images, _ in losses(run)] == [16, 32] and [e.waited for e in events] == [1, 1, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e6])
def test_a_diverged_loss_is_raised_before_anything_is_saved(metered, bad):
    _, state, logger, _ = metered
    state.images = 16
    logger.add(torch.tensor(bad), 16)
    logger.report(wait=False)
    state.images = 64
    with pytest.raises(metrics_logger.LossDiverged) as error:
        logger.report()
    assert error.value.images == 16
    logger.add(torch.tensor(bad), 16)
    with pytest.raises(metrics_logger.LossDiverged):
        logger.report()


def test_nothing_to_report_is_no_report(metered):
    run, _, logger, events = metered
    logger.report()
    logger.settle()
    assert losses(run) == [] and not events and not logger.is_copying()
