"""Noise schedules: betas, continuous noise levels, respaced betas, and the time input of a network.

A discrete schedule has S betas.  Index i is 0..S-1; count n = i + 1 is 1..S, and count 0 is the clean image;
continuous time is t = n / S.  bar is the cumulative product of 1 - beta, so that
x_t = sqrt(bar) x_0 + sqrt(1 - bar) eps (DDPM, arXiv:2006.11239, equation 4).  With alpha = sqrt(bar) and
sigma = sqrt(1 - bar), lambda = log(alpha / sigma) is half of the log signal-to-noise ratio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

BETA_RANGES = {"sqrt_linear": (0.00085, 0.012), "ldm": (0.0015, 0.0195)}
"""First and last beta of schedules that are linear in the square root: Stable Diffusion's, and LDM's on ImageNet."""

VP_RATES = (0.1, 20.0)
"""beta(0) and beta(1) of the variance-preserving SDE (arXiv:2011.13456, Appendix C; U-ViT)."""

MAX_BETA = 0.999
"""Upper limit of the betas of linear and cosine (iDDPM, arXiv:2102.09672, Section 3.2)."""


def betas(schedule: str, steps: int) -> Tensor:
    """Return the betas of a schedule, (S,) float64.

    linear: 1e-4..0.02 at 1000 steps, scaled by 1000 / steps (DDPM Section 4);
    cosine: iDDPM equation 17;
    sqrt_linear: 0.00085..0.012, linear in the square root (Stable Diffusion, U-ViT-H);
    ldm: 0.0015..0.0195, linear in the square root (LDM's ImageNet models);
    vp: the continuous process `VPSDE` at t = 1/S, 2/S, .., 1.
    """
    if schedule == "linear":
        scale = 1000 / steps
        return torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64).clamp(max=MAX_BETA)
    if schedule == "cosine":
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - bar[1:] / bar[:-1]).clamp(max=MAX_BETA)
    if schedule in BETA_RANGES:
        return root_linear(*BETA_RANGES[schedule], steps)
    if schedule == "vp":
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        return -torch.expm1(2 * VPSDE().log_alpha(t).diff())
    raise ValueError(f"schedule is {schedule!r}; choose linear, cosine, sqrt_linear, ldm or vp")


def root_linear(first: float, last: float, steps: int) -> Tensor:
    """Return betas whose square roots are equally spaced, (S,) float64; LDM calls them linear, ADM quad."""
    return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2


def respace_betas(beta_S: Tensor, indices: Sequence[int]) -> Tensor:
    """Return the betas of the process that visits only `indices`, with the same marginals (iDDPM Section 4)."""
    if len(indices) == len(beta_S):
        return beta_S
    bar = torch.cumprod(1 - beta_S, dim=0)[list(indices)]
    return 1 - bar / torch.cat([torch.ones(1, dtype=bar.dtype), bar[:-1]])


def network_time(time: str, count: Tensor, steps: int) -> Tensor:
    """Convert counts 1..S, which may be fractional, to the time input of a network.

    index: count - 1 (DiT, ADM, LDM); count: 1..S (U-ViT's discrete models); continuous: 999 t
    (U-ViT's continuous models); rescaled: 1000 (count - 1) / S (an option of iDDPM and ADM).
    """
    if time == "continuous":
        return 999 * (count / steps)
    shifted = count if time == "count" else count - 1
    return shifted * (1000 / steps) if time == "rescaled" else shifted


class NoiseLevels(Protocol):
    """Noise levels over continuous time t in [0, 1]."""

    def log_alpha(self, t: Tensor) -> Tensor:
        """Return log alpha at t."""

    def inverse(self, half_log_snr: Tensor) -> Tensor:
        """Return the t at which lambda has these values."""


def sigma(log_alpha: Tensor) -> Tensor:
    """Return sqrt(1 - alpha^2)."""
    return (-torch.expm1(2 * log_alpha)).sqrt()


def half_log_snr(log_alpha: Tensor) -> Tensor:
    """Return lambda = log(alpha / sigma)."""
    return log_alpha - 0.5 * torch.log(-torch.expm1(2 * log_alpha))


class VPSDE:
    """The variance-preserving SDE dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw with a linear beta(t)."""

    def __init__(self, first: float = VP_RATES[0], last: float = VP_RATES[1]) -> None:
        self.first, self.last = first, last

    def beta(self, t: Tensor) -> Tensor:
        """Return beta(t), the squared diffusion coefficient."""
        return self.first + t * (self.last - self.first)

    def log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * t**2 * (self.last - self.first) - 0.5 * t * self.first

    def inverse(self, half_log_snr: Tensor) -> Tensor:
        """Solve the quadratic equation in t, in the form without cancellation near t = 0."""
        integral = 2 * torch.logaddexp(-2 * half_log_snr, torch.zeros((), dtype=half_log_snr.dtype))
        slope = self.last - self.first
        return integral / ((self.first**2 + slope * integral).sqrt() + self.first)


class InterpolatedLevels:
    """A discrete schedule at continuous t: log alpha is piecewise linear through t = 1/S, .., 1, and extrapolated."""

    def __init__(self, beta_S: Tensor) -> None:
        self.log_alphas = 0.5 * torch.log1p(-beta_S).cumsum(0)
        self.times = torch.arange(1, len(beta_S) + 1, dtype=torch.float64) / len(beta_S)

    def log_alpha(self, t: Tensor) -> Tensor:
        return _interpolate(t, self.times, self.log_alphas)

    def inverse(self, half_log_snr: Tensor) -> Tensor:
        log_alpha = -0.5 * torch.logaddexp(torch.zeros((), dtype=half_log_snr.dtype), -2 * half_log_snr)
        return _interpolate(log_alpha, self.log_alphas.flip(0), self.times.flip(0))


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Interpolate linearly through ascending (xs, ys) in double precision; extrapolate from the end pieces."""
    x_double = x.double()
    i = torch.searchsorted(xs, x_double).clamp(1, len(xs) - 1)
    weight = (x_double - xs[i - 1]) / (xs[i] - xs[i - 1])
    return (ys[i - 1] + weight * (ys[i] - ys[i - 1])).to(x.dtype)


def noise_levels(schedule: str, steps: int) -> NoiseLevels:
    """Return the noise levels of a schedule over continuous time."""
    return VPSDE() if schedule == "vp" else InterpolatedLevels(betas(schedule, steps))
