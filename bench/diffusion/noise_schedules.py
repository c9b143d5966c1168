"""Noise schedules: betas, continuous times, kept timesteps, and the time value a network is given.

Discrete schedules have S betas.  Index i is 0..S-1; count n = i + 1 is 1..S, and count 0 is the clean
image; continuous time is t = n / S.  bar is the cumulative product of 1 - beta, so that
x_t = sqrt(bar) x_0 + sqrt(1 - bar) eps (DDPM, arXiv:2006.11239, equation 4), lambda = log(alpha / sigma)
half of the log signal-to-noise ratio with alpha = sqrt(bar) and sigma = sqrt(1 - bar).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

BETA_RANGES = {"sqrt_linear": (0.00085, 0.012), "ldm": (0.0015, 0.0195)}
"""First and last beta of the schedules that are linear in the root: Stable Diffusion's, LDM's on ImageNet."""

VP_RATES = (0.1, 20.0)
"""Rates of the variance-preserving SDE at t = 0 and t = 1 (arXiv:2011.13456, Appendix C; U-ViT)."""


def betas(schedule: str, steps: int) -> Tensor:
    """Noise schedule, (S,) float64.

    linear: 1e-4..0.02 at 1000 steps, scaled by 1000 / steps (DDPM Section 4);
    cosine: iDDPM (arXiv:2102.09672) equation 17, betas capped at 0.999;
    sqrt_linear: 0.00085..0.012, linear in the square root (Stable Diffusion, U-ViT-H);
    ldm: 0.0015..0.0195, linear in the square root (LDM's ImageNet models);
    vp: the continuous process of `VP` seen at t = 1/S, 2/S, .., 1.
    """
    if schedule == "linear":
        scale = 1000 / steps
        return torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64).clamp(max=0.999)
    if schedule == "cosine":
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    if schedule in BETA_RANGES:
        return root_linear(*BETA_RANGES[schedule], steps)
    if schedule == "vp":
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        return -torch.expm1(2 * VPSDE().log_alpha(t).diff())
    raise ValueError(f"schedule is {schedule!r}; choose linear, cosine, sqrt_linear, ldm or vp")


def root_linear(first: float, last: float, steps: int) -> Tensor:
    """Betas whose square roots are equally spaced, (S,) float64: what LDM calls linear and ADM quad."""
    return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2


def transition(beta_S: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(signal, noise) variances of q(x_t | x_s) by counts 0..S; (1, 0) where t <= s.

    The signal is U-ViT's skip_alphas[s, t], the noise its skip_betas[s, t] = 1 - signal.
    """
    log_bar = torch.cat([torch.zeros(1, dtype=beta_S.dtype), torch.log1p(-beta_S).cumsum(0)])
    log = torch.where(t > s, log_bar[t] - log_bar[s], torch.zeros((), dtype=beta_S.dtype))
    return log.exp(), -torch.expm1(log)


def posterior_variance(beta_S: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """Variance of q(x_s | x_t, x_0) by counts s < t (DDPM equation 7 for s = t - 1)."""
    zero = torch.zeros_like(s)
    return transition(beta_S, s, t)[1] * transition(beta_S, zero, s)[1] / transition(beta_S, zero, t)[1]


def respace_betas(beta_S: Tensor, indices: Sequence[int]) -> Tensor:
    """Betas of the process that visits only `indices`, whose marginals are those of the whole one."""
    if len(indices) == len(beta_S):
        return beta_S
    bar = torch.cumprod(1 - beta_S, dim=0)[list(indices)]
    return 1 - bar / torch.cat([torch.ones(1, dtype=bar.dtype), bar[:-1]])


def network_time(time: str, count: Tensor, steps: int) -> Tensor:
    """The time value a network is given at counts 1..S (real ones between grid points too).

    index: count - 1 (DiT, ADM, LDM); count: 1..S (U-ViT's discrete models); continuous: 999 t
    (U-ViT's continuous models); rescaled: 1000 (count - 1) / S (iDDPM's and ADM's option).
    """
    if time == "continuous":
        return 999 * (count / steps)
    shifted = count if time == "count" else count - 1
    return shifted * (1000 / steps) if time == "rescaled" else shifted


class NoiseLevels(Protocol):
    """Noise levels over continuous time t in [0, 1]."""

    def log_alpha(self, t: Tensor) -> Tensor:
        """log sqrt(bar) at t."""

    def inverse(self, half_log_snr: Tensor) -> Tensor:
        """The t at which lambda has a value."""


def sigma(log_alpha: Tensor) -> Tensor:
    """sqrt(1 - alpha^2)."""
    return (-torch.expm1(2 * log_alpha)).sqrt()


def half_log_snr(log_alpha: Tensor) -> Tensor:
    """lambda = log(alpha / sigma)."""
    return log_alpha - 0.5 * torch.log(-torch.expm1(2 * log_alpha))


class VPSDE:
    """The variance-preserving SDE dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw with a linear beta(t)."""

    def __init__(self, first: float = VP_RATES[0], last: float = VP_RATES[1]) -> None:
        self.first, self.last = first, last

    def rate(self, t: Tensor) -> Tensor:
        """beta(t), the squared diffusion coefficient."""
        return self.first + t * (self.last - self.first)

    def drift(self, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        return -0.5 * self.rate(t_B).view(-1, *[1] * (x_BCHW.dim() - 1)) * x_BCHW

    def log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * t**2 * (self.last - self.first) - 0.5 * t * self.first

    def inverse(self, half_log_snr: Tensor) -> Tensor:
        """Root of the quadratic in t, in the form that loses no digits near t = 0."""
        integral = 2 * torch.logaddexp(-2 * half_log_snr, torch.zeros((), dtype=half_log_snr.dtype))
        slope = self.last - self.first
        return integral / ((self.first**2 + slope * integral).sqrt() + self.first)


class InterpolatedLevels:
    """A discrete schedule read at any t: log alpha is linear between t = 1/S, 2/S, .., 1 and beyond them."""

    def __init__(self, beta_S: Tensor) -> None:
        self.logs = 0.5 * torch.log1p(-beta_S).cumsum(0)
        self.times = torch.arange(1, len(beta_S) + 1, dtype=torch.float64) / len(beta_S)

    def log_alpha(self, t: Tensor) -> Tensor:
        return _interpolate(t, self.times, self.logs)

    def inverse(self, half_log_snr: Tensor) -> Tensor:
        log_alpha = -0.5 * torch.logaddexp(torch.zeros((), dtype=half_log_snr.dtype), -2 * half_log_snr)
        return _interpolate(log_alpha, self.logs.flip(0), self.times.flip(0))


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear through ascending (xs, ys), the end pieces extended; in double precision."""
    wide = x.double()
    i = torch.searchsorted(xs, wide).clamp(1, len(xs) - 1)
    weight = (wide - xs[i - 1]) / (xs[i] - xs[i - 1])
    return (ys[i - 1] + weight * (ys[i] - ys[i - 1])).to(x.dtype)


def noise_levels(schedule: str, steps: int) -> NoiseLevels:
    """Noise levels over continuous time of a schedule by name."""
    return VPSDE() if schedule == "vp" else InterpolatedLevels(betas(schedule, steps))
