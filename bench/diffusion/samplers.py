"""Samplers by name, and classifier-free guidance.  diffusers' schedulers are used if they match published code.

A sampler turns noise into images with any network of the contract (architectures.interface).  Image i depends on
(seed, i) alone: each image has its own generator.

B batch, C channels, H W image size, S timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler
from torch import Tensor

from bench.config.schema import RunConfig
from bench.config.seeds import derive_seed
from bench.config.timestep_respacing import adm_timesteps
from bench.diffusion import dpm_solver
from bench.diffusion.gaussian_diffusion import GaussianDiffusion, clip_x0
from bench.diffusion.noise_schedules import VPSDE, betas, network_time, noise_levels, sigma

Net = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x, time, labels or None) -> output of the network."""
CountModel = Callable[[Tensor, float], Tensor]
"""(x, count) -> output of the network.  The count is 1..S, and fractional between timesteps."""
Generators = Sequence[torch.Generator]
GuidanceChannels = Literal["all", "three"]


def image_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """Return a CPU generator for each image, seeded from (seed, index of the image)."""
    return [torch.Generator().manual_seed(derive_seed(seed, "image", int(i))) for i in indices]


def guide(
    net: Net,
    scale: float,
    null: int,
    *,
    channels: GuidanceChannels = "all",
    is_active: Callable[[float], bool] | None = None,
) -> Net:
    """Apply classifier-free guidance, eps_null + scale (eps - eps_null), with both halves in one batch.

    Channels "three" is DiT's forward_with_cfg: only the first three noise channels are guided.  All other channels,
    including the variance, come from the conditional half.  Scale 1 returns the network itself.  `is_active` returns
    whether guidance acts at a network time (None: always).  Otherwise the conditional prediction is used, at half the
    cost.
    """
    if scale == 1.0:
        return net

    def guided_net(x_BCHW: Tensor, t_B: Tensor, labels_B: Tensor | None) -> Tensor:
        assert labels_B is not None, "guidance needs labels"
        if is_active is not None and not is_active(float(t_B[0])):
            return net(x_BCHW, t_B, labels_B)
        both_labels = torch.cat([labels_B, torch.full_like(labels_B, null)])
        out = net(x_BCHW.repeat(2, 1, 1, 1), t_B.repeat(2), both_labels)
        conditional, unconditional = out.chunk(2)
        c = min(x_BCHW.shape[1], 3) if channels == "three" else x_BCHW.shape[1]
        eps = unconditional[:, :c] + scale * (conditional[:, :c] - unconditional[:, :c])
        return torch.cat([eps, conditional[:, c:]], dim=1)

    return guided_net


def guide_from_config(net: Net, config: RunConfig, null: int) -> Net:
    """Apply the guidance of a configuration to a network; `null` is the label of the null class."""
    e, d = config.evaluation, config.diffusion
    if e.guidance_interval == (0.0, 1.0):
        return guide(net, e.guidance, null, channels=e.guidance_channels)
    counts = torch.tensor(e.guidance_interval, dtype=torch.float64) * d.steps
    low, high = network_time(d.time, counts, d.steps).tolist()
    slack = 1e-6 * d.steps

    def is_active(time: float) -> bool:
        return low - slack <= time <= high + slack

    return guide(net, e.guidance, null, channels=e.guidance_channels, is_active=is_active)


def make_respaced_scheduler(
    scheduler_class: type[Any], process: GaussianDiffusion, *, clip: bool, **options: Any
) -> Any:
    """Build diffusers' DDPM or DDIM scheduler of a respaced process, which counts its own timesteps S'-1..0.

    With our float64 coefficients both reproduce every published ancestral and DDIM step and loop within the goldens'
    tolerances.  diffusers' own coefficients are products of float32 betas.  With these, single ancestral steps near
    clean images are off by 5e-5 to 3e-4, above the tolerance in 9 of 12 cases.  In the first step of iDDPM's cosine
    schedule respaced from 4000 to 100, all are off by 70, at values up to 3,000.  diffusers' DDIM also steps back by a
    constant stride, which a respaced process need not have.  When it clips, it keeps the noise prediction; published
    code recomputes it (use_clipped_model_output).  `options` are further options of the scheduler.
    """
    options = dict(num_train_timesteps=process.steps, trained_betas=process.betas.numpy()) | options
    scheduler = scheduler_class(clip_sample=clip, timestep_spacing="leading", **options)
    scheduler.alphas_cumprod = process.exact["bar"]
    scheduler.one = scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(process.steps)
    return scheduler


