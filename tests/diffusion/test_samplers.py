from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from helpers import replaced, tiny_config
from official_cases import ARRAYS, CASES, ctor_of, inputs, weights

import architectures
from bench.config.schema import EvaluationConfig
from bench.config.timestep_respacing import respaced_timesteps
from bench.diffusion import noise_schedules, samplers
from bench.diffusion.gaussian_diffusion import GaussianDiffusion


def labels(count):
    return torch.arange(count) % 10


def count_of(time, kind, steps=1000):
    """Convert a network time to its count."""
    return {
        "index": time + 1,
        "count": time,
        "continuous": time * steps / 999,
        "rescaled": time * steps / 1000 + 1,
    }[kind]


def oracle(clean, config, seen=None):
    """Return a network that predicts the noise exactly if every image is `clean`."""
    d = config.diffusion
    levels = noise_schedules.noise_levels(d.schedule, d.steps)

    def net(x, t, cond):
        if seen is not None:
            seen.append(t[0].item())
        log_alpha = levels.log_alpha(count_of(t[0].double(), d.time, d.steps) / d.steps)
        eps = (x - log_alpha.exp().float() * clean) / noise_schedules.sigma(log_alpha).float()
        return torch.cat([eps, torch.zeros_like(eps)], 1) if d.variance == "learned_range" else eps

    return net


WAYS = {
    "ddpm adm": dict(sampler="ddpm", spacing="adm", steps=50),
    "ddpm leading": dict(sampler="ddpm", spacing="leading", steps=50),
    "ddpm trailing": dict(sampler="ddpm", spacing="trailing", steps=50),
    "ddpm linspace": dict(sampler="ddpm", spacing="linspace", steps=50),
    "ddim adm": dict(sampler="ddim", spacing="adm", steps=50),
    "ddim trailing": dict(sampler="ddim", spacing="trailing", steps=50),
    "ddim leading eta": dict(sampler="ddim", spacing="leading", steps=50, eta=0.5),
    "ddim linspace": dict(sampler="ddim", spacing="linspace", steps=50),
    "ddim ldm": dict(sampler="ddim", spacing="ldm", steps=50, eta=1.0),
    "dpm++ adm": dict(sampler="dpm++", spacing="adm", steps=20),
    "dpm++ leading": dict(sampler="dpm++", spacing="leading", steps=20),
    "dpm++ trailing": dict(sampler="dpm++", spacing="trailing", steps=20),
    "dpm++ linspace": dict(sampler="dpm++", spacing="linspace", steps=20),
    "heun adm": dict(sampler="heun", spacing="adm", steps=39),
    "heun leading": dict(sampler="heun", spacing="leading", steps=39),
    "heun trailing": dict(sampler="heun", spacing="trailing", steps=39),
    "heun linspace": dict(sampler="heun", spacing="linspace", steps=39),
    "dpm-fast": dict(sampler="dpm-fast", steps=20),
    "euler-sde": dict(sampler="euler-sde", steps=300),
}
PROCESSES = {
    "cosine": dict(schedule="cosine"),
    "linear learned": dict(schedule="linear", variance="learned_range"),
    "count": dict(schedule="sqrt_linear", time="count"),
    "continuous": dict(schedule="vp", time="continuous"),
    "rescaled": dict(schedule="ldm", time="rescaled"),
}
PAIRS = [(w, p) for w in WAYS for p in PROCESSES if w != "euler-sde" or p == "continuous"]


def configured(way, process="cosine"):
    config = replaced(tiny_config(), "diffusion", **PROCESSES[process])
    return replaced(config, "evaluation", **WAYS[way])


@pytest.mark.parametrize(("way", "process"), PAIRS)
def test_a_perfect_network_finds_the_clean_image(way, process):
    config, seen = configured(way, process), []
    clean = torch.linspace(-0.9, 0.9, 64).view(1, 8, 8)
    x = samplers.sample_images(oracle(clean, config, seen), config, (1, 8, 8), [0, 1], labels(2))
    noisy = way in ("ddim ldm", "euler-sde", "dpm-fast")  # these end at the first noise level, about 0.03
    assert (x - clean).abs().max() < (0.15 if noisy else 0.05)
    assert len(seen) == config.evaluation.steps


@pytest.mark.parametrize("way", WAYS)
def test_the_network_first_sees_the_images_own_noise(way):
    config, seen = configured(way, "continuous"), []

    def net(x, t, cond):
        seen.append(x)
        return x * 0.1

    samplers.sample_images(net, config, (1, 4, 4), [3, 5], labels(2))
    noise = [torch.randn(1, 4, 4, generator=g) for g in samplers.image_generators(config.evaluation.seed, [3, 5])]
    assert torch.allclose(seen[0], torch.stack(noise), rtol=1e-4)


