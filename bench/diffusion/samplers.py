"""Samplers by name, on diffusers' schedulers where those compute the published functions, and guidance.

A sampler turns noise into images with any network of the contract.  Image i depends on (seed, i)
alone: its noise is drawn from a generator of its own.
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
CountModel = Callable[[Tensor, float], Tensor]
"""(x, count 1..S, real between grid points) -> the network's output."""
Generators = Sequence[torch.Generator]
GuidanceChannels = Literal["all", "three"]


def image_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator an image, seeded from (seed, image number)."""
    return [torch.Generator().manual_seed(derive_seed(seed, "image", int(i))) for i in indices]


def guide(
    net: Net,
    scale: float,
    null: int,
    *,
    channels: GuidanceChannels = "all",
    acts: Callable[[float], bool] | None = None,
) -> Net:
    """Classifier-free guidance eps_null + scale (eps - eps_null), both halves in one batch.

    With channels "three" it is DiT's guided forward: only the first three noise channels are guided.
    All others, the variance's too, are as the conditional half predicted them.  Scale 1 gives the
    network itself.  `acts` says for a network time whether guidance acts (None: always);
    elsewhere the conditional prediction is taken, at half the cost.
    """
    if scale == 1.0:
        return net

    def both(x_BCHW: Tensor, t_B: Tensor, cond: Tensor | None) -> Tensor:
        assert cond is not None, "guidance needs labels"
        if acts is not None and not acts(float(t_B[0])):
            return net(x_BCHW, t_B, cond)
        out = net(x_BCHW.repeat(2, 1, 1, 1), t_B.repeat(2), torch.cat([cond, torch.full_like(cond, null)]))
        with_label, without = out.chunk(2)
        c = min(x_BCHW.shape[1], 3) if channels == "three" else x_BCHW.shape[1]
        eps = without[:, :c] + scale * (with_label[:, :c] - without[:, :c])
        return torch.cat([eps, with_label[:, c:]], dim=1)

    return both


def guide_from_config(net: Net, config: RunConfig, null: int) -> Net:
    """The network under the guidance of a configuration."""
    e, d = config.evaluation, config.diffusion
    if e.guidance_interval == (0.0, 1.0):
        return guide(net, e.guidance, null, channels=e.guidance_channels)
    counts = torch.tensor(e.guidance_interval, dtype=torch.float64) * d.steps
    low, high = network_time(d.time, counts, d.steps).tolist()
    slack = 1e-6 * d.steps
    return guide(
        net, e.guidance, null, channels=e.guidance_channels, acts=lambda time: low - slack <= time <= high + slack
    )


def make_respaced_scheduler(
    kind: type[Any], process: GaussianDiffusion, *, clip: bool, variance: str = "fixed_small", predicts: str = "epsilon"
) -> Any:
    """diffusers' DDPM or DDIM scheduler of a respaced process, which counts its own timesteps S'-1..0.

    Given our float64 tables, both reproduce every published ancestral and DDIM step and loop at the
    goldens' tolerances.  Their own are products of float32 betas: single ancestral steps near clean
    images then miss by 5e-5 to 3e-4, which is over the tolerance in 9 of 12 cases, and in the first
    step of iDDPM's cosine schedule respaced from 4000 to 100 all are 70 away, of values up to 3,000.
    Also, their DDIM steps back by a constant stride, which a respaced process need not have, and
    keeps the noise prediction when it clips; the published one derives it again
    (use_clipped_model_output).
    """
    options: dict[str, Any] = dict(num_train_timesteps=process.steps, trained_betas=process.betas.numpy())
    if kind is DDPMScheduler:
        options |= dict(variance_type=variance)
    made = kind(clip_sample=clip, prediction_type=predicts, timestep_spacing="leading", **options)
    made.alphas_cumprod = process.exact["bar"]
    made.one = made.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    made.set_timesteps(process.steps)
    return made


def make_scheduler(config: RunConfig) -> tuple[Any, list[int]]:
    """(diffusers' DDPM or DDIM scheduler with its timesteps set, timestep of the whole process of each of its).

    Spacing adm is the published respaced process.  The others are diffusers' own, as it has them.  ldm is
    leading, one later, and ends at the first timestep's noise level instead of at the clean image:
    with that, diffusers reproduces LDM's sampler.
    """
    e, d = config.evaluation, config.diffusion
    kind = DDIMScheduler if e.sampler == "ddim" else DDPMScheduler
    variance = "learned_range" if d.variance == "learned_range" else "fixed_small"
    if e.spacing == "adm":
        indices = adm_timesteps(e.sampler, d.steps, e.steps)
        return make_respaced_scheduler(
            kind, GaussianDiffusion(d.schedule, d.steps, indices=indices), clip=e.clip, variance=variance
        ), indices
    options = _options(config)
    if e.spacing == "ldm":
        options |= dict(timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)
    if kind is DDPMScheduler:
        options |= dict(variance_type=variance)
    made = kind(clip_sample=e.clip, prediction_type="epsilon", **options)
    made.set_timesteps(e.steps)
    return made, list(range(d.steps))


def _options(config: RunConfig) -> dict[str, Any]:
    d = config.diffusion
    return dict(
        num_train_timesteps=d.steps,
        trained_betas=betas(d.schedule, d.steps).numpy(),
        timestep_spacing=config.evaluation.spacing,
    )


def _set_timesteps(made: Any, config: RunConfig, count: int) -> None:
    """`count` timesteps by the configured spacing, in a scheduler that takes a list of them."""
    if config.evaluation.spacing == "adm":
        made.set_timesteps(timesteps=adm_timesteps(config.evaluation.sampler, config.diffusion.steps, count)[::-1])
    else:
        made.set_timesteps(count)


def sample_ddpm_or_ddim(model: CountModel, config: RunConfig, x: Tensor, own: Generators) -> Tensor:
    """ddpm (arXiv:2006.11239, Algorithm 2) and ddim (arXiv:2010.02502, equation 12)."""
    made, indices = make_scheduler(config)
    e, more = config.evaluation, {}
    if e.sampler == "ddim":
        more = dict(eta=e.eta, use_clipped_model_output=e.spacing in ("adm", "ldm"))
    for t in made.timesteps.tolist():
        out = model(x, indices[t] + 1)
        if e.sampler == "ddim":
            out = out[:, : x.shape[1]]
        x = made.step(out, t, x, generator=own, **more).prev_sample
    return x


def sample_dpm_multistep(model: CountModel, config: RunConfig, x: Tensor, own: Generators) -> Tensor:
    """dpm++: second-order multistep DPM-Solver++ (arXiv:2211.01095, Algorithm 2), diffusers' as it is.

    It is given clean images, because it clips only by quantiles of a whole batch.
    """
    d = config.diffusion
    options = {k: v for k, v in _options(config).items() if k != "timestep_spacing" or v != "adm"}
    made = DPMSolverMultistepScheduler(solver_order=2, prediction_type="sample", **options)
    _set_timesteps(made, config, config.evaluation.steps)
    process = GaussianDiffusion(d.schedule, d.steps, x.device)
    for t in made.timesteps.tolist():
        eps = model(x, t + 1)[:, : x.shape[1]]
        clean = process.clean(eps, x, torch.full((len(x),), t, device=x.device))
        x = made.step(clip_x0(clean) if config.evaluation.clip else clean, t, x).prev_sample
    return x


def sample_heun(model: CountModel, config: RunConfig, x: Tensor, own: Generators) -> Tensor:
    """EDM's second-order sampler (arXiv:2206.00364, Algorithm 1) over the schedule's noise levels.

    diffusers' as it is, in its coordinates x / alpha, started so that the network first sees x itself.
    """
    options = {k: v for k, v in _options(config).items() if k != "timestep_spacing" or v != "adm"}
    made = HeunDiscreteScheduler(clip_sample=config.evaluation.clip, **options)
    _set_timesteps(made, config, (config.evaluation.steps + 1) // 2)
    x = x * (made.sigmas[0] ** 2 + 1).sqrt()
    for t in made.timesteps:
        eps = model(made.scale_model_input(x, t), t.item() + 1)[:, : x.shape[1]]
        x = made.step(eps, t, x).prev_sample
    return x


def _noise(model: CountModel, config: RunConfig) -> dpm_solver.NoisePredictor:
    """The noise prediction at continuous times, of the clipped clean image where that is asked for."""
    d = config.diffusion
    along = noise_levels(d.schedule, d.steps)

    def noise(x: Tensor, t: Tensor) -> Tensor:
        eps = model(x, t.item() * d.steps)[:, : x.shape[1]]
        if not config.evaluation.clip:
            return eps
        log_alpha = along.log_alpha(t)
        x0 = clip_x0(dpm_solver.pred_x0(eps, x, log_alpha))
        return (x - log_alpha.exp().item() * x0) / sigma(log_alpha).item()

    return noise


def sample_dpm_fast(model: CountModel, config: RunConfig, x: Tensor, own: Generators) -> Tensor:
    """U-ViT's DPM-Solver: data prediction over uniform times for discrete schedules, noise prediction over
    uniform log SNR for vp, as its two sampling scripts set them (see solvers.dpm_fast)."""
    d = config.diffusion
    way: dict[str, Any] = dict(data=True, spacing="time", end=1e-3)
    if d.schedule == "vp":
        way = dict(data=False, spacing="snr", end=1e-4)
    return dpm_solver.dpm_fast(
        _noise(model, config), noise_levels(d.schedule, d.steps), x, config.evaluation.steps, **way
    )


def sample_euler_sde(model: CountModel, config: RunConfig, x: Tensor, own: Generators) -> Tensor:
    """U-ViT's Euler-Maruyama sampler of the reverse SDE (see solvers.euler_maruyama)."""

    def draw() -> Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=g) for g in own]).to(x.device)

    return dpm_solver.euler_maruyama(_noise(model, config), VPSDE(), x, config.evaluation.steps, draw)


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
    """Images number `indices`, (B, C, H, W) float32 near [-1, 1], on `device`.

    `shape` is (C, H, W); `labels` (B,) int64 or None; `net` already carries its guidance.
    """
    own = image_generators(config.evaluation.seed, indices)
    x = torch.stack([torch.randn(shape, generator=g) for g in own]).to(device)
    d = config.diffusion

    def model(x: Tensor, count: float) -> Tensor:
        time = network_time(d.time, torch.tensor(count, dtype=torch.float64), d.steps).item()
        return net(x, torch.full((len(x),), time, device=device), labels)

    return SAMPLERS[config.evaluation.sampler](model, config, x, own)