def make_scheduler(config: RunConfig) -> tuple[Any, list[int]]:
    """Build diffusers' DDPM or DDIM scheduler with its timesteps set.

    Returns (scheduler, timesteps): scheduler timestep i is timestep `timesteps[i]` of the full process.  Spacing adm
    is the published respaced process; the others are diffusers' own.  ldm is leading shifted by one timestep, and ends
    at the noise level of the first timestep instead of the clean image.  With it diffusers reproduces LDM's sampler.
    """
    e, d = config.evaluation, config.diffusion
    scheduler_class: type[Any] = DDIMScheduler if e.sampler == "ddim" else DDPMScheduler
    variance: dict[str, Any] = {}
    if scheduler_class is DDPMScheduler:
        variance["variance_type"] = "learned_range" if d.variance == "learned_range" else "fixed_small"
    if e.spacing == "adm":
        indices = adm_timesteps(e.sampler, d.steps, e.steps)
        process = GaussianDiffusion(d.schedule, d.steps, indices=indices)
        return make_respaced_scheduler(scheduler_class, process, clip=e.clip, **variance), indices
    options = _scheduler_options(config) | variance
    if e.spacing == "ldm":
        options |= dict(timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)
    scheduler = scheduler_class(clip_sample=e.clip, prediction_type="epsilon", **options)
    scheduler.set_timesteps(e.steps)
    return scheduler, list(range(d.steps))


def _scheduler_options(config: RunConfig) -> dict[str, Any]:
    """Return the options that all of diffusers' schedulers take; spacing adm is set by `_set_timesteps` instead."""
    d, spacing = config.diffusion, config.evaluation.spacing
    options: dict[str, Any] = dict(num_train_timesteps=d.steps, trained_betas=betas(d.schedule, d.steps).numpy())
    return options if spacing == "adm" else options | dict(timestep_spacing=spacing)


def _set_timesteps(scheduler: Any, config: RunConfig, count: int) -> None:
    """Set `count` timesteps with the configured spacing, in a scheduler that takes a list of them."""
    if config.evaluation.spacing == "adm":
        timesteps = adm_timesteps(config.evaluation.sampler, config.diffusion.steps, count)[::-1]
        scheduler.set_timesteps(timesteps=timesteps)
    else:
        scheduler.set_timesteps(count)


def sample_ddpm_or_ddim(model: CountModel, config: RunConfig, x: Tensor, generators: Generators) -> Tensor:
    """Sample with ddpm (arXiv:2006.11239, Algorithm 2) or ddim (arXiv:2010.02502, equation 12)."""
    scheduler, timesteps = make_scheduler(config)
    e = config.evaluation
    options: dict[str, Any] = {}
    if e.sampler == "ddim":
        options = dict(eta=e.eta, use_clipped_model_output=e.spacing in ("adm", "ldm"))
    for t in scheduler.timesteps.tolist():
        out = model(x, timesteps[t] + 1)
        if e.sampler == "ddim":
            out = out[:, : x.shape[1]]
        x = scheduler.step(out, t, x, generator=generators, **options).prev_sample
    return x


def sample_dpm_multistep(model: CountModel, config: RunConfig, x: Tensor, generators: Generators) -> Tensor:
    """Sample with dpm++: diffusers' second-order multistep DPM-Solver++ (arXiv:2211.01095, Algorithm 2).

    The scheduler receives predictions of x_0, already clipped: its own clipping is dynamic thresholding.
    """
    d = config.diffusion
    options = _scheduler_options(config)
    scheduler = DPMSolverMultistepScheduler(solver_order=2, prediction_type="sample", **options)
    _set_timesteps(scheduler, config, config.evaluation.steps)
    process = GaussianDiffusion(d.schedule, d.steps, x.device)
    for t in scheduler.timesteps.tolist():
        eps = model(x, t + 1)[:, : x.shape[1]]
        x0 = process.pred_x0(eps, x, torch.full((len(x),), t, device=x.device))
        x = scheduler.step(clip_x0(x0) if config.evaluation.clip else x0, t, x).prev_sample
    return x