EXACT = {"ddim adm": 200, "dpm++ adm": 250, "heun adm": 149, "dpm-fast": 50}


@pytest.mark.parametrize("process", ["linear learned", "count", "continuous"])
@pytest.mark.parametrize("way", EXACT)
def test_deterministic_samplers_solve_the_gaussian_ode(way, process):
    """For images of standard deviation 1/2 the ODE scales x by the ratio of the deviations at its ends."""
    config = replaced(configured(way, process), "evaluation", steps=EXACT[way], clip=False)
    d = config.diffusion
    levels = noise_schedules.noise_levels(d.schedule, d.steps)

    def net(x, t, cond):
        log_alpha = levels.log_alpha(count_of(t[0].double(), d.time, d.steps) / d.steps)
        alpha, sigma = log_alpha.exp().item(), noise_schedules.sigma(log_alpha).item()
        eps = sigma * x / (alpha**2 / 4 + sigma**2)
        return torch.cat([eps, eps], 1) if d.variance == "learned_range" else eps

    x = samplers.sample_images(net, config, (1, 4, 4), [0], labels(1))
    start = torch.randn(1, 4, 4, generator=samplers.image_generators(config.evaluation.seed, [0])[0])
    assert torch.allclose(x[0] / start, torch.tensor(0.5), rtol=0.02)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_clipping_is_to_the_range_of_images(way, clip):
    config = replaced(configured(way, "continuous"), "evaluation", clip=clip)
    x = samplers.sample_images(oracle(torch.full((1, 4, 4), 3.0), config), config, (1, 4, 4), [0], labels(1))
    assert x.mean() == pytest.approx(1.0 if clip else 3.0, abs=0.05)


