import dataclasses

import pytest

from architectures import registry
from bench.config.overrides import apply_overrides
from bench.experiments import presets
from bench.records import protocol

HASHES = dict(extractor_hash="a", reference_hash="b", reference_count=3)


def resolved(**wish):
    return presets.compose_config(presets.RunRequest(**wish))


SETTINGS = [("dit", "XL/2", "imagenet256-latents"), ("uvit", "S/2", "cifar10-uncond"), ("unet", "ADM-64", "imagenet64")]


@pytest.mark.parametrize(("arch", "size", "data"), SETTINGS)
def test_a_paper_size_implies_the_papers_setting(arch, size, data):
    config = resolved(arch=arch, size=size)
    assert config.data.name == data and config.budget.images == 102_400_000
    assert config.evaluation.extractor == "inception-v3-compat" and config.evaluation.samples == 50_000
    assert config.evaluation.clip == (not data.endswith("latents"))


def test_no_size_implies_the_laptop_size_on_digits():
    config = resolved(arch="uvit")
    assert (config.model.size, config.data.name, config.evaluation.extractor) == ("nano/2", "digits", "digits-cnn")


@pytest.mark.parametrize("arch", registry.ARCHITECTURES)
def test_one_recipe_is_shared_by_all(arch):
    assert resolved(arch=arch).recipe == resolved(arch="dit").recipe
    assert resolved(arch=arch).diffusion == resolved(arch="dit").diffusion


@pytest.mark.parametrize(("arch", "size"), [(a, s) for a in presets.NATIVE_RECIPES for s in registry.sizes(a)])
def test_a_native_run_departs_from_nothing(arch, size):
    config = resolved(arch=arch, size=size, track="native")
    assert training(config)["recipe"] == {}
    assert training(apply_overrides(config, {"recipe.lr": "0.5"}))["recipe"] == {"lr": 0.5}


def training(config, target=5):
    native = presets.native_preset(config)
    return protocol.training_protocol(config, native=native, match_target=target)


def test_seed_and_architecture_do_not_change_the_protocol():
    one, two = resolved(arch="dit"), resolved(arch="unet", seed=4)
    assert training(one) == training(two)
    assert protocol.evaluation_protocol(one, **HASHES) == protocol.evaluation_protocol(two, **HASHES)


RULES = ["evaluation.steps", "evaluation.samples", "evaluation.guidance", "evaluation.seed"]


@pytest.mark.parametrize("key", RULES)
def test_every_rule_of_evaluation_changes_the_fingerprint(key):
    config = resolved(arch="dit")
    other = apply_overrides(config, {key: "33"})
    prints = {protocol.fingerprint(protocol.evaluation_protocol(c, **HASHES)) for c in (config, other)}
    assert len(prints) == 2


@pytest.mark.parametrize("key", ["recipe.batch", "budget.images", "diffusion.steps", "recipe.warmup"])
def test_every_rule_of_training_changes_the_fingerprint(key):
    config = resolved(arch="dit")
    assert training(config) != training(apply_overrides(config, {key: "777"}))


def test_other_weights_of_the_extractor_are_another_protocol():
    config = resolved(arch="dit")
    other = {**HASHES, "extractor_hash": "c"}
    assert protocol.evaluation_protocol(config, **HASHES) != protocol.evaluation_protocol(config, **other)


def test_a_changed_native_recipe_changes_the_protocol():
    dit, uvit = resolved(arch="dit", track="native"), resolved(arch="uvit", track="native")
    assert training(dit) == training(uvit)
    assert training(apply_overrides(dit, {"recipe.lr": "2e-4"})) != training(uvit)
    assert training(dit) != training(resolved(arch="dit"))


def test_an_entry_point_is_an_architecture(monkeypatch):
    class Point:
        name, value = "mine", "architectures.dit:DiT"

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point] if group == "backbones" else [])
    assert "mine" in registry.names()
    assert registry.entry("mine").target == "architectures.dit:DiT"


PUBLISHED = [
    ("dit", "XL/2", dict(schedule="linear", time="index", variance="learned_range", steps=1000)),
    ("unet", "ADM-64", dict(schedule="cosine", time="index", variance="learned_range", steps=1000)),
    ("unet", "ADM-128", dict(schedule="linear", time="index", variance="learned_range", steps=1000)),
    ("unet", "ADM-512", dict(schedule="linear", time="index", variance="learned_range", steps=1000)),
    ("unet", "iDDPM-64", dict(schedule="cosine", time="rescaled", variance="learned_range", steps=4000)),
    ("unet", "LDM-4", dict(schedule="ldm", time="index", variance="fixed", steps=1000)),
    ("uvit", "H/2", dict(schedule="sqrt_linear", time="count", variance="fixed", steps=1000)),
    ("uvit", "L/2", dict(schedule="vp", time="continuous", variance="fixed", steps=1000)),
    ("uvit", "S/2", dict(schedule="vp", time="continuous", variance="fixed", steps=1000)),
]


@pytest.mark.parametrize(("arch", "size", "process"), PUBLISHED)
def test_a_published_size_has_its_published_process(arch, size, process):
    assert dataclasses.asdict(presets.published_process(arch, size)) == process
    assert dataclasses.asdict(resolved(arch=arch, size=size, track="native").diffusion) == process


