"""Forward process q, its posterior, the model's reverse process p, and the training losses.

DDPM is arXiv:2006.11239, improved DDPM (iDDPM) arXiv:2102.09672.

B batch, C channels, H W image size, S timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.config.schema import DiffusionConfig
from bench.config.timestep_respacing import respaced_timesteps
from bench.diffusion.noise_schedules import VPSDE, betas, network_time, respace_betas, sigma

BIN_HALF_WIDTH = 1 / 255
"""Half the distance between two 8-bit values in [-1, 1]."""


def clip_x0(x0_BCHW: Tensor) -> Tensor:
    """Clip a predicted image to [-1, 1]."""
    return x0_BCHW.clamp(-1, 1)


@dataclass(frozen=True)
class ReverseDistribution:
    """The Gaussian p(x_{t-1} | x_t), and the prediction of x_0 that determines its mean; each (B, C, H, W)."""

    mean: Tensor
    log_variance: Tensor
    pred_x0: Tensor


class GaussianDiffusion:
    """A discrete diffusion process: its coefficients for each timestep, and its losses.

    Coefficients are float64 on the CPU (`exact`) and float32 on the device.  With `indices` the process is
    respaced: it visits only these timesteps, and all coefficients are those of the shorter chain (iDDPM
    Section 4).  `time` selects the time input of the network (see noise_schedules.network_time), which always counts
    in the full process.  The schedule "vp" is continuous: its training timesteps are floats in [0, 1].

    The first C channels of a network's output predict the noise; C more channels, if there are any, interpolate
    the log variance (iDDPM equation 15).  Only `training_target` and `pred_x0` depend on the prediction type, and
    only `log_variance` on the parameterization of variances.
    """

    def __init__(
        self,
        schedule: str = "linear",
        steps: int = 1000,
        device: torch.device | str = "cpu",
        *,
        time: str = "index",
        indices: Sequence[int] | None = None,
    ) -> None:
        self.schedule, self.full_steps, self.device = schedule, steps, torch.device(device)
        self.indices = torch.tensor(respaced_timesteps(steps, "") if indices is None else list(indices))
        self.betas = respace_betas(betas(schedule, steps), self.indices.tolist())
        self.steps, self.time_type = len(self.betas), time
        self._counts = (self.indices + 1).to(self.device)
        self.exact = self.coefficients()
        self._tables = {name: values.float().to(self.device) for name, values in self.exact.items()}

    def coefficients(self) -> dict[str, Tensor]:
        """Return the coefficients of the process by name, (S,) float64 each."""
        return diffusion_tables(self.betas)

    def at(self, name: str, t_B: Tensor, like: Tensor) -> Tensor:
        """Return a coefficient at timesteps (B,), shaped to be multiplied with `like` (B, ...)."""
        return self._tables[name][t_B].view(-1, *[1] * (like.dim() - 1))

    def time(self, t_B: Tensor) -> Tensor:
        """Convert timesteps as `draw_timesteps` returns them to the network's time input, (B,) float32."""
        if t_B.is_floating_point():
            return network_time(self.time_type, t_B * self.full_steps, self.full_steps)
        return network_time(self.time_type, self._counts[t_B], self.full_steps).float()

    def q_sample(self, x0_BCHW: Tensor, t_B: Tensor, eps_BCHW: Tensor) -> Tensor:
        """Add noise: x_t = sqrt(bar) x_0 + sqrt(1 - bar) eps (DDPM equation 4); t_B is that of `draw_timesteps`."""
        if t_B.is_floating_point():
            log_alpha = VPSDE().log_alpha(t_B).view(-1, *[1] * (x0_BCHW.dim() - 1))
            return log_alpha.exp() * x0_BCHW + sigma(log_alpha) * eps_BCHW
        return self.at("signal", t_B, x0_BCHW) * x0_BCHW + self.at("noise", t_B, x0_BCHW) * eps_BCHW

    def loss(self, out: Tensor, x0_BCHW: Tensor, xt_BCHW: Tensor, t_B: Tensor, eps_BCHW: Tensor) -> Tensor:
        """Return the loss of each image, (B,): L_simple, plus L_vlb for a network with a learned variance."""
        return self.losses(out, x0_BCHW, xt_BCHW, t_B, eps_BCHW)["loss"]

    def losses(self, out: Tensor, x0: Tensor, xt: Tensor, t_B: Tensor, eps: Tensor) -> dict[str, Tensor]:
        """Return the loss and its terms, (B,) each: mse is L_simple, vb is L_vlb in bits per dimension.

        A learned variance is trained with L_hybrid = L_simple + L_vlb (iDDPM equation 16, weighted as in ADM and
        DiT); no gradient of L_vlb flows into the mean.
        """
        channels = x0.shape[1]
        prediction, v = out[:, :channels], out[:, channels:]
        mse = (prediction - self.training_target(x0, xt, t_B, eps)).square().flatten(1).mean(1)
        if not v.shape[1]:
            return {"loss": mse, "mse": mse}
        p = self.p_mean_variance(torch.cat([prediction.detach(), v], dim=1), xt, t_B)
        bound = self.variational_bound(p, x0, xt, t_B)
        return {"loss": mse + bound, "mse": mse, "vb": bound}

    def training_target(self, x0: Tensor, xt: Tensor, t_B: Tensor, eps: Tensor) -> Tensor:
        """Return the target of L_simple: the noise."""
        return eps

    def pred_x0(self, prediction: Tensor, xt: Tensor, t_B: Tensor) -> Tensor:
        """Convert the network's prediction, the noise, to a prediction of x_0."""
        return self.at("inverse_signal", t_B, xt) * xt - self.at("inverse_noise", t_B, xt) * prediction

    def log_variance(self, v: Tensor, xt: Tensor, t_B: Tensor) -> Tensor:
        """Return log variances of p, (B, C, H, W).

        `v` are the variance channels, in [-1, 1]: they interpolate between the posterior's log variance and log beta
        (iDDPM equation 15).  Without channels the variance is the posterior's.
        """
        log_posterior = self.at("log_posterior", t_B, xt)
        if not v.shape[1]:
            return log_posterior.expand_as(xt)
        fraction = (v + 1) / 2
        return fraction * self.at("log_beta", t_B, xt) + (1 - fraction) * log_posterior

    def p_mean_variance(self, out: Tensor, xt: Tensor, t_B: Tensor) -> ReverseDistribution:
        """Return p(x_{t-1} | x_t) of a network's output (B, C or 2 C, H, W)."""
        channels = xt.shape[1]
        x0 = self.pred_x0(out[:, :channels], xt, t_B)
        log_variance = self.log_variance(out[:, channels:], xt, t_B)
        return ReverseDistribution(self.posterior_mean(x0, xt, t_B), log_variance, x0)

    def posterior_mean(self, x0_BCHW: Tensor, xt_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """Return the mean of q(x_{t-1} | x_t, x_0) (DDPM equation 7)."""
        return self.at("mean_of_x0", t_B, x0_BCHW) * x0_BCHW + self.at("mean_of_xt", t_B, x0_BCHW) * xt_BCHW

    def variational_bound(self, p: ReverseDistribution, x0: Tensor, xt: Tensor, t_B: Tensor) -> Tensor:
        """Return a term of the bound in bits per dimension, (B,): KL(q || p), or -log p(x_0 | x_1) at t = 0."""
        true_mean, true_log_variance = self.posterior_mean(x0, xt, t_B), self.at("log_posterior", t_B, x0)
        kl = gaussian_kl(true_mean, true_log_variance, p.mean, p.log_variance)
        nll = -discretised_log_likelihood(x0, p.mean, 0.5 * p.log_variance)
        return torch.where(t_B == 0, bits_per_dimension(nll), bits_per_dimension(kl))


def make_diffusion(config: DiffusionConfig, device: torch.device | str = "cpu") -> GaussianDiffusion:
    """Build the process that a configuration trains."""
    return GaussianDiffusion(config.schedule, config.steps, device, time=config.time)


def draw_timesteps(config: DiffusionConfig, count: int, generator: torch.Generator) -> Tensor:
    """Draw training timesteps, (count,) on the CPU: int64 in 0..S-1, or for schedule vp float32 in [0, 1)."""
    if config.schedule == "vp":
        return torch.rand(count, generator=generator)
    return torch.randint(0, config.steps, (count,), generator=generator)


def diffusion_tables(beta_S: Tensor) -> dict[str, Tensor]:
    """Return the coefficients of DDPM's formulas by name, (S,) float64 each; bar is the product of 1 - beta."""
    bar = torch.cumprod(1 - beta_S, dim=0)
    bar_prev = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    posterior = beta_S * (1 - bar_prev) / (1 - bar)
    # The posterior's variance at t = 0 is zero.  iDDPM's code takes the logarithm of the one at t = 1 instead.
    first = posterior[1:2] if len(beta_S) > 1 else beta_S
    return {
        "bar": bar,
        "signal": bar.sqrt(),
        "noise": (1 - bar).sqrt(),
        "inverse_signal": bar.rsqrt(),
        "inverse_noise": (1 / bar - 1).sqrt(),
        "mean_of_x0": beta_S * bar_prev.sqrt() / (1 - bar),
        "mean_of_xt": (1 - bar_prev) * (1 - beta_S).sqrt() / (1 - bar),
        "log_posterior": torch.cat([first, posterior[1:]]).log(),
        "log_beta": beta_S.log(),
    }


def bits_per_dimension(nats_BCHW: Tensor) -> Tensor:
    """Average over dimensions and convert nats to bits, (B,)."""
    return nats_BCHW.flatten(1).mean(1) / math.log(2)


def gaussian_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(other_mean, exp(other_log))), elementwise, in nats."""
    ratio = (log_variance - other_log).exp()
    return 0.5 * (-1 + other_log - log_variance + ratio + (mean - other_mean).square() * (-other_log).exp())


def approx_normal_cdf(z: Tensor) -> Tensor:
    """Return the tanh approximation of the normal CDF, 0.5 (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3)))."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return log p of 8-bit x in [-1, 1] under a Gaussian discretised to 256 bins (DDPM equation 13), in nats."""
    centred, inverse = x - mean, torch.exp(-log_scale)
    upper = approx_normal_cdf(inverse * (centred + BIN_HALF_WIDTH))
    lower = approx_normal_cdf(inverse * (centred - BIN_HALF_WIDTH))
    inside = torch.where(x > 0.999, 1 - lower, upper - lower)
    return torch.where(x < -0.999, upper, inside).clamp(min=1e-12).log()
