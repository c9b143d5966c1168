"""Measure the throughput of the loader alone."""

from __future__ import annotations

import itertools
import time

import torch

from bench.config.schema import RunConfig
from bench.data.dataset import Dataset
from bench.data.prefetch import PrefetchLoader
from bench.training.training_batch import draw_batch

WARM_UP_SECONDS = 0.5
"""Seconds of warm-up, in which threads start and files are read into memory."""


def loader_throughput(config: RunConfig, dataset: Dataset, seconds: float, workers: int) -> float:
    """Images per second of the loader alone at the recipe's batch, measured for at least `seconds`."""
    size = config.recipe.batch
    steps = ((i, i * size, size) for i in itertools.count())
    count, began = 0, time.perf_counter()
    with PrefetchLoader(
        lambda *step: draw_batch(config, dataset, 0, *step), steps, workers, torch.cuda.is_available()
    ) as loader:
        for _ in loader:
            now = time.perf_counter()
            if not count and now - began >= WARM_UP_SECONDS:
                count, began = 1, now  # earlier batches belong to the warm-up
            elif count:
                count += 1
                if now - began >= seconds:
                    break
    return (count - 1) * size / (now - began)
