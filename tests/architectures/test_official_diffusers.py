"""Test DiT in diffusers' layout: the installed diffusers computes the same outputs on the same weights."""

import pytest
import torch
from diffusers import DiTTransformer2DModel

from architectures import IOSpec, build, from_diffusers, to_diffusers
from architectures.check import perturb_parameters

CONFIG = dict(
    num_attention_heads=4,
    attention_head_dim=16,
    in_channels=3,
    out_channels=6,
    num_layers=3,
    sample_size=12,
    num_embeds_ada_norm=10,
)


def theirs(**more):
    """Build a small DiT of diffusers whose blocks share the embedder weights, as in the published conversions."""
    model = perturb_parameters(DiTTransformer2DModel(**{**CONFIG, "norm_eps": 1e-6, **more}))
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    return model


def ours(**more):
    io = IOSpec(channels=3, size=12, num_classes=10, variance="learned_range")
    return perturb_parameters(build("dit", io=io, args={"depth": 3, "width": 64, "heads": 4, **more}))


def batch():
    x = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0, 250, 500, 999]), torch.tensor([0, 3, 9, 10])


def published_frequencies(model):
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return model


@torch.no_grad()
def test_diffusers_with_published_frequencies_is_equal():
    model, arguments = published_frequencies(theirs()), batch()
    net = from_diffusers(model.state_dict(), model.config)
    torch.testing.assert_close(net(*arguments), model(*arguments).sample, rtol=0, atol=2e-5)


@torch.no_grad()
def test_ddpm_frequencies_follow_diffusers():
    model, arguments = theirs(), batch()
    net = from_diffusers(model.state_dict(), model.config, frequencies="ddpm")
    torch.testing.assert_close(net(*arguments), model(*arguments).sample, rtol=0, atol=2e-5)
    net = from_diffusers(model.state_dict(), model.config)
    off = (net(*arguments) - model(*arguments).sample).abs().amax(dim=(1, 2, 3))
    assert off[0] < 2e-5, "at t = 0 the frequencies do not matter"
    assert off[1:].min() > 1e-3, "diffusers has taken up the published frequencies: drop the switch"


@torch.no_grad()
def test_diffusers_computes_our_function_on_our_weights():
    net, arguments = ours(), batch()
    state, config = to_diffusers(net)
    model = DiTTransformer2DModel(**config)
    assert list(state) == list(model.state_dict())
    model.load_state_dict(state)
    torch.testing.assert_close(
        net(*arguments), published_frequencies(model.eval())(*arguments).sample, rtol=0, atol=2e-5
    )


def test_round_trip_keeps_keys_order_and_bits():
    model = theirs()
    back, config = to_diffusers(from_diffusers(model.state_dict(), model.config))
    assert list(back) == list(model.state_dict())
    assert all(torch.equal(back[key], value) for key, value in model.state_dict().items())
    assert {name: model.config[name] for name in config} == config


def spoiled(state, wrong):
    first = "transformer_blocks.0.attn1.to_q.weight"
    match wrong:
        case "missing":
            return {key: value for key, value in state.items() if key != first}
        case "unexpected":
            return {**state, "extra.weight": torch.zeros(2)}
        case "shape":
            return {**state, first: torch.zeros(2, 2)}
        case "NaN":
            return {**state, first: state[first] * float("nan")}
        case "copies":
            key = "transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.bias"
            return {**state, key: state[key] + 1}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("missing", r"transformer_blocks\.0\.attn1\.to_q\.weight is missing"),
        ("unexpected", r"extra\.weight is unexpected"),
        ("shape", r"transformer_blocks\.0\.attn1\.to_q\.weight has shape \(2, 2\), not \(64, 64\)"),
        ("NaN", r"NaN or infinity: transformer_blocks\.0\.attn1\.to_q\.weight"),
        ("copies", r"transformer_blocks\.2\..*linear_1\.bias is not the same as in the first block"),
    ],
)
def test_wrong_weights_are_refused_by_the_key(wrong, why):
    model = theirs()
    with pytest.raises(ValueError, match=why):
        from_diffusers(spoiled(model.state_dict(), wrong), model.config)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"activation_fn": "geglu"}, "activation_fn is 'geglu'"),
        ({"norm_type": "ada_norm"}, "norm_type is 'ada_norm'"),
        ({"attention_bias": False}, "attention_bias is False"),
        ({"out_channels": 5}, "out_channels is 5 in the configuration; DiT has 3"),
    ],
)
def test_configuration_that_is_no_dit_is_refused(more, why):
    with pytest.raises(ValueError, match=why):
        from_diffusers({}, {**CONFIG, **more})


@pytest.mark.parametrize(
    ("args", "io", "why"),
    [
        ({"conditioning": "adaln"}, {}, "adaln_zero only"),
        ({"mlp_ratio": 2.0}, {}, "four times as wide"),
        ({}, {"null_label": False}, "a null class"),
        ({}, {"num_classes": 0}, "has classes"),
    ],
)
def test_network_that_diffusers_cannot_express_is_not_written(args, io, why):
    io = IOSpec(**{"channels": 3, "size": 12, "num_classes": 10, **io})
    with pytest.raises(ValueError, match=why):
        to_diffusers(build("dit", io=io, args={"depth": 1, "width": 64, **args}))


def test_another_position_table_is_not_written():
    net = ours()
    net.pos_embed *= 0.5
    with pytest.raises(ValueError, match="computes its position table"):
        to_diffusers(net)
    with pytest.raises(ValueError, match="UViT is not a DiT"):
        to_diffusers(build("uvit", "nano/2", io=IOSpec(channels=3, size=12)))
