import pytest

from architectures import registry
from bench import presets, protocol
from bench.config import override

HASHES = dict(extractor_hash="a", reference_hash="b", reference_count=3)


def resolved(**wish):
    return presets.resolve(presets.Wish(**wish))


SETTINGS = [("dit", "XL/2", "imagenet256-latents"), ("uvit", "S/2", "cifar10"), ("unet", "ADM-64", "imagenet64")]


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


def test_native_recipes_are_the_papers():
    dit, uvit, unet = (resolved(arch=a, track="native") for a in ("dit", "uvit", "unet"))
    assert (dit.recipe.lr, dit.recipe.batch, dit.diffusion.variance) == (1e-4, 256, "learned_range")
    assert (uvit.recipe.lr, uvit.recipe.beta1, uvit.recipe.weight_decay) == (2e-4, 0.99, 0.03)
    assert (unet.recipe.label_drop, unet.diffusion.variance) == (0.0, "learned_range")


def test_the_quickstart_is_three_backbones_at_one_cost():
    wishes = presets.quickstart(presets.Wish(seed=3))
    assert [w.arch for w in wishes] == ["dit", "uvit", "unet"]
    assert {(w.match, w.seed, w.data) for w in wishes} == {("macs:unet:nano", 3, "digits")}


def training(config, target=5):
    native = presets.native_preset(config.model.arch)
    return protocol.training_of(config, native=native, match_target=target)


def test_seed_and_architecture_do_not_change_the_protocol():
    one, two = resolved(arch="dit"), resolved(arch="unet", seed=4)
    assert training(one) == training(two)
    assert protocol.evaluation_of(one, **HASHES) == protocol.evaluation_of(two, **HASHES)


RULES = ["evaluation.steps", "evaluation.samples", "evaluation.guidance", "evaluation.seed"]


@pytest.mark.parametrize("key", RULES)
def test_every_rule_of_evaluation_changes_the_fingerprint(key):
    config = resolved(arch="dit")
    other = override(config, {key: "33"})
    prints = {protocol.fingerprint(protocol.evaluation_of(c, **HASHES)) for c in (config, other)}
    assert len(prints) == 2


@pytest.mark.parametrize("key", ["recipe.batch", "budget.images", "diffusion.steps", "recipe.warmup"])
def test_every_rule_of_training_changes_the_fingerprint(key):
    config = resolved(arch="dit")
    assert training(config) != training(override(config, {key: "777"}))


def test_other_weights_of_the_extractor_are_another_protocol():
    config = resolved(arch="dit")
    other = {**HASHES, "extractor_hash": "c"}
    assert protocol.evaluation_of(config, **HASHES) != protocol.evaluation_of(config, **other)


def test_native_recipes_share_a_protocol_until_one_departs_from_its_paper():
    dit, uvit = resolved(arch="dit", track="native"), resolved(arch="uvit", track="native")
    assert training(dit) == training(uvit)
    assert training(override(dit, {"recipe.lr": "2e-4"})) != training(uvit)
    assert training(dit) != training(resolved(arch="dit"))


def test_an_entry_point_is_an_architecture(monkeypatch):
    class Point:
        name, value = "mine", "architectures.dit:DiT"

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point] if group == "backbones" else [])
    assert "mine" in registry.names()
    assert registry.entry("mine").target == "architectures.dit:DiT"
