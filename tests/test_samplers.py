import numpy as np
import pytest
import torch
from helpers import replaced, tiny_config

from bench import samplers
from bench.diffusion import Diffusion


def oracle(clean, schedule):
    """The perfect noise prediction when every image is `clean`."""
    d = Diffusion(schedule)

    def net(x, t, cond):
        signal, noise = d._tables["signal"][int(t[0])], d._tables["noise"][int(t[0])]
        return (x - signal * clean) / noise

    return net


def labels(count):
    return torch.arange(count) % 10


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_a_perfect_network_finds_the_clean_image(sampler, spacing):
    config = replaced(tiny_config(), "evaluation", sampler=sampler, spacing=spacing, steps=50)
    clean = torch.linspace(-0.9, 0.9, 64).view(1, 8, 8)
    x = samplers.sample(oracle(clean, "cosine"), config, (1, 8, 8), [0, 1], labels(2))
    assert (x - clean).abs().max() < 0.05


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("variance", ["fixed", "learned_range"])
def test_images_do_not_depend_on_the_batch_size(sampler, variance):
    config = replaced(tiny_config(), "evaluation", sampler=sampler, steps=5)
    config = replaced(config, "diffusion", variance=variance)
    extra = 1 if variance == "learned_range" else 0

    def net(x, t, cond):
        eps = torch.tanh(x + cond.view(-1, 1, 1, 1) * 0.1 + t.view(-1, 1, 1, 1) / 1000)
        return torch.cat([eps, torch.zeros_like(eps)], 1) if extra else eps

    def images(size):
        parts = [list(range(i, min(i + size, 7))) for i in range(0, 7, size)]
        return torch.cat([samplers.sample(net, config, (1, 4, 4), p, labels(7)[p]) for p in parts])

    together = images(7)
    assert np.allclose(together, images(1), atol=1e-5) and np.allclose(together, images(3), atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_guidance_extrapolates_from_the_null_class():
    def net(x, t, cond):
        return torch.cat([x * 0 + cond.view(-1, 1, 1, 1), x * 0 + 7.0 + cond.view(-1, 1, 1, 1)], 1)

    x, cond = torch.zeros(2, 1, 2, 2), torch.tensor([1, 4])
    out = samplers.guided(net, 1.5, null=10)(x, torch.zeros(2), cond)
    assert out[0, 0, 0, 0] == 10 + 1.5 * (1 - 10) and out[1, 0, 0, 0] == 10 + 1.5 * (4 - 10)
    assert out[0, 1, 0, 0] == 8.0  # the variance channels are the conditional ones
    assert samplers.guided(net, 1.0, null=10) is net


def test_another_sampling_seed_gives_other_images():
    a, b = (samplers.generators(seed, [0])[0] for seed in (0, 1))
    assert not torch.equal(torch.randn(4, generator=a), torch.randn(4, generator=b))
