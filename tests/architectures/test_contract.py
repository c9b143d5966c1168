"""Run the checks of architectures.check on every registered architecture, switch and type of condition."""

from dataclasses import replace

import pytest
from helpers import readme_block

from architectures import IOSpec, build, registry
from architectures.check import CHECKS, TOY_IO, build_toy_network, make_toy_inputs, run_checks
from architectures.registry import ARCHITECTURES

SWITCHES = [
    *[("dit", {"conditioning": c}) for c in ("in_context", "cross_attention", "adaln", "adaln_zero")],
    *[("uvit", {"skip": s}) for s in ("concat", "add", "project_add", "add_project", "none")],
    *[("uvit", {"head": h}) for h in ("after", "before", "none")],
    *[("uvit", {"time": "adaln"}), ("uvit", {"time_mlp": True}), ("uvit", {"patch_embed": "conv"})],
    *[("uvit", {"position": p}) for p in ("sincos", "none")],
    *[("unet", {"resample": r}) for r in ("biggan", "conv", "plain")],
    *[
        ("unet", {"norm": "add", "resample": "conv"}),
        ("unet", {"rescale_residual": True}),
        ("unet", {"qkv_order": "heads_first"}),
    ],
    *[("unet", {"head_channels": None, "heads": 4, "up_heads": 2}), ("unet", {"attention": (8, 4)})],
    ("dit", {"frequencies": "ddpm"}),
    ("genvit", {"mlp_ratio": 4.0}),
]
TEXT = dict(text_dim=24, text_tokens=5)
CONDITIONS = {
    "text in U-ViT": ("uvit", dict(num_classes=0, **TEXT), {}),
    "text in the U-Net": ("unet", dict(num_classes=0, **TEXT), {"attention_kind": "transformer"}),
    "text and label": ("unet", TEXT, {"attention_kind": "transformer", "transformer_depth": 2}),
    "image and label": ("unet", dict(image_channels=2), {}),
    "no label in GenViT": ("genvit", dict(num_classes=0), {}),
}


def name_of(case):
    arch, args = case
    return "-".join([arch, *(f"{k}={v}" for k, v in args.items())])


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_keeps_the_contract(arch, check):
    CHECKS[check](build_toy_network(arch))


@pytest.mark.long
@pytest.mark.parametrize("case", SWITCHES, ids=name_of)
def test_every_switch_keeps_the_contract(case):
    arch, args = case
    for name, check in CHECKS.items():
        if name != "exports":  # as slow as all others together, and covered above for each architecture
            check(build_toy_network(arch, args=args))


@pytest.mark.long
@pytest.mark.parametrize("case", CONDITIONS.values(), ids=CONDITIONS)
def test_every_kind_of_condition_keeps_the_contract(case):
    arch, io, args = case
    for check in CHECKS.values():
        check(build_toy_network(arch, io=replace(TOY_IO, **io), args=args))


@pytest.mark.long
def test_label_as_context_token_keeps_the_contract():
    """The gradient check is left out: attention to a single token does not depend on queries and keys."""
    for name, check in CHECKS.items():
        if name != "gradient_reaches_every_parameter":
            check(build_toy_network("unet", args=dict(attention_kind="transformer", label="token", context_width=24)))


@pytest.mark.parametrize(
    ("arch", "io", "args", "why"),
    [
        ("dit", dict(TEXT), {}, "no text condition"),
        ("dit", dict(image_channels=3), {}, "no image condition"),
        ("genvit", dict(TEXT), {}, "no text condition"),
        ("uvit", dict(TEXT), {}, "labels or text"),
        ("uvit", dict(num_classes=0, text_dim=24), {}, "needs text_tokens"),
        ("unet", dict(TEXT), {}, "needs 'transformer'"),
        ("unet", dict(TEXT), {"attention_kind": "transformer", "label": "token"}, "choose label='add'"),
        ("unet", {}, {"attention_kind": "transformer"}, "needs a context"),
        ("unet", {}, {"norm": "layer"}, "choose one of adagn, add"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(arch, io, args, why):
    with pytest.raises(ValueError, match=why):
        build_toy_network(arch, io=replace(TOY_IO, **io), args=args)


@pytest.mark.parametrize(
    ("arch", "io", "args", "why"),
    [
        ("uvit", dict(num_classes=0, **TEXT), {}, "text-conditional"),
        ("unet", dict(num_classes=0, **TEXT), {"attention_kind": "transformer"}, "text-conditional"),
        ("unet", {}, {"attention_kind": "transformer", "label": "token"}, "class-conditional"),
        ("unet", dict(image_channels=2, num_classes=0), {}, "upsamples an image"),
        *[(arch, {}, {}, "class-conditional") for arch in ("dit", "uvit", "unet", "genvit")],
    ],
)
def test_missing_condition_is_named(arch, io, args, why):
    net = build_toy_network(arch, io=replace(TOY_IO, **io), args=args)
    x, t, _ = make_toy_inputs(net)
    with pytest.raises(ValueError, match=why):
        net(x, t)


@pytest.mark.parametrize(
    ("arch", "args", "words"),
    [
        ("dit", {"depth": 2.5}, "depth is 2.5; it must be a whole number"),
        ("dit", {"heads": "x"}, "heads is 'x'; it must be a whole number"),
        ("dit", {"mlp_ratio": "abc"}, "mlp_ratio is 'abc'; it must be a number"),
        ("uvit", {"time_mlp": "yes"}, "time_mlp is 'yes'; it must be true or false"),
        ("unet", {"rescale_residual": "maybe"}, "rescale_residual is 'maybe'; it must be true or false"),
        ("unet", {"attention": 16}, "attention is 16; it must be a list, each item a whole number"),
        ("unet", {"channel_mult": 3}, "channel_mult is 3; it must be a list"),
        ("unet", {"channel_mult": []}, "channel_mult is .*; it must hold a number above 0 for each level"),
        ("unet", {"channel_mult": [0, 1]}, "channel_mult is .*; it must hold a number above 0"),
    ],
)
def test_value_of_the_wrong_type_is_one_sentence(arch, args, words):
    toy = registry.entry(arch).toy
    with pytest.raises(ValueError, match=words):
        build(arch, toy, io=IOSpec(channels=1, size=8, num_classes=10), args=args)


def test_the_readmes_backbone_keeps_the_contract(tmp_path, monkeypatch):
    (tmp_path / "toynet.py").write_text(readme_block("README.md", "toynet.py"))
    monkeypatch.syspath_prepend(tmp_path)
    assert not [(name, error) for name, error in run_checks("toynet:ToyNet") if error]
