"""The forward process, its posterior, and the training losses.

DDPM (arXiv:2006.11239) and improved DDPM (arXiv:2102.09672); equation numbers below are theirs.

B batch, C channels, H W image size, S timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.config.schema import DiffusionConfig as Settings
from bench.config.timestep_respacing import respaced_timesteps
from bench.diffusion.noise_schedules import VPSDE, betas, network_time, respace_betas, sigma

Loss = Literal["hybrid", "rescaled", "bound"]
X0Transform = Callable[[Tensor], Tensor]
"""What is done to a predicted clean image, e.g. clipping."""


def clip_x0(x0_BCHW: Tensor) -> Tensor:
    return x0_BCHW.clamp(-1, 1)


def keep_x0(x0_BCHW: Tensor) -> Tensor:
    return x0_BCHW


@dataclass(frozen=True)
class ReverseDistribution:
    """p(x_{t-1} | x_t), and the clean image it was made from; each (B, C, H, W)."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    clean: Tensor


class GaussianDiffusion:
    """Tables of one process (float64 on the CPU, float32 where they are used) and its losses.

    `indices` makes it a respaced process: only those timesteps of the whole one are visited, and
    every table is of the shorter chain (iDDPM Section 4).  `time` is what the network is given
    (see schedule.network_time), always counted in the whole process.  `predicts` says what the
    network's first C channels are; C more make its variance learned, else it is fixed: `small` is
    the posterior's, `large` beta (DDPM Section 3.2).  `loss` is for a learned variance:
    hybrid is L_simple + L_vlb (ADM, DiT), rescaled weighs L_vlb by S / 1000 (iDDPM), bound is
    S L_vlb alone.  schedule vp is continuous: its timesteps in training are floats in [0, 1].
    """

    def __init__(
        self,
        schedule: str = "linear",
        steps: int = 1000,
        device: torch.device | str = "cpu",
        *,
        time: str = "index",
        indices: Sequence[int] | None = None,
        predicts: Literal["noise", "clean"] = "noise",
        fixed: Literal["small", "large"] = "small",
        loss: Loss = "hybrid",
    ) -> None:
        self.schedule, self.whole_steps, self.device = schedule, steps, torch.device(device)
        self.indices = torch.tensor(respaced_timesteps(steps, "") if indices is None else list(indices))
        self.betas = respace_betas(betas(schedule, steps), self.indices.tolist())
        self.steps, self.time_kind = len(self.betas), time
        self.predicts, self.fixed, self.loss_kind = predicts, fixed, loss
        self._counts = (self.indices + 1).to(self.device)
        self.exact = diffusion_tables(self.betas)
        self._tables = {k: v.float().to(self.device) for k, v in self.exact.items()}

    def _at(self, name: str, t_B: Tensor, like: Tensor) -> Tensor:
        return self._tables[name][t_B].view(-1, *[1] * (like.dim() - 1))

    def time(self, t_B: Tensor) -> Tensor:
        """What the network is given for timesteps as draw_times makes them, (B,) float32."""
        if t_B.is_floating_point():
            return network_time(self.time_kind, t_B * self.whole_steps, self.whole_steps)
        return network_time(self.time_kind, self._counts[t_B], self.whole_steps).float()

    def noisy(self, x0_BCHW: Tensor, t_B: Tensor, eps_BCHW: Tensor) -> Tensor:
        """x_t = sqrt(bar) x_0 + sqrt(1 - bar) eps (DDPM equation 4); t_B as draw_times makes it."""
        if t_B.is_floating_point():
            log_alpha = VPSDE().log_alpha(t_B).view(-1, *[1] * (x0_BCHW.dim() - 1))
            return log_alpha.exp() * x0_BCHW + sigma(log_alpha) * eps_BCHW
        return self._at("signal", t_B, x0_BCHW) * x0_BCHW + self._at("noise", t_B, x0_BCHW) * eps_BCHW

    def loss(self, out: Tensor, x0_BCHW: Tensor, xt_BCHW: Tensor, t_B: Tensor, eps_BCHW: Tensor) -> Tensor:
        """Mean loss of each image, (B,): L_simple, and L_vlb for a network that learns its variance."""
        return self.losses(out, x0_BCHW, xt_BCHW, t_B, eps_BCHW)["loss"]

    def losses(self, out: Tensor, x0: Tensor, xt: Tensor, t_B: Tensor, eps: Tensor) -> dict[str, Tensor]:
        """The loss and its terms, each (B,): mse is L_simple, vb the weighed L_vlb in bits a dimension.

        L_hybrid is iDDPM's equation 16: the mean is detached in L_vlb.
        """
        c = x0.shape[1]
        prediction, v = out[:, :c], out[:, c:]
        if self.loss_kind == "bound":
            return {"loss": self.steps * self.variational_bound(out, x0, xt, t_B)}
        mse = (prediction - (eps if self.predicts == "noise" else x0)).square().flatten(1).mean(1)
        if not v.shape[1]:
            return {"loss": mse, "mse": mse}
        bound = self.variational_bound(torch.cat([prediction.detach(), v], dim=1), x0, xt, t_B)
        if self.loss_kind == "rescaled":
            bound = bound * (self.steps / 1000)
        return {"loss": mse + bound, "mse": mse, "vb": bound}

    def posterior_mean(self, x0_BCHW: Tensor, xt_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0) (DDPM equation 7)."""
        clean, noisy = self._at("mean_clean", t_B, x0_BCHW), self._at("mean_noisy", t_B, x0_BCHW)
        return clean * x0_BCHW + noisy * xt_BCHW

    def clean(self, eps: Tensor, xt: Tensor, t_B: Tensor) -> Tensor:
        """x_0 of a noise prediction."""
        return self._at("inverse_signal", t_B, xt) * xt - self._at("inverse_noise", t_B, xt) * eps

    def noise(self, x0: Tensor, xt: Tensor, t_B: Tensor) -> Tensor:
        """The noise prediction of an x_0."""
        return (self._at("inverse_signal", t_B, xt) * xt - x0) / self._at("inverse_noise", t_B, xt)

    def reverse(self, out: Tensor, xt: Tensor, t_B: Tensor, treat: X0Transform = keep_x0) -> ReverseDistribution:
        """p(x_{t-1} | x_t) of a network's output, the predicted clean image treated first."""
        c = xt.shape[1]
        prediction, v = out[:, :c], out[:, c:]
        if v.shape[1]:
            fraction = (v + 1) / 2  # iDDPM equation 15
            log = fraction * self._at("log_beta", t_B, xt) + (1 - fraction) * self._at("log_posterior", t_B, xt)
            variance = log.exp()
        else:
            names = ("log_posterior", "posterior") if self.fixed == "small" else ("log_large", "large")
            log, variance = (self._at(name, t_B, xt).expand_as(xt) for name in names)
        clean = treat(prediction if self.predicts == "clean" else self.clean(prediction, xt, t_B))
        return ReverseDistribution(self.posterior_mean(clean, xt, t_B), variance, log, clean)

    def ancestral(
        self,
        out: Tensor,
        xt: Tensor,
        t_B: Tensor,
        noise: Tensor,
        treat: X0Transform = keep_x0,
        gradient: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(x_{t-1}, clean): one step of DDPM's Algorithm 2, without noise at t = 0.

        `gradient` of log p(y | x_t) shifts the mean by its variance times it (classifier guidance,
        arXiv:2105.05233, Algorithm 1), which diffusers' schedulers do not have.
        """
        p = self.reverse(out, xt, t_B, treat)
        mean = p.mean if gradient is None else p.mean + p.variance * gradient
        moving = (t_B != 0).float().view(-1, *[1] * (xt.dim() - 1))
        return mean + moving * torch.exp(0.5 * p.log_variance) * noise, p.clean

    def conditioned(
        self, out: Tensor, xt: Tensor, t_B: Tensor, gradient: Tensor, treat: X0Transform = keep_x0
    ) -> Tensor:
        """The noise prediction under classifier guidance, for DDIM (arXiv:2105.05233, Algorithm 2)."""
        eps = self.noise(self.reverse(out, xt, t_B, treat).clean, xt, t_B)
        return eps - self._at("noise", t_B, xt) * gradient

    def reverse_ddim(self, out: Tensor, xt: Tensor, t_B: Tensor, treat: X0Transform = keep_x0) -> Tensor:
        """x_{t+1} of the deterministic DDIM (arXiv:2010.02502) run from images to noise.

        diffusers' DDIMInverseScheduler agrees (1e-6) given t + 1 for t, but from the last timestep it
        stays there, where this goes on to pure noise.
        """
        clean = self.reverse(out, xt, t_B, treat).clean
        eps = self.noise(clean, xt, t_B)
        bar = self._at("bar_next", t_B, xt)
        return clean * bar.sqrt() + (1 - bar).sqrt() * eps

    def variational_bound(
        self, out: Tensor, x0: Tensor, xt: Tensor, t_B: Tensor, treat: X0Transform = keep_x0
    ) -> Tensor:
        """One term of the bound in bits a dimension, (B,): KL, or the decoder's likelihood at t = 0."""
        true_mean, true_log = self.posterior_mean(x0, xt, t_B), self._at("log_posterior", t_B, x0)
        p = self.reverse(out, xt, t_B, treat)
        kl = gaussian_kl(true_mean, true_log, p.mean, p.log_variance)
        likelihood = discretised_log_likelihood(x0, p.mean, 0.5 * p.log_variance)
        kl, nll = (z.flatten(1).mean(1) / math.log(2) for z in (kl, -likelihood))
        return torch.where(t_B == 0, nll, kl)

    def prior_bound(self, x0: Tensor) -> Tensor:
        """KL(q(x_S | x_0) || N(0, 1)) in bits a dimension, (B,)."""
        last = torch.full((len(x0),), self.steps - 1, device=x0.device)
        zero = torch.zeros((), device=x0.device)
        kl = gaussian_kl(self._at("signal", last, x0) * x0, self._at("log_noise_variance", last, x0), zero, zero)
        return kl.flatten(1).mean(1) / math.log(2)

    @torch.no_grad()
    def bound(
        self, net: Callable[[Tensor, Tensor], Tensor], x0: Tensor, draw: Callable[[], Tensor]
    ) -> dict[str, Tensor]:
        """The bound on -log2 p(x_0) a dimension: total, prior (B,); vb, xstart_mse, mse (B, S), t = S-1 first.

        `draw` gives the noise of each timestep; predicted clean images are clipped.
        """
        terms: dict[str, list[Tensor]] = {"vb": [], "xstart_mse": [], "mse": []}
        for t in reversed(range(self.steps)):
            t_B, eps = torch.full((len(x0),), t, device=x0.device), draw()
            xt = self.noisy(x0, t_B, eps)
            out = net(xt, self.time(t_B))
            clean = self.reverse(out, xt, t_B, clip_x0).clean
            terms["vb"].append(self.variational_bound(out, x0, xt, t_B, clip_x0))
            terms["xstart_mse"].append((clean - x0).square().flatten(1).mean(1))
            terms["mse"].append((self.noise(clean, xt, t_B) - eps).square().flatten(1).mean(1))
        whole = {name: torch.stack(values, dim=1) for name, values in terms.items()}
        prior = self.prior_bound(x0)
        return {**whole, "prior": prior, "total": whole["vb"].sum(1) + prior}


def make_diffusion(settings: Settings, device: torch.device | str = "cpu") -> GaussianDiffusion:
    """The process that a configuration trains."""
    return GaussianDiffusion(settings.schedule, settings.steps, device, time=settings.time)


def draw_timesteps(settings: Settings, count: int, generator: torch.Generator) -> Tensor:
    """Training timesteps, (B,) on the CPU: int64 in 0..S-1, or for vp float32 in [0, 1)."""
    if settings.schedule == "vp":
        return torch.rand(count, generator=generator)
    return torch.randint(0, settings.steps, (count,), generator=generator)


def diffusion_tables(beta_S: Tensor) -> dict[str, Tensor]:
    """What the formulas of DDPM use of each timestep, (S,) float64; bar is the product of 1 - beta."""
    one = torch.ones(1, dtype=torch.float64)
    bar = torch.cumprod(1 - beta_S, dim=0)
    bar_prev = torch.cat([one, bar[:-1]])
    posterior = beta_S * (1 - bar_prev) / (1 - bar)
    second = posterior[1:2] if len(beta_S) > 1 else beta_S  # the posterior's variance at t = 0 is zero
    large = torch.cat([second, beta_S[1:]])
    return {
        "bar": bar,
        "bar_prev": bar_prev,
        "bar_next": torch.cat([bar[1:], 0 * one]),
        "signal": bar.sqrt(),
        "noise": (1 - bar).sqrt(),
        "noise_variance": 1 - bar,
        "log_noise_variance": (1 - bar).log(),
        "inverse_signal": bar.rsqrt(),
        "inverse_noise": (1 / bar - 1).sqrt(),
        "mean_clean": beta_S * bar_prev.sqrt() / (1 - bar),
        "mean_noisy": (1 - bar_prev) * (1 - beta_S).sqrt() / (1 - bar),
        "posterior": posterior,
        "log_posterior": torch.cat([second, posterior[1:]]).log(),
        "log_beta": beta_S.log(),
        "large": large,
        "log_large": large.log(),
    }


def gaussian_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(other_mean, exp(other_log))), elementwise, in nats."""
    ratio = (log_variance - other_log).exp()
    return 0.5 * (-1 + other_log - log_variance + ratio + (mean - other_mean).square() * (-other_log).exp())


def approx_normal_cdf(z: Tensor) -> Tensor:
    """The tanh approximation of the normal distribution's CDF: 0.5 (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3)))."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log p of 8-bit x in [-1, 1] under a Gaussian discretised to 256 bins (DDPM equation 13), in nats."""
    centred, inverse = x - mean, torch.exp(-log_scale)
    upper, lower = approx_normal_cdf(inverse * (centred + 1 / 255)), approx_normal_cdf(inverse * (centred - 1 / 255))
    inside = torch.where(x > 0.999, 1 - lower, upper - lower)
    return torch.where(x < -0.999, upper, inside).clamp(min=1e-12).log()
