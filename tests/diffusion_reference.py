"""Options, steps, bounds and schedules of the published diffusion code that the benchmark does not need.

`ReferenceDiffusion` extends the process that the benchmark trains, so that the goldens of the published code also test
the shared code.  DDPM is arXiv:2006.11239, iDDPM arXiv:2102.09672, ADM arXiv:2105.05233.
"""

from dataclasses import dataclass

import torch

from bench.diffusion.dpm_solver import score
from bench.diffusion.gaussian_diffusion import (
    GaussianDiffusion,
    ReverseDistribution,
    bits_per_dimension,
    clip_x0,
    diffusion_tables,
    gaussian_kl,
)


def keep_x0(x0):
    return x0


@dataclass(frozen=True)
class TransformedReverse(ReverseDistribution):
    """p(x_{t-1} | x_t) of a transformed (e.g. clipped) prediction of x_0, with its variance."""

    variance: torch.Tensor


class ReferenceDiffusion(GaussianDiffusion):
    """The process with ADM's options.

    predicts: "noise" or "clean" (x_0 itself).  fixed: the variance of a network without variance channels, "small"
    (the posterior's) or "large" (beta, DDPM Section 3.2).  objective: for a learned variance, "hybrid"
    (L_simple + L_vlb), "rescaled" (L_vlb times S / 1000, iDDPM) or "bound" (S L_vlb alone).
    """

    def __init__(self, *args, predicts="noise", fixed="small", objective="hybrid", **options):
        self.predicts, self.fixed, self.objective = predicts, fixed, objective
        super().__init__(*args, **options)

    def coefficients(self):
        beta, trained = self.betas, diffusion_tables(self.betas)
        bar, one = trained["bar"], torch.ones(1, dtype=torch.float64)
        bar_prev = torch.cat([one, bar[:-1]])
        posterior = beta * (1 - bar_prev) / (1 - bar)
        large = torch.cat([posterior[1:2] if len(beta) > 1 else beta, beta[1:]])
        return trained | {
            "bar_prev": bar_prev,
            "bar_next": torch.cat([bar[1:], 0 * one]),
            "noise_variance": 1 - bar,
            "log_noise_variance": (1 - bar).log(),
            "posterior": posterior,
            "large": large,
            "log_large": large.log(),
        }

    def losses(self, out, x0, xt, t_B, eps):
        if self.objective == "bound":
            return {"loss": self.steps * self.variational_bound(self.p_mean_variance(out, xt, t_B), x0, xt, t_B)}
        terms = super().losses(out, x0, xt, t_B, eps)
        if self.objective == "rescaled" and "vb" in terms:
            terms["vb"] = terms["vb"] * (self.steps / 1000)
            terms["loss"] = terms["mse"] + terms["vb"]
        return terms

    def training_target(self, x0, xt, t_B, eps):
        return x0 if self.predicts == "clean" else super().training_target(x0, xt, t_B, eps)

    def pred_x0(self, prediction, xt, t_B):
        return prediction if self.predicts == "clean" else super().pred_x0(prediction, xt, t_B)

    def log_variance(self, v, xt, t_B):
        if self.fixed == "large" and not v.shape[1]:
            return self.at("log_large", t_B, xt).expand_as(xt)
        return super().log_variance(v, xt, t_B)

    def p_mean_variance(self, out, xt, t_B, transform=keep_x0):
        p = super().p_mean_variance(out, xt, t_B)
        x0 = transform(p.pred_x0)
        variance = p.log_variance.exp()
        if out.shape[1] == xt.shape[1]:  # at t = 0 the posterior variance is zero, but its log is that of t = 1
            variance = self.at("large" if self.fixed == "large" else "posterior", t_B, xt).expand_as(xt)
        return TransformedReverse(self.posterior_mean(x0, xt, t_B), p.log_variance, x0, variance)

    def pred_noise(self, x0, xt, t_B):
        """The noise prediction that stands for a prediction of x_0."""
        return (self.at("inverse_signal", t_B, xt) * xt - x0) / self.at("inverse_noise", t_B, xt)

    def ancestral_step(self, out, xt, t_B, noise, transform=keep_x0, gradient=None):
        """x_{t-1} (DDPM Algorithm 2); `gradient` of log p(y | x_t) shifts the mean (ADM Algorithm 1)."""
        p = self.p_mean_variance(out, xt, t_B, transform)
        mean = p.mean if gradient is None else p.mean + p.variance * gradient
        nonzero = (t_B != 0).float().view(-1, *[1] * (xt.dim() - 1))
        return mean + nonzero * torch.exp(0.5 * p.log_variance) * noise

    def classifier_guided_noise(self, out, xt, t_B, gradient):
        """The noise prediction under classifier guidance, for DDIM (ADM Algorithm 2)."""
        eps = self.pred_noise(self.p_mean_variance(out, xt, t_B).pred_x0, xt, t_B)
        return eps - self.at("noise", t_B, xt) * gradient

    def ddim_reverse_step(self, out, xt, t_B):
        """x_{t+1} of the deterministic DDIM (arXiv:2010.02502), from images to noise."""
        x0 = self.p_mean_variance(out, xt, t_B).pred_x0
        bar = self.at("bar_next", t_B, xt)
        return x0 * bar.sqrt() + (1 - bar).sqrt() * self.pred_noise(x0, xt, t_B)

    def prior_bound(self, x0):
        """KL(q(x_S | x_0) || N(0, 1)) in bits per dimension, (B,)."""
        last, zero = torch.full((len(x0),), self.steps - 1), torch.zeros(())
        return bits_per_dimension(
            gaussian_kl(self.at("signal", last, x0) * x0, self.at("log_noise_variance", last, x0), zero, zero)
        )

    @torch.no_grad()
    def full_bound(self, net, x0, draw):
        """The bound on -log2 p(x_0) per dimension: total, prior (B,); vb, xstart_mse, mse (B, S), t = S - 1 first.

        `draw` returns the noise of each timestep; predictions of x_0 are clipped.
        """
        terms = {"vb": [], "xstart_mse": [], "mse": []}
        for t in reversed(range(self.steps)):
            t_B, eps = torch.full((len(x0),), t), draw()
            xt = self.q_sample(x0, t_B, eps)
            p = self.p_mean_variance(net(xt, self.time(t_B)), xt, t_B, clip_x0)
            terms["vb"].append(self.variational_bound(p, x0, xt, t_B))
            terms["xstart_mse"].append((p.pred_x0 - x0).square().flatten(1).mean(1))
            terms["mse"].append((self.pred_noise(p.pred_x0, xt, t_B) - eps).square().flatten(1).mean(1))
        terms = {name: torch.stack(values, dim=1) for name, values in terms.items()}
        prior = self.prior_bound(x0)
        return {**terms, "prior": prior, "total": terms["vb"].sum(1) + prior}


