"""A loss is fetched without waiting for it, and nothing is saved before it has been seen."""

import pytest
import torch
from helpers import make_run, tiny_config

from bench.training import metrics_logger
from bench.training.checkpointing import TrainingState


class Event:
    """A GPU's event that comes when it is told to, or is waited for."""

    def __init__(self):
        self.here, self.waited = False, 0

    def query(self):
        return self.here

    def synchronize(self):
        self.waited += not self.here
        self.here = True


@pytest.fixture
def metered(tmp_path, monkeypatch):
    """(run, state, meter, the events of its fetches)."""
    config, events = tiny_config(), []
    run, state = make_run(tmp_path, config), TrainingState(net=None, ema=None, optimizer=None)

    def fetched(value):
        events.append(Event())
        return value, events[-1]

    monkeypatch.setattr(metrics_logger, "copy_to_host", fetched)
    return run, state, metrics_logger.MetricsLogger(run, config, state), events


def losses(run):
    return [(e["images"], e["loss"]) for e in run.events()[0] if e["event"] == "train"]


def test_a_loss_on_its_way_is_logged_once_it_is_there_with_what_was_seen_then(metered):
    run, state, own, events = metered
    for value in (1.0, 3.0):
        own.add(torch.tensor(value), 16)
        state.images += 16
    own.report(wait=False)
    assert losses(run) == [] and own.is_copying()
    own.add(torch.tensor(7.0), 16)
    state.images += 16
    events[0].here = True
    assert not own.is_copying()
    own.settle()
    assert losses(run) == [(32, 2.0)] and events[0].waited == 0
    own.report()
    assert losses(run) == [(32, 2.0), (48, 7.0)] and events[1].waited == 1


def test_a_report_waits_for_the_one_before_it(metered):
    run, state, own, events = metered
    for _ in range(3):
        own.add(torch.tensor(1.0), 16)
        state.images += 16
        own.report(wait=False)
    assert [images for images, _ in losses(run)] == [16, 32] and [e.waited for e in events] == [1, 1, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e6])
def test_a_loss_that_is_not_sane_is_told_of_when_it_arrives_and_before_anything_is_saved(metered, bad):
    _, state, own, _ = metered
    state.images = 16
    own.add(torch.tensor(bad), 16)
    own.report(wait=False)
    state.images = 64
    with pytest.raises(metrics_logger.LossDiverged) as error:
        own.report()
    assert error.value.images == 16
    own.add(torch.tensor(bad), 16)
    with pytest.raises(metrics_logger.LossDiverged):
        own.report()


def test_nothing_to_report_is_no_report(metered):
    run, _, own, events = metered
    own.report()
    own.settle()
    assert losses(run) == [] and not events and not own.is_copying()
