"""Samplers by name, on diffusers' schedulers, and guidance.

A sampler turns noise into images with any network of the contract.  Image i depends on (seed, i)
alone: its noise is drawn from a generator of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from .config import RunConfig
from .diffusion import betas
from .seeds import fold

Net = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator an image, seeded from (seed, image number)."""
    return [torch.Generator().manual_seed(fold(seed, "image", int(i))) for i in indices]


def guided(net: Net, scale: float, null: int) -> Net:
    """Classifier-free guidance on all channels: eps_null + scale (eps - eps_null), in one batch.

    The variance channels, if any, are the conditional ones.  Scale 1 gives the network itself.
    """
    if scale == 1.0:
        return net

    def both(x_BCHW: Tensor, t_B: Tensor, cond: Tensor | None) -> Tensor:
        assert cond is not None, "guidance needs labels"
        out = net(x_BCHW.repeat(2, 1, 1, 1), t_B.repeat(2), torch.cat([cond, torch.full_like(cond, null)]))
        with_label, without = out.chunk(2)
        c = x_BCHW.shape[1]
        eps = without[:, :c] + scale * (with_label[:, :c] - without[:, :c])
        return torch.cat([eps, with_label[:, c:]], dim=1)

    return both


def scheduler(config: RunConfig) -> Any:
    """diffusers' scheduler of the config, with our betas, its timesteps set."""
    e, d = config.evaluation, config.diffusion
    common: dict[str, Any] = dict(
        num_train_timesteps=d.steps,
        trained_betas=betas(d.schedule, d.steps).numpy(),
        clip_sample=e.clip,
        timestep_spacing=e.spacing,
        prediction_type="epsilon",
    )
    if e.sampler == "ddim":
        made = DDIMScheduler(**common)
    else:
        made = DDPMScheduler(
            variance_type="learned_range" if d.variance == "learned_range" else "fixed_small", **common
        )
    made.set_timesteps(e.steps)
    return made


def sample(
    net: Net,
    config: RunConfig,
    shape: tuple[int, int, int],
    indices: Sequence[int],
    labels: Tensor | None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Images number `indices`, (B, C, H, W) float32 near [-1, 1], on `device`.

    `shape` is (C, H, W); `labels` (B,) int64 or None; `net` already carries its guidance.
    """
    own = generators(config.evaluation.seed, indices)
    x = torch.stack([torch.randn(shape, generator=g) for g in own]).to(device)
    made = scheduler(config)
    for t in made.timesteps.tolist():
        out = net(x, torch.full((len(x),), float(t), device=device), labels)
        if config.evaluation.sampler == "ddim":
            out = out[:, : shape[0]]
        x = made.step(out, t, x, generator=own if config.evaluation.sampler == "ddpm" else None).prev_sample
    return x
