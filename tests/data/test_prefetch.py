"""Test the order, values, errors, threads and memory of PrefetchLoader."""

import threading
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data.dataset import Dataset
from bench.data.prefetch import PrefetchLoader
from bench.experiments import presets
from bench.training import training_batch


@pytest.fixture
def threads_before():
    return set(threading.enumerate())


def slow_and_uneven(step, images, size):
    time.sleep(0.004 * (step % 3))
    return (torch.full((size,), step * 1000 + images),)


STEPS = [(step, step * 5, 5) for step in range(20)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_the_order_of_their_steps(workers):
    with PrefetchLoader(slow_and_uneven, STEPS, workers) as batches:
        drawn = [batch for (batch,) in batches]
    assert [b.tolist() for b in drawn] == [slow_and_uneven(*step)[0].tolist() for step in STEPS]


@pytest.mark.parametrize("share", [slice(None), slice(3, 9)], ids=["whole", "share"])
def test_threads_draw_the_same_batches_as_the_trainer(digits, share):
    config = presets.compose_config(presets.RunRequest(data="digits"))
    steps = [(step, step * 16, 16) for step in range(12)]

    def draw(step, images, size):
        return training_batch.draw_batch(config, digits, 10, step, images, size, share)

    with PrefetchLoader(draw, steps, 4) as batches:
        for batch, step in zip(batches, steps, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, draw(*step), strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_at_its_step_and_not_before(workers):
    def draw(step, images, size):
        if step == 3:
            raise ValueError("x.npy is damaged")
        return (torch.tensor(step),)

    with PrefetchLoader(draw, STEPS, workers) as batches:
        assert [next(batches)[0].item() for _ in range(3)] == [0, 1, 2]
        time.sleep(0.05)
        with pytest.raises(ValueError, match=r"x\.npy is damaged"):
            next(batches)


@pytest.mark.parametrize("how", ["to the end", "left", "raised", "never asked"])
def test_no_thread_is_left(how, threads_before):
    def use(batches):
        for i, _ in enumerate(batches):
            if how == "left" and i == 2:
                return
            if how == "raised" and i == 2:
                raise KeyboardInterrupt

    try:
        with PrefetchLoader(slow_and_uneven, STEPS, 3) as batches:
            if how != "never asked":
                use(batches)
    except KeyboardInterrupt:
        assert how == "raised"
    assert set(threading.enumerate()) == threads_before


def test_only_a_few_batches_are_drawn_ahead():
    drawn = []

    def draw(step, images, size):
        drawn.append(step)
        return (torch.tensor(step),)

    with PrefetchLoader(draw, ((i, 0, 1) for i in count()), 3) as batches:
        for _ in range(10):
            next(batches)
        time.sleep(0.05)
        assert len(drawn) <= 10 + 4


def test_a_closed_loader_has_no_more_batches():
    batches = PrefetchLoader(slow_and_uneven, STEPS, 2)
    next(batches)
    batches.close()
    assert list(batches) == []


def test_memory_does_not_grow_over_epochs():
    resident = []
    images = np.zeros((512, 3, 32, 32), np.uint8)
    arrays = Dataset(images=images, labels=np.zeros(512, np.int64), reference=images, flip=True)
    config = presets.compose_config(presets.RunRequest(data="digits"))

    def draw(step, images, size):
        return training_batch.draw_batch(config, arrays, 10, step, images, size)

    with PrefetchLoader(draw, ((i, i * 64, 64) for i in range(8 * 60)), 2) as batches:
        for i, _ in enumerate(batches):
            if i % 8 == 7:  # an epoch
                resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
    assert max(resident[30:]) - resident[10] < 8 * 2**20  # a batch is 1.6 MiB, an epoch 12


def test_a_negative_number_of_threads_is_refused():
    with pytest.raises(ValueError, match="at least 0"):
        PrefetchLoader(slow_and_uneven, STEPS, -1)


@pytest.mark.gpu
def test_on_a_gpu_batches_lie_in_page_locked_memory():
    with PrefetchLoader(slow_and_uneven, STEPS, 2, pin=True) as batches:
        assert all(z.is_pinned() for batch in batches for z in batch)
