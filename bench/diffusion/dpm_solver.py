"""Solvers in continuous time that diffusers lacks: U-ViT's DPM-Solver and Euler-Maruyama.

x_t = alpha x_0 + sigma eps at time t in [0, 1]; lambda = log(alpha / sigma).  Scalars are float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bench.diffusion.noise_schedules import VPSDE, NoiseLevels, half_log_snr, sigma

NoisePredictor = Callable[[Tensor, Tensor], Tensor]
"""(x, t) -> predicted noise; t is a scalar tensor."""


def pred_x0(eps: Tensor, x: Tensor, log_alpha: Tensor) -> Tensor:
    """Convert predicted noise to a prediction of x_0."""
    return (x - sigma(log_alpha).to(x) * eps) / log_alpha.exp().to(x)


def score(eps: Tensor, log_alpha: Tensor) -> Tensor:
    """Convert predicted noise to the gradient of log p(x_t)."""
    return -eps / sigma(log_alpha).to(eps)


def solver_orders(steps: int) -> list[int]:
    """Return the orders of "DPM-Solver-fast": 3, and lower ones last; they sum to `steps` network evaluations."""
    order_3_steps, remainder = divmod(steps, 3)
    if remainder:
        return [3] * order_3_steps + [remainder]
    return [3] * (order_3_steps - 1) + [2, 1] if order_3_steps else []


def solver_times(levels: NoiseLevels, steps: int, spacing: Literal["time", "snr"], end: float) -> Tensor:
    """Return times from 1 to `end`, (steps + 1,) float64; a step of order k uses k + 1 of them, both ends included.

    time: uniform in t; snr: steps are uniform in lambda, and so are the times within a step.
    """
    if spacing == "time":
        return torch.linspace(1, end, steps + 1, dtype=torch.float64)
    orders = solver_orders(steps)
    ends = half_log_snr(levels.log_alpha(torch.tensor([1, end], dtype=torch.float64)))
    outer = torch.linspace(ends[0].item(), ends[1].item(), len(orders) + 1, dtype=torch.float64)
    inner = [a + (b - a) * i / k for k, a, b in zip(orders, outer, outer[1:], strict=False) for i in range(k)]
    return levels.inverse(torch.stack([*inner, outer[-1]]))


def dpm_fast(
    predict_noise: NoisePredictor,
    levels: NoiseLevels,
    x: Tensor,
    steps: int,
    *,
    data: bool,
    spacing: Literal["time", "snr"],
    end: float,
) -> Tensor:
    """Run single-step DPM-Solver of orders up to three, from t = 1 to `end`, in `steps` network evaluations.

    With `data` the solver integrates the prediction of x_0 (DPM-Solver++, arXiv:2211.01095), otherwise that of the
    noise (DPM-Solver, arXiv:2206.00927, Algorithms 1 and 2).  U-ViT samples its discrete models with data, uniform time
    and end 1e-3.  It samples its continuous models without data, with uniform SNR and end 1e-4.

    diffusers has no such solver.  Its schedulers were compared at U-ViT's setting, with the goldens' stand-in network
    and values up to 30.  With 50 evaluations, DPMSolverSinglestepScheduler of order 3 (integer timesteps, other inner
    formulas) is off by 2e-3, and DPMSolverMultistepScheduler by 3e-2 (order 3) and 1e-2 (order 2).  With 10
    evaluations they are off by 0.1 to 0.2.  In the continuous setting the single-step scheduler is off by 5.6, at
    values up to 200.
    """
    times = solver_times(levels, steps, spacing, end)
    start = 0
    for order in solver_orders(steps):
        x = SolverStep(predict_noise, levels, times[start : start + order + 1], data).solve(x)
        start += order
    return x


class SolverStep:
    """One step of order k over times s = t_0 > .. > t_k, which ends at t_k.

    With h the change of lambda, x_t = ratio x_s - scale (phi first + weight slope).  `first` is the prediction at s,
    `slope` its change over the step, and phi is exp(-h) - 1 for data, exp(h) - 1 for noise.
    """

    def __init__(self, predict_noise: NoisePredictor, levels: NoiseLevels, times: Tensor, data: bool) -> None:
        self.predict_noise, self.data, self.times = predict_noise, data, times
        self.log_alpha = levels.log_alpha(times)
        self.lam = half_log_snr(self.log_alpha)

    def predict(self, x: Tensor, i: int) -> Tensor:
        """Return the integrated prediction at time i: x_0 or the noise."""
        eps = self.predict_noise(x, self.times[i])
        return pred_x0(eps, x, self.log_alpha[i]) if self.data else eps

    def advance(self, x: Tensor, i: int, first: Tensor, slope: Tensor | None = None, *, third: bool = False) -> Tensor:
        """Advance x from the start to time i, from the prediction `first` at the start and its change `slope`."""
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

    def solve(self, x: Tensor) -> Tensor:
        """Return x at the last time, from x at the first."""
        order = len(self.times) - 1
        first = self.predict(x, 0)
        if order == 1:
            return self.advance(x, 1, first)
        fractions = [((lam - self.lam[0]) / (self.lam[-1] - self.lam[0])).item() for lam in self.lam]
        second = self.predict(self.advance(x, 1, first), 1)
        if order == 2:
            return self.advance(x, 2, first, (second - first) / fractions[1])
        slope = (second - first) * (fractions[2] / fractions[1])
        last = self.predict(self.advance(x, 2, first, slope, third=True), 2)
        return self.advance(x, 3, first, (last - first) / fractions[2], third=True)


def euler_maruyama(
    predict_noise: NoisePredictor, sde: VPSDE, x: Tensor, steps: int, draw: Callable[[], Tensor], end: float = 1e-3
) -> Tensor:
    """Solve the reverse SDE (arXiv:2011.13456, equation 6); `draw` returns the noise of a step.

    Times are uniform from 1 to `end`, then 0; the last step adds no noise.  U-ViT uses
    this sampler for CIFAR-10 and CelebA, with 1000 steps.
    """
    times = [0.0, *torch.linspace(end, 1, steps, dtype=torch.float64).tolist()]
    for s, t in zip(times[:0:-1], times[-2::-1], strict=True):
        now = torch.tensor(s, dtype=torch.float64)
        beta = sde.beta(now).item()
        mean = x + (t - s) * (-0.5 * beta * x - beta * score(predict_noise(x, now), sde.log_alpha(now)))
        x = mean + (beta * (s - t)) ** 0.5 * draw() if t > 0 else mean
    return x