def sample_heun(model: CountModel, config: RunConfig, x: Tensor, generators: Generators) -> Tensor:
    """Sample with EDM's second-order solver (arXiv:2206.00364, Algorithm 1) over the noise levels of the schedule.

    diffusers' scheduler works on x / alpha, so x is scaled before the first step: the network first sees the noise.
    """
    scheduler = HeunDiscreteScheduler(clip_sample=config.evaluation.clip, **_scheduler_options(config))
    _set_timesteps(scheduler, config, (config.evaluation.steps + 1) // 2)
    x = x * (scheduler.sigmas[0] ** 2 + 1).sqrt()
    for t in scheduler.timesteps:
        eps = model(scheduler.scale_model_input(x, t), t.item() + 1)[:, : x.shape[1]]
        x = scheduler.step(eps, t, x).prev_sample
    return x


def noise_predictor(model: CountModel, config: RunConfig) -> dpm_solver.NoisePredictor:
    """Return a function (x, t) -> noise at continuous t; with `clip`, from the clipped prediction of x_0."""
    d = config.diffusion
    levels = noise_levels(d.schedule, d.steps)

    def predict_noise(x: Tensor, t: Tensor) -> Tensor:
        eps = model(x, t.item() * d.steps)[:, : x.shape[1]]
        if not config.evaluation.clip:
            return eps
        log_alpha = levels.log_alpha(t)
        x0 = clip_x0(dpm_solver.pred_x0(eps, x, log_alpha))
        return (x - log_alpha.exp().item() * x0) / sigma(log_alpha).item()

    return predict_noise


def sample_dpm_fast(model: CountModel, config: RunConfig, x: Tensor, generators: Generators) -> Tensor:
    """Sample with U-ViT's DPM-Solver (see dpm_solver.dpm_fast), as its two sampling scripts configure it.

    Discrete schedules: prediction of x_0, uniform times.  vp: prediction of the noise, uniform log SNR.
    """
    d = config.diffusion
    options: dict[str, Any] = dict(data=True, spacing="time", end=1e-3)
    if d.schedule == "vp":
        options = dict(data=False, spacing="snr", end=1e-4)
    levels = noise_levels(d.schedule, d.steps)
    return dpm_solver.dpm_fast(noise_predictor(model, config), levels, x, config.evaluation.steps, **options)


def sample_euler_sde(model: CountModel, config: RunConfig, x: Tensor, generators: Generators) -> Tensor:
    """Sample the reverse SDE with U-ViT's Euler-Maruyama solver (see dpm_solver.euler_maruyama)."""

    def draw() -> Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators]).to(x.device)

    return dpm_solver.euler_maruyama(noise_predictor(model, config), VPSDE(), x, config.evaluation.steps, draw)


SAMPLERS: Mapping[str, Callable[[CountModel, RunConfig, Tensor, Generators], Tensor]] = {
    "ddpm": sample_ddpm_or_ddim,
    "ddim": sample_ddpm_or_ddim,
    "dpm++": sample_dpm_multistep,
    "heun": sample_heun,
    "dpm-fast": sample_dpm_fast,
    "euler-sde": sample_euler_sde,
}


def sample_images(
    net: Net,
    config: RunConfig,
    shape: tuple[int, int, int],
    indices: Sequence[int],
    labels: Tensor | None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Sample the images with these indices, (B, C, H, W) float32 near [-1, 1], on `device`.

    `shape` is (C, H, W); `labels` is (B,) int64 or None; guidance is already applied to `net` (`guide_from_config`).
    """
    generators = image_generators(config.evaluation.seed, indices)
    x = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)
    d = config.diffusion

    def model(x: Tensor, count: float) -> Tensor:
        time = network_time(d.time, torch.tensor(count, dtype=torch.float64), d.steps).item()
        return net(x, torch.full((len(x),), time, device=device), labels)

    return SAMPLERS[config.evaluation.sampler](model, config, x, generators)