def test_uvits_text_models_are_discrete():
    assert presets.published_process("uvit", "S/2", text=True).schedule == "sqrt_linear"
    assert presets.published_sampling("uvit", "S/2", text=True)["guidance"] == 2.0


@pytest.mark.parametrize(("arch", "size"), [(a, s) for a in presets.NATIVE_RECIPES for s in registry.sizes(a)])
def test_published_sampling_suits_the_published_process(arch, size):
    """RunConfig refuses samplers that a schedule lacks, and steps that a process does not have."""
    config = resolved(arch=arch, size=size, track="native")
    evaluation = dataclasses.replace(config.evaluation, **presets.published_sampling(arch, size))
    sampled = dataclasses.replace(config, evaluation=evaluation)
    assert (sampled.evaluation.sampler == "euler-sde") <= (config.diffusion.schedule == "vp")
    with pytest.raises(ValueError, match=r"diffusion\.steps allows at most"):
        dataclasses.replace(sampled, diffusion=dataclasses.replace(config.diffusion, steps=evaluation.steps - 1))


def test_an_architecture_that_was_never_published_has_no_process():
    with pytest.raises(ValueError, match="mine has no published process; there are dit"):
        presets.published_process("mine")


def test_the_papers_scale_is_sampled_as_dit_and_adm_are():
    e = resolved(arch="dit", size="XL/2").evaluation
    assert (e.sampler, e.steps, e.spacing) == ("ddpm", 250, "adm")


def test_a_solved_size_on_the_native_track_departs_from_nothing():
    config = resolved(arch="uvit", size="L/2", track="native")
    solved = dataclasses.replace(config, model=dataclasses.replace(config.model, size="", solved={"depth": 8}))
    assert training(solved)["recipe"] == {} == training(config)["recipe"]
    assert training(apply_overrides(config, {"diffusion.time": "index"}))["recipe"] == {"diffusion.time": "index"}


SAMPLING = {
    "sampler": "ddim",
    "steps": "125",
    "spacing": "leading",
    "clip": "true",
    "guidance": "2",
    "guidance_channels": "three",
    "guidance_interval": "[0.1,0.7]",
    "precision": "bf16",
}


@pytest.mark.parametrize("key", SAMPLING)
def test_every_choice_of_sampling_changes_the_fingerprint(key):
    base = apply_overrides(resolved(arch="dit", size="XL/2"), {"evaluation.guidance": "1.5"})
    other = apply_overrides(base, {f"evaluation.{key}": SAMPLING[key]})
    prints = {protocol.fingerprint(protocol.evaluation_protocol(c, **HASHES)) for c in (base, other)}
    assert len(prints) == 2


def test_captions_name_a_precision_below_float32():
    words = [
        protocol.describe_protocol({"evaluation": protocol.evaluation_protocol(resolved(settings=settings), **HASHES)})
        for settings in ({}, {"evaluation.precision": "bf16"})
    ]
    assert " in bf16" in words[1] and words[0] == words[1].replace(" in bf16", "")


def test_eta_changes_the_fingerprint():
    base = apply_overrides(resolved(arch="dit"), {"evaluation.sampler": "ddim"})
    other = apply_overrides(base, {"evaluation.eta": "0.5"})
    assert protocol.evaluation_protocol(base, **HASHES) != protocol.evaluation_protocol(other, **HASHES)


@pytest.mark.parametrize(
    ("base", "more"),
    [
        (
            {"evaluation.guidance": "1"},
            {"evaluation.guidance_channels": "three", "evaluation.guidance_interval": "[0,0.5]"},
        ),
        ({"evaluation.sampler": "dpm-fast"}, {"evaluation.spacing": "leading"}),
    ],
)
def test_what_has_no_effect_does_not_change_the_fingerprint(base, more):
    one = apply_overrides(resolved(arch="dit"), base)
    two = apply_overrides(one, more)
    assert protocol.evaluation_protocol(one, **HASHES) == protocol.evaluation_protocol(two, **HASHES)


@pytest.mark.parametrize("key", ["diffusion.schedule", "diffusion.time"])
def test_the_process_changes_the_fingerprint_of_training(key):
    config = resolved(arch="dit")
    other = apply_overrides(config, {key: {"diffusion.schedule": "ldm", "diffusion.time": "count"}[key]})
    assert training(config) != training(other)


WORDS = [
    ({"evaluation.guidance": "1"}, "no guidance;"),
    ({"evaluation.guidance": "1.4"}, "guidance 1.4 (U-ViT's scale 0.4) on all channels;"),
    (
        {"evaluation.guidance": "1.5", "evaluation.guidance_channels": "three"},
        "guidance 1.5 (U-ViT's scale 0.5) on the first three channels;",
    ),
    (
        {"evaluation.guidance": "2", "evaluation.guidance_interval": "[0.1,0.7]"},
        "channels from 0.1 to 0.7 of the noise;",
    ),
    ({"evaluation.sampler": "ddim", "evaluation.eta": "0.5"}, "250-step ddim eta 0.5,"),
]


@pytest.mark.parametrize(("settings", "words"), WORDS, ids=[w for _, w in WORDS])
def test_a_protocol_says_how_it_samples_and_guides(settings, words):
    config = apply_overrides(resolved(arch="dit", size="XL/2"), settings)
    assert words in protocol.describe_protocol({"evaluation": protocol.evaluation_protocol(config, **HASHES)})
