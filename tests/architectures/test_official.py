"""Compare networks with published weights to the published code: outputs, gradients, layouts, MACs."""

import functools
import math

import numpy as np
import pytest
import torch
from official_cases import (
    ARRAYS,
    CASES,
    INDEX,
    MODELS,
    ctor_of,
    differences,
    dit_guided,
    gradient_differences,
    inputs,
    layout_of,
    learned_variance_loss,
    network,
    on_meta,
    timestep_tolerance,
    uvit_guided,
    uvit_loss,
)
from torch.utils.flop_counter import FlopCounterMode

from architectures import from_official, official_call, official_layout, to_official
from architectures.embeddings import sincos_2d, timestep_embedding
from architectures.official_ctor import PUBLISHED, translate


def by_speed(cases):
    return [pytest.param(c, id=c["id"], marks=[pytest.mark.slow] if c.get("slow") else []) for c in cases]


def evaluate(case, net, named):
    """Return the arrays of a case: the output of the network, or the terms of its loss."""

    def call(**arguments):
        return official_call(net, **arguments)

    match case["call"]:
        case "forward":
            return {"out": call(**named)}
        case "forward_with_cfg":
            return {"out": dit_guided(call, case["cfg_scale"], **named)}
        case "cfg_uvit":
            return {"out": uvit_guided(call, case["cfg_scale"], case["null_label"], **named)}
        case "LSimple":
            return {"loss_per_sample": uvit_loss(call, **named)}
        case "training_losses":
            schedule = case["diffusion"].get("noise_schedule", "linear")
            named["t"] = named.pop("timesteps", named.get("t"))
            return learned_variance_loss(call, schedule, **named)


@pytest.mark.parametrize("case", by_speed(c for c in CASES.values() if not c.get("grad")))
def test_output_is_that_of_the_published_code(case):
    net = network(case)
    with torch.no_grad():
        assert not differences(case, evaluate(case, net, inputs(case)))


@pytest.mark.parametrize("case", by_speed(c for c in CASES.values() if c.get("grad")))
def test_gradients_are_those_of_the_published_code(case):
    net, named = network(case), inputs(case)
    target = named.pop("target", None)
    got = evaluate(case, net, {**named, "x": named["x"].requires_grad_(target is not None)})
    per_image = got.get("term_loss", got.get("loss_per_sample"))
    got["loss"] = (got["out"] - target).square().mean() if per_image is None else per_image.mean()
    got["loss"].backward()
    if target is not None:
        got["grad_x"] = named["x"].grad
    keys = dict(zip(net.state_dict(), to_official(net), strict=True))
    grads = {keys[name]: p.grad for name, p in net.named_parameters()}
    assert set(keys.values()) - set(grads) == set(case["no_grad_keys"])
    assert not differences(case, got) + gradient_differences(case, grads)


TIMESTEP_TABLES = INDEX["components"]["timestep_embedding"]


def excess(table, embed):
    """Return the greatest difference from a published timestep table, in units of `timestep_tolerance`."""
    got = embed(torch.tensor(table["t"], dtype=getattr(torch, table["dtype"])), table["dim"])
    want = ARRAYS[f"components/{table['array']}"]
    assert (got.dtype, got.shape) == (torch.float32, want.shape)
    away, even = np.abs(got.double().numpy() - want), table["dim"] // 2 * 2
    assert not away[:, even:].any(), "the last column is not zero"
    return (away[:, :even] / timestep_tolerance(table["t"], table["dim"])).max()


@pytest.mark.parametrize("table", TIMESTEP_TABLES, ids=lambda table: table["array"])
def test_timestep_embedding_is_the_published_table(table):
    assert excess(table, timestep_embedding) <= 1


@pytest.mark.parametrize("table", TIMESTEP_TABLES, ids=lambda table: table["array"])
def test_frequencies_in_float64_are_not_the_published_ones(table):
    """The tolerance allows another exp, but not exponents in float64: those move a frequency by several units."""

    def in_float64(t, width):
        half = width // 2
        freqs = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64) / half).float()
        args = t.float()[:, None] * freqs
        return torch.nn.functional.pad(torch.cat([args.cos(), args.sin()], dim=1), (0, width % 2))

    assert excess(table, in_float64) > 1


@pytest.mark.parametrize("table", INDEX["components"]["pos_embed"], ids=lambda table: table["array"])
def test_position_table_is_the_published_one(table):
    """Computed in float64 and rounded once, so processors differ by one unit in the last place, 6e-8, at most."""
    got = sincos_2d(table["dim"], table["grid"], table["grid"])
    want = torch.from_numpy(ARRAYS[f"components/{table['array']}"])
    torch.testing.assert_close(got if table["rows"] is None else got[table["rows"]], want, rtol=0, atol=2e-7)


@functools.cache
def recognised(name):
    return from_official(MODELS[name]["family"], on_meta(layout_of(MODELS[name])))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_layout_has_the_published_keys_and_shapes_in_order(model):
    layout = official_layout(model["family"], **ctor_of(model))
    assert list(layout.items()) == list(layout_of(model).items())


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_published_checkpoint_is_recognised_without_arguments(model):
    net = recognised(model["name"])
    _, io, args = translate(model["family"], ctor_of(model))
    assert (net.spec.io, net.spec.args) == (io, args)
    assert {key: tuple(value.shape) for key, value in to_official(net).items()} == layout_of(model)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_multiply_accumulates_are_the_published_ones(model):
    """LDM within 1e-4: its one-token cross-attention is an elementwise product there, a matrix product here."""
    named = {k: torch.empty(shape, device="meta") for k, shape in model["inputs"].items()}
    if "y" in named:
        named["y"] = named["y"].long()
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        out = official_call(recognised(model["name"]), **named)
    assert list(out.shape) == model["output_shape"]
    assert flops.get_total_flops() / 2 == pytest.approx(model["macs"], rel=1e-4 if model["family"] == "ldm" else 0)


def test_every_published_model_is_in_the_table():
    assert sum(map(len, PUBLISHED.values())) == len(MODELS)
