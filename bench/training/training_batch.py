"""Draw the batch of a training step as a function of (seed, step)."""

from __future__ import annotations

import torch

from bench.config.schema import RunConfig
from bench.config.seeds import derive_seed
from bench.data.dataset import Dataset
from bench.data.prefetch import Batch
from bench.diffusion.gaussian_diffusion import draw_timesteps


def draw_batch(
    config: RunConfig, arrays: Dataset, null: int, step: int, images: int, size: int, own: slice = slice(None)
) -> Batch:
    """(x0, t, eps, labels) of a step, or its rows `own`, on the CPU, from (seed, step) alone.

    `images` were seen before it; `null` replaces the labels that are dropped.
    """
    arrays.check_files()
    rows = arrays.stream_rows(config.seed, images, size)
    x0 = torch.from_numpy(arrays.model_inputs(rows, derive_seed(config.seed, "data", step), own))
    labels = torch.from_numpy(arrays.labels[rows[own]])
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "step", step))
    t = draw_timesteps(config.diffusion, size, generator)
    eps = torch.randn((size, *x0.shape[1:]), generator=generator)
    drop = torch.rand(size, generator=generator) < config.recipe.label_drop
    return x0, t[own], eps[own], torch.where(drop[own], null, labels)
