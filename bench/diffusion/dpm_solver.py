"""Solvers in continuous time that diffusers does not have: U-ViT's DPM-Solver and Euler-Maruyama.

x_t = alpha x_0 + sigma eps at time t in [0, 1]; lambda = log(alpha / sigma).  Scalars are float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bench.diffusion.noise_schedules import VPSDE, NoiseLevels, half_log_snr, sigma

NoisePredictor = Callable[[Tensor, Tensor], Tensor]
"""(x, t) -> noise prediction, t a scalar."""


def pred_x0(eps: Tensor, x: Tensor, log_alpha: Tensor) -> Tensor:
    """x_0 of a noise prediction."""
    return (x - sigma(log_alpha).to(x) * eps) / log_alpha.exp().to(x)


def score(eps: Tensor, log_alpha: Tensor) -> Tensor:
    """Gradient of log p(x_t) of a noise prediction."""
    return -eps / sigma(log_alpha).to(eps)


def solver_orders(steps: int) -> list[int]:
    """Orders of "DPM-Solver-fast": thirds, ended by lower ones, `steps` network evaluations in all."""
    thirds, rest = divmod(steps, 3)
    if rest:
        return [3] * thirds + [rest]
    return [3] * (thirds - 1) + [2, 1] if thirds else []


def solver_times(levels: NoiseLevels, steps: int, spacing: Literal["time", "snr"], end: float) -> Tensor:
    """Times from 1 to `end`, (steps + 1,) float64, of which a step of order k takes k + 1, both ends included.

    time: uniform in t; snr: steps uniform in lambda, cut into halves or thirds of lambda.
    """
    if spacing == "time":
        return torch.linspace(1, end, steps + 1, dtype=torch.float64)
    own = solver_orders(steps)
    ends = half_log_snr(levels.log_alpha(torch.tensor([1, end], dtype=torch.float64)))
    outer = torch.linspace(ends[0].item(), ends[1].item(), len(own) + 1, dtype=torch.float64)
    inner = [a + (b - a) * i / k for k, a, b in zip(own, outer, outer[1:], strict=False) for i in range(k)]
    return levels.inverse(torch.stack([*inner, outer[-1]]))


def dpm_fast(
    noise: NoisePredictor,
    levels: NoiseLevels,
    x: Tensor,
    steps: int,
    *,
    data: bool,
    spacing: Literal["time", "snr"],
    end: float,
) -> Tensor:
    """Single-step DPM-Solver of orders up to three, from t = 1 to `end`, in `steps` network evaluations.

    `data` integrates the clean image (DPM-Solver++, arXiv:2211.01095), else the noise (DPM-Solver,
    arXiv:2206.00927, Algorithms 1 and 2).  U-ViT samples its discrete models with data, uniform time,
    end 1e-3 and its continuous ones with noise, uniform SNR, end 1e-4.

    diffusers has no such solver: at U-ViT's setting and 50 evaluations of the goldens' stand-in network, with
    values up to 30, its DPMSolverSinglestepScheduler of order 3 (whole timesteps, and other inner
    formulas) is 2e-3 away, its DPMSolverMultistepScheduler of order 3 3e-2 and of order 2 1e-2; at 10
    evaluations 0.1 to 0.2. In the continuous setting the single-step one is 5.6 of 200 away.
    """
    times = solver_times(levels, steps, spacing, end)
    at = 0
    for order in solver_orders(steps):
        x = SolverStep(noise, levels, times[at : at + order + 1], data).take(x)
        at += order
    return x


class SolverStep:
    """One step over times s = t_0 > .. > t_k of order k; its last time is where it ends.

    With h the way in lambda and r the share of it, x moves to
    ratio x_s - scale (phi_1 first + weight difference), phi_1 = exp(-h) - 1 for data, exp(h) - 1 for noise.
    """

    def __init__(self, noise: NoisePredictor, levels: NoiseLevels, times: Tensor, data: bool) -> None:
        self.noise, self.data, self.times = noise, data, times
        self.log_alpha = levels.log_alpha(times)
        self.lam = half_log_snr(self.log_alpha)

    def model(self, x: Tensor, i: int) -> Tensor:
        """What is integrated, at time i: the clean image or the noise."""
        eps = self.noise(x, self.times[i])
        return pred_x0(eps, x, self.log_alpha[i]) if self.data else eps

    def move(self, x: Tensor, i: int, first: Tensor, slope: Tensor | None = None, *, third: bool = False) -> Tensor:
        """x at time i, from its value at the start, the model there, and the model's change over the way."""
        before, after, h = self.log_alpha[0], self.log_alpha[i], self.lam[i] - self.lam[0]
        sign = -1 if self.data else 1
        ratio, scale = ((after - before).exp(), sigma(after))
        if self.data:
            ratio, scale = sigma(after) / sigma(before), after.exp()
        phi = torch.expm1(sign * h)
        moved = ratio.item() * x - (scale * phi).item() * first
        if slope is None:
            return moved
        weight = sign * (phi / h - sign) if third else phi / 2
        return moved - (scale * weight).item() * slope

    def take(self, x: Tensor) -> Tensor:
        order = len(self.times) - 1
        first = self.model(x, 0)
        if order == 1:
            return self.move(x, 1, first)
        share = [((at - self.lam[0]) / (self.lam[-1] - self.lam[0])).item() for at in self.lam]
        second = self.model(self.move(x, 1, first), 1)
        if order == 2:
            return self.move(x, 2, first, (second - first) / share[1])
        slope = (second - first) * (share[2] / share[1])
        last = self.model(self.move(x, 2, first, slope, third=True), 2)
        return self.move(x, 3, first, (last - first) / share[2], third=True)


def euler_maruyama(
    noise: NoisePredictor, sde: VPSDE, x: Tensor, steps: int, draw: Callable[[], Tensor] | None, end: float = 1e-3
) -> Tensor:
    """The reverse SDE (arXiv:2011.13456, equation 6), or with no `draw` its probability-flow ODE (equation 13).

    Times are uniform from 1 to `end` and then 0; no noise is added in the last step.  U-ViT samples
    CIFAR-10 and CelebA so, with 1000 steps.
    """
    times = [0.0, *torch.linspace(end, 1, steps, dtype=torch.float64).tolist()]
    for s, t in zip(times[:0:-1], times[-2::-1], strict=True):
        now = torch.tensor(s, dtype=torch.float64)
        rate, share = sde.rate(now).item(), 1.0 if draw else 0.5
        mean = x + (t - s) * (-0.5 * rate * x - share * rate * score(noise(x, now), sde.log_alpha(now)))
        x = mean + (rate * (s - t)) ** 0.5 * draw() if draw and t > 0 else mean
    return x
