"""Draw the batch of a training step as a function of (seed, step)."""

from __future__ import annotations

import torch

from bench.config.schema import RunConfig
from bench.config.seeds import derive_seed
from bench.data.dataset import Dataset
from bench.data.prefetch import Batch
from bench.diffusion.gaussian_diffusion import draw_timesteps


def draw_batch(
    config: RunConfig, dataset: Dataset, null_class: int, step: int, images: int, size: int, rows: slice = slice(None)
) -> Batch:
    """Draw x0 (B, C, H, W), t (B,), eps (B, C, H, W) and labels (B,) of a step on the CPU, from (seed, step) alone.

    Args:
        null_class: replaces each label with probability recipe.label_drop.
        images: images trained on before this step.
        size: global batch size.
        rows: rows of the batch to return, for example a rank's.
    """
    dataset.check_files()
    indices = dataset.stream_rows(config.seed, images, size)
    x0 = torch.from_numpy(dataset.model_inputs(indices, derive_seed(config.seed, "data", step), rows))
    labels = torch.from_numpy(dataset.labels[indices[rows]])
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "step", step))
    t = draw_timesteps(config.diffusion, size, generator)
    eps = torch.randn((size, *x0.shape[1:]), generator=generator)
    drop = torch.rand(size, generator=generator) < config.recipe.label_drop
    return x0, t[rows], eps[rows], torch.where(drop[rows], null_class, labels)