def transition(beta_S, s, t):
    """(signal, noise) variances of q(x_t | x_s) by counts 0..S, (1, 0) where t <= s.

    U-ViT's code calls them skip_alphas and skip_betas.
    """
    log_bar = torch.cat([torch.zeros(1, dtype=beta_S.dtype), torch.log1p(-beta_S).cumsum(0)])
    log = torch.where(t > s, log_bar[t] - log_bar[s], torch.zeros((), dtype=beta_S.dtype))
    return log.exp(), -torch.expm1(log)


def posterior_variance(beta_S, s, t):
    """Variance of q(x_s | x_t, x_0) by counts s < t (DDPM equation 7 for s = t - 1)."""
    zero = torch.zeros_like(s)
    return transition(beta_S, s, t)[1] * transition(beta_S, zero, s)[1] / transition(beta_S, zero, t)[1]


def drift(sde, x, t_B):
    """Drift of a variance-preserving SDE (arXiv:2011.13456)."""
    return -0.5 * sde.beta(t_B).view(-1, *[1] * (x.dim() - 1)) * x


def euler_ode(predict_noise, sde, x, steps, end=1e-3):
    """Euler's method for the probability-flow ODE (arXiv:2011.13456, equation 13), at U-ViT's times."""
    times = [0.0, *torch.linspace(end, 1, steps, dtype=torch.float64).tolist()]
    for s, t in zip(times[:0:-1], times[-2::-1], strict=True):
        now = torch.tensor(s, dtype=torch.float64)
        beta, eps = sde.beta(now).item(), predict_noise(x, now)
        x = x + (t - s) * (-0.5 * beta * x - 0.5 * beta * score(eps, sde.log_alpha(now)))
    return x
