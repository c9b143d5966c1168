import dataclasses

import pytest

from bench.config.fields import iterate_settings
from bench.config.overrides import apply_overrides, config_from_dict
from bench.config.schema import RunConfig


def test_settings_are_read_by_the_type_of_their_field():
    config = apply_overrides(RunConfig(), {"recipe.lr": "2e-4", "budget.images": "5000", "recipe.ema_ramp": "true"})
    assert (config.recipe.lr, config.budget.images, config.recipe.ema_ramp) == (2e-4, 5000, True)


def test_network_arguments_are_read_as_json_or_text():
    settings = {"model.args.depth": "3", "model.args.conditioning": "adaln", "model.args.channel_mult": "[1, 2]"}
    assert apply_overrides(RunConfig(), settings).model.args == {
        "depth": 3,
        "conditioning": "adaln",
        "channel_mult": [1, 2],
    }


MISTAKES = [
    ({"recipe.lr": "-1"}, "recipe.lr is -1.0; it must be greater than 0"),
    ({"recipe.lrr": "1"}, "unknown key 'recipe.lrr'; did you mean recipe.lr"),
    ({"lr": "1"}, "did you mean recipe.lr"),
    ({"recipes.lr": "1"}, "unknown key 'recipes'"),
    ({"recipe": "3"}, "recipe is '3'"),
    ({"diffusion.schedule": "cosin"}, "'cosine'"),
    ({"recipe.batch": "1.5"}, "recipe.batch is '1.5'"),
    ({"recipe.lr": "nan"}, "finite"),
    ({"recipe.ema": "1"}, "below 1"),
    ({"budget.images": "0"}, "budget.images is 0"),
    ({"budget.images": "3"}, "at most budget.images"),
    ({"evaluation.steps": "1001"}, "diffusion.steps allows at most 1000"),
    ({"evaluation.samples": "3"}, "need at least 20"),
    ({"evaluation.sampler": "heun"}, "evaluation.steps is 250; heun takes two network evaluations per step"),
    ({"evaluation.eta": "0.5"}, "which only ddim has; ddpm needs eta 0"),
    ({"evaluation.sampler": "ddim", "evaluation.eta": "2"}, "evaluation.eta is 2.0; it must be from 0 to 1"),
    ({"evaluation.spacing": "ldm"}, "evaluation.spacing is ldm, which only ddim has"),
    ({"evaluation.sampler": "ddim", "evaluation.spacing": "ldm", "evaluation.steps": "501"}, "at most half of 1000"),
    ({"evaluation.sampler": "ddim", "evaluation.steps": "300"}, "no integer stride keeps exactly 300 of 1000"),
    ({"evaluation.sampler": "euler-sde"}, "euler-sde, which needs diffusion.schedule vp, not linear"),
    (
        {"evaluation.guidance_interval": "[0.7,0.1]"},
        "[0.7,0.1]; it must rise within [0,1]",
    ),
    ({"evaluation.guidance_interval": "0.7"}, "evaluation.guidance_interval is '0.7'"),
    ({"diffusion.schedule": "vp", "diffusion.variance": "learned_range"}, "which the continuous schedule vp lacks"),
    ({"diffusion.time": "counts"}, "diffusion.time is 'counts'"),
    ({"seed": "-1"}, "seed is -1"),
    ({"compute.threads": "-2"}, "compute.threads is -2"),
    ({"compute.micro_batch": "-2"}, "compute.micro_batch is -2; -1 searches for the largest"),
    ({"compute.workers": "-2"}, "compute.workers is -2; -1 suits the device"),
    ({"compute.compile": "graphs", "compute.sharding": "fsdp"}, "compute.compile is graphs, which"),
    ({"compute.precision": "fp16"}, "compute.precision is 'fp16'"),
    ({"evaluation.precision": "auto"}, "evaluation.precision is 'auto'"),
]


@pytest.mark.parametrize(("settings", "sentence"), MISTAKES, ids=[str(s) for s, _ in MISTAKES])
def test_a_bad_setting_gets_a_sentence(settings, sentence):
    with pytest.raises(ValueError) as caught:
        apply_overrides(RunConfig(), settings)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_round_trips_through_plain_data():
    config = apply_overrides(RunConfig(), {"model.args.depth": "3", "seed": "7"})
    assert config_from_dict(config.to_dict()) == config


def test_compute_and_paths_do_not_change_a_runs_name():
    config = RunConfig()
    other = apply_overrides(config, {"compute.threads": "3", "data.root": "elsewhere", "evaluation.batch": "7"})
    assert other.name == config.name


@pytest.mark.parametrize("key", ["seed", "recipe.lr", "budget.images", "evaluation.guidance", "diffusion.steps"])
def test_settings_of_the_result_change_a_runs_name(key):
    assert apply_overrides(RunConfig(), {key: "501"}).name != RunConfig().name


def test_every_field_has_a_docstring():
    assert [key for key, _, _, doc in iterate_settings(RunConfig) if not doc] == []


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1
