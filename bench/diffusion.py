"""The forward process, its tables and the training losses.

DDPM (arXiv:2006.11239) and improved DDPM (arXiv:2102.09672); equation numbers below are theirs.

B batch, C channels, H W image size, S timesteps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def betas(schedule: str, steps: int) -> Tensor:
    """Noise schedule, (S,) float64.

    linear: 1e-4..0.02 at 1000 steps, scaled by 1000 / steps (DDPM Section 4);
    cosine: iDDPM equation 17, betas capped at 0.999;
    sqrt_linear: 0.00085..0.012, linear in the square root (latent diffusion, U-ViT-H).
    """
    if schedule == "linear":
        scale = 1000 / steps
        return torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64).clamp(max=0.999)
    if schedule == "cosine":
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    if schedule == "sqrt_linear":
        return torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64) ** 2
    raise ValueError(f"schedule is {schedule!r}; choose linear, cosine or sqrt_linear")


class Diffusion:
    """Tables of one process (float64 on the CPU, float32 where they are used) and its losses."""

    def __init__(self, schedule: str = "linear", steps: int = 1000, device: torch.device | str = "cpu") -> None:
        self.steps, self.device = steps, torch.device(device)
        self.betas = betas(schedule, steps)
        bar = torch.cumprod(1 - self.betas, dim=0)
        bar_prev = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
        posterior = self.betas * (1 - bar_prev) / (1 - bar)
        self._tables = {
            "signal": bar.sqrt(),
            "noise": (1 - bar).sqrt(),
            "inverse_signal": bar.rsqrt(),
            "inverse_noise": (1 / bar - 1).sqrt(),
            "mean_clean": self.betas * bar_prev.sqrt() / (1 - bar),
            "mean_noisy": (1 - bar_prev) * (1 - self.betas).sqrt() / (1 - bar),
            "log_posterior": torch.cat([posterior[1:2], posterior[1:]]).log(),
            "log_beta": self.betas.log(),
        }
        self._tables = {k: v.float().to(self.device) for k, v in self._tables.items()}

    def _at(self, name: str, t_B: Tensor, like: Tensor) -> Tensor:
        return self._tables[name][t_B].view(-1, *[1] * (like.dim() - 1))

    def noisy(self, x0_BCHW: Tensor, t_B: Tensor, eps_BCHW: Tensor) -> Tensor:
        """x_t = sqrt(bar) x_0 + sqrt(1 - bar) eps (DDPM equation 4); t_B int64 in 0..S-1."""
        return self._at("signal", t_B, x0_BCHW) * x0_BCHW + self._at("noise", t_B, x0_BCHW) * eps_BCHW

    def loss(self, out: Tensor, x0_BCHW: Tensor, xt_BCHW: Tensor, t_B: Tensor, eps_BCHW: Tensor) -> Tensor:
        """Mean loss of each image, (B,): L_simple, plus L_vlb for a network that learns its variance.

        L_hybrid = L_simple + L_vlb (iDDPM equation 16) with the mean detached in L_vlb, which is in
        bits a dimension and unscaled, as ADM and DiT train.
        """
        c = x0_BCHW.shape[1]
        eps_hat, v = out[:, :c], out[:, c:]
        simple = (eps_hat - eps_BCHW).square().flatten(1).mean(1)
        if not v.shape[1]:
            return simple
        return simple + self.variational_bound(eps_hat.detach(), v, x0_BCHW, xt_BCHW, t_B)

    def posterior_mean(self, x0_BCHW: Tensor, xt_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0) (DDPM equation 7)."""
        clean, noisy = self._at("mean_clean", t_B, x0_BCHW), self._at("mean_noisy", t_B, x0_BCHW)
        return clean * x0_BCHW + noisy * xt_BCHW

    def variational_bound(self, eps: Tensor, v: Tensor, x0: Tensor, xt: Tensor, t_B: Tensor) -> Tensor:
        """One term of the bound in bits a dimension, (B,): KL, or the decoder's likelihood at t = 0."""
        true_mean, true_log = self.posterior_mean(x0, xt, t_B), self._at("log_posterior", t_B, x0)
        x0_hat = self._at("inverse_signal", t_B, x0) * xt - self._at("inverse_noise", t_B, x0) * eps
        mean = self.posterior_mean(x0_hat, xt, t_B)
        fraction = (v + 1) / 2  # iDDPM equation 15
        log = fraction * self._at("log_beta", t_B, x0) + (1 - fraction) * true_log
        kl = 0.5 * (log - true_log - 1 + (true_log - log).exp() + (true_mean - mean).square() * (-log).exp())
        likelihood = discretised_log_likelihood(x0, mean, 0.5 * log)
        kl, nll = (z.flatten(1).mean(1) / math.log(2) for z in (kl, -likelihood))
        return torch.where(t_B == 0, nll, kl)


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log p of 8-bit x in [-1, 1] under a Gaussian discretised to 256 bins (DDPM equation 13).

    The normal distribution's CDF is the tanh approximation 0.5 (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))).
    """

    def cdf(z: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    centred, inverse = x - mean, torch.exp(-log_scale)
    upper, lower = cdf(inverse * (centred + 1 / 255)), cdf(inverse * (centred - 1 / 255))
    inside = torch.where(x > 0.999, 1 - lower, upper - lower)
    return torch.where(x < -0.999, upper, inside).clamp(min=1e-12).log()