@pytest.mark.parametrize("variance", ["fixed", "learned_range"])
@pytest.mark.parametrize("way", WAYS)
def test_images_do_not_depend_on_batches_or_processes(way, variance):
    """The network uses sums, products and quotients only, which round alike in every batch on every processor.

    A convolution does not, and the first step of the cosine schedule divides its rounding error by sqrt(bar) = 5e-5.
    Of the samplers' own operations only exp may round otherwise in another batch, by 2^-24 after that step.
    """
    process = dict(variance=variance) if way != "euler-sde" else dict(schedule="vp", time="continuous")
    config = replaced(tiny_config(), "diffusion", **process)
    config = replaced(config, "evaluation", **{**WAYS[way], "steps": 5})

    def net(x, t, cond):
        y = x + 0.5 * x.roll(1, -1) - 0.25 * x.roll(1, -2) + cond.view(-1, 1, 1, 1) * 0.1 + t.view(-1, 1, 1, 1) / 1000
        y = y / (1 + y.abs())
        return torch.cat([y, -y], dim=1) if config.diffusion.variance == "learned_range" else y

    def images(parts):
        whole = torch.empty(7, 1, 4, 4)
        for part in parts:
            whole[part] = samplers.sample_images(net, config, (1, 4, 4), part, labels(7)[part])
        return whole

    everything = list(range(7))
    together = images([everything])
    for size in (1, 3):
        parts = [everything[i : i + size] for i in range(0, 7, size)]
        assert torch.allclose(images(parts), together, rtol=0, atol=1e-5)
    for world in (2, 3):
        assert torch.allclose(images([everything[r::world] for r in range(world)]), together, rtol=0, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_another_sampling_seed_gives_other_images():
    a, b = (samplers.image_generators(seed, [0])[0] for seed in (0, 1))
    assert not torch.equal(torch.randn(4, generator=a), torch.randn(4, generator=b))


TIMES = [("index", 999.0, 0.0), ("count", 1000.0, 1.0), ("continuous", 999.0, 0.999), ("rescaled", 999.0, 0.0)]


@pytest.mark.parametrize(("kind", "first", "last"), TIMES)
def test_sampling_and_training_use_the_same_network_times(kind, first, last):
    config, seen = replaced(tiny_config(), "diffusion", time=kind), []
    config = replaced(config, "evaluation", sampler="ddpm", spacing="adm", steps=1000)
    samplers.sample_images(oracle(torch.zeros(1, 2, 2), config, seen), config, (1, 2, 2), [0], labels(1))
    trained = GaussianDiffusion("cosine", 1000, time=kind).time(torch.arange(1000).flip(0))
    assert (seen[0], seen[-1]) == pytest.approx((first, last))
    assert seen == pytest.approx(trained.tolist(), rel=1e-6)


@pytest.mark.parametrize("steps", [10, 50, 250])
def test_the_published_spacing_is_that_of_its_scripts(steps):
    config = replaced(tiny_config(), "evaluation", sampler="ddpm", spacing="adm", steps=steps)
    assert samplers.make_scheduler(config)[1] == respaced_timesteps(1000, str(steps))
    config = replaced(config, "evaluation", sampler="ddim")
    assert (
        samplers.make_scheduler(config)[1]
        == respaced_timesteps(1000, f"ddim{steps}")
        == list(range(0, 1000, 1000 // steps))
    )


def echo(x, t, cond):
    """Return the label as noise channels, and the label + 7 as variance channels."""
    value = cond.view(-1, 1, 1, 1) + x * 0
    return torch.cat([value, value + 7], 1)


@pytest.mark.parametrize(("channels", "guided_ones"), [("all", 4), ("three", 3)])
def test_guidance_extrapolates_from_the_null_class(channels, guided_ones):
    x, cond = torch.zeros(2, 4, 2, 2), torch.tensor([1, 4])
    out = samplers.guide(echo, 1.5, null=10, channels=channels)(x, torch.zeros(2), cond)
    for image, label in enumerate((1, 4)):
        guided = [10 + 1.5 * (label - 10)] * guided_ones
        conditional = [label] * (4 - guided_ones) + [label + 7] * 4
        assert out[image, :, 0, 0].tolist() == guided + conditional


def test_scale_one_is_the_network_itself():
    assert samplers.guide(echo, 1.0, null=10) is echo


def test_uvits_form_of_guidance_is_ours_with_one_more():
    x, cond = torch.zeros(1, 4, 2, 2), torch.tensor([1])
    ours = samplers.guide(echo, 1.4, null=10)(x, torch.zeros(1), cond)[:, :4]
    with_label, without = echo(x, None, cond)[:, :4], echo(x, None, torch.tensor([10]))[:, :4]
    assert torch.allclose(ours, with_label + 0.4 * (with_label - without))


DIT_GUIDED = [n for n, c in CASES.items() if c["call"] == "forward_with_cfg" and "mixed" not in n]


@pytest.mark.parametrize("name", DIT_GUIDED)
def test_guidance_on_three_channels_is_dits_guided_forward(name):
    case = CASES[name]
    ctor = ctor_of(case)
    state = weights("dit", architectures.official_layout("dit", **ctor), case["weight_seed"], case.get("scale", ()))
    net = architectures.from_official("dit", state, **ctor).eval()
    arguments = inputs(case)
    half = len(arguments["x"]) // 2
    null = arguments["y"][half:].unique().item()
    net = samplers.guide(net, case["cfg_scale"], null, channels="three")
    with torch.no_grad():
        out = net(arguments["x"][:half], arguments["t"][:half].float(), arguments["y"][:half])
    expected = ARRAYS[f"{name}/out"][:half]
    assert np.abs(out.numpy() - expected).max() < case["atol"]


INTERVALS = [("index", (0.25, 0.75)), ("count", (0.0, 0.5)), ("continuous", (0.5, 1.0)), ("rescaled", (0.1, 0.9))]


@pytest.mark.parametrize(("kind", "interval"), INTERVALS)
@pytest.mark.parametrize("way", ["ddpm adm", "heun trailing", "dpm-fast"])
def test_guidance_acts_within_its_interval_alone(way, kind, interval):
    config = replaced(configured(way), "diffusion", time=kind)
    config = replaced(config, "evaluation", guidance=3.0, guidance_interval=interval)
    at = {True: [], False: []}

    def net(x, t, cond):
        at[bool((cond == 10).any())].append(count_of(t[0].item(), kind) / 1000)
        return x * 0.1

    samplers.sample_images(samplers.guide_from_config(net, config, 10), config, (1, 2, 2), [0, 1], labels(2))
    low, high = interval
    assert at[True] and at[False] and len(at[True]) + len(at[False]) == config.evaluation.steps
    assert all(low - 1e-5 <= t <= high + 1e-5 for t in at[True])
    assert not any(low + 1e-5 <= t <= high - 1e-5 for t in at[False])


def test_every_sampler_of_the_settings_exists_and_is_tested():
    names = set(get_args(get_type_hints(EvaluationConfig)["sampler"]))
    assert names == set(samplers.SAMPLERS) == {settings["sampler"] for settings in WAYS.values()}
