import math

import numpy as np
import pytest
import torch

from bench.diffusion.gaussian_diffusion import GaussianDiffusion, betas, discretised_log_likelihood


def test_the_linear_schedule_has_the_papers_ends():
    b = betas("linear", 1000)
    assert b[0] == pytest.approx(1e-4) and b[-1] == pytest.approx(0.02) and b.dtype == torch.float64


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sqrt_linear", "ldm", "vp"])
@pytest.mark.parametrize("steps", [10, 1000])
def test_betas_are_probabilities_that_grow(schedule, steps):
    b = betas(schedule, steps)
    assert len(b) == steps and (b > 0).all() and (b < 1).all() and (b.diff() >= 0).all()


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="linear, cosine"):
        betas("square", 10)


def test_noising_keeps_the_variance():
    d, g = GaussianDiffusion(), torch.Generator().manual_seed(0)
    x, eps = (torch.randn(4000, 1, 4, 4, generator=g) for _ in range(2))
    for t in (0, 300, 999):
        assert d.q_sample(x, torch.full((4000,), t), eps).var() == pytest.approx(1, abs=0.02)


def test_the_simple_loss_is_the_mean_squared_error():
    d, g = GaussianDiffusion(), torch.Generator().manual_seed(0)
    x, eps, out = (torch.randn(3, 2, 4, 4, generator=g) for _ in range(3))
    t = torch.tensor([0, 500, 999])
    loss = d.loss(out, x, d.q_sample(x, t, eps), t, eps)
    assert torch.allclose(loss, (out - eps).square().mean((1, 2, 3)))


def test_the_posterior_agrees_with_bayes_rule():
    d = GaussianDiffusion("cosine", 50)
    bar = torch.cumprod(1 - d.betas, 0)
    t = 20
    precision = 1 / (1 - bar[t - 1]) + (1 - d.betas[t]) / d.betas[t]
    x0, xt = 0.3, -0.8
    mean = (bar[t - 1].sqrt() * x0 / (1 - bar[t - 1]) + (1 - d.betas[t]).sqrt() * xt / d.betas[t]) / precision
    shape = (1, 1, 1, 1)
    actual = d.posterior_mean(torch.full(shape, x0), torch.full(shape, xt), torch.tensor([t]))
    assert actual.item() == pytest.approx(mean.item(), rel=1e-5)
    assert d._tables["log_posterior"][t].item() == pytest.approx(math.log(1 / precision), rel=1e-5)


def test_the_bound_of_the_posterior_is_zero():
    d, g = GaussianDiffusion(), torch.Generator().manual_seed(0)
    x, eps = (torch.randn(3, 1, 4, 4, generator=g).clamp(-1, 1) for _ in range(2))
    t = torch.tensor([1, 500, 999])
    xt = d.q_sample(x, t, eps)
    out = torch.cat([eps, -torch.ones_like(x)], 1)  # v = -1 is the posterior's own variance
    bound = d.variational_bound(d.p_mean_variance(out, xt, t), x, xt, t)
    assert bound.abs().max() < 1e-3
    out = torch.cat([torch.zeros_like(x), torch.zeros_like(x)], 1).requires_grad_()
    (d.loss(out, x, xt, t, eps) - (out[:, :1] - eps).square().mean((1, 2, 3))).sum().backward()
    assert out.grad[:, :1].abs().max() < 1e-6 and out.grad[:, 1:].abs().sum() > 0


def test_the_discretised_likelihood_sums_to_one():
    bins = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean, scale in ((0.0, 0.1), (0.9, 0.3), (-1.0, 0.02)):
        log = discretised_log_likelihood(bins, torch.tensor(mean), torch.tensor(math.log(scale)))
        assert log.exp().sum().item() == pytest.approx(1, abs=1e-3)


def test_tables_are_computed_in_double_precision():
    assert GaussianDiffusion().betas.dtype == torch.float64
    exact = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[-1]
    assert GaussianDiffusion()._tables["signal"][-1].item() == pytest.approx(exact**0.5, rel=1e-6)
