"""Read and write published state dicts: round trips, inferred arguments, rejected checkpoints."""

import pytest
import torch
from official_cases import (
    CASES,
    MODELS,
    differences,
    hidden_of,
    inputs,
    layout_of,
    network,
    on_meta,
    state_of,
    weights,
)

import architectures
from architectures import IOSpec, build, from_official, official_call, official_layout, to_official


def is_small(case):
    return max(case["ctor"].get(name, 0) for name in ("hidden_size", "embed_dim", "model_channels")) < 100


SMALL = [pytest.param(c, id=c["id"]) for c in CASES.values() if is_small(c)]

ONE_EACH = ["dit_p2_tiny", "uvit_cfg", "t2i_tiny", "adm_superres", "ldm_class_crossattn"]


@pytest.mark.parametrize("case", SMALL)
def test_round_trip_keeps_keys_order_and_bits(case):
    state = state_of(case)
    back = to_official(from_official(case["family"], dict(reversed(state.items())), **case["ctor"]))
    assert list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) and back[key].dtype == state[key].dtype for key in state)


@pytest.mark.parametrize("case", [p for p in SMALL if p.values[0]["call"] == "forward" and not p.values[0].get("grad")])
def test_visible_arguments_are_inferred_from_shapes(case):
    net = from_official(case["family"], state_of(case), **hidden_of(case))
    with torch.no_grad():
        assert not differences(case, {"out": official_call(net, **inputs(case))})


@pytest.mark.parametrize("name", ONE_EACH)
def test_spec_and_state_dict_rebuild_the_published_network(name):
    net, named = network(CASES[name]), inputs(CASES[name])
    twin = build(net.spec.arch, io=net.spec.io, args=net.spec.args).eval()
    twin.load_state_dict(net.state_dict())
    assert torch.equal(official_call(twin, **named), official_call(net, **named))


@pytest.mark.parametrize("name", ONE_EACH)
def test_weights_are_copied_in_their_own_precision(name):
    case = CASES[name]
    state = {key: value.to(torch.bfloat16) for key, value in state_of(case).items()}
    before = {key: value.clone() for key, value in state.items()}
    net = from_official(case["family"], state, **case["ctor"])
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    assert all(torch.equal(state[key], before[key]) for key in state)
    assert all(value.dtype == torch.bfloat16 for value in to_official(net).values())


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


def nan_in(value):
    value = value.clone()
    value.view(-1)[-1] = float("nan")
    return value


WRONG = {
    "missing": lambda state, key: without(state, key),
    "unexpected": lambda state, key: {**without(state, key), f"{key}_of_another": state[key]},
    "misshapen": lambda state, key: {**state, key: state[key][None]},
    "transposed": lambda state, key: {**state, key: state[key].transpose(0, -1)[..., :-1]},
    "NaN": lambda state, key: {**state, key: nan_in(state[key])},
    "infinite": lambda state, key: {**state, key: state[key] / 0},
    "whole numbers": lambda state, key: {**state, key: state[key].long()},
    "not a tensor": lambda state, key: {**state, key: {"weight": state[key]}},
    "nothing": lambda state, key: {**state, key: None},
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ONE_EACH)
def test_wrong_state_dict_is_refused_by_the_key(name, wrong):
    case = CASES[name]
    state = state_of(case)
    for key in list(state)[:: len(state) // 2]:
        for ctor in (case["ctor"], hidden_of(case)):
            with pytest.raises(ValueError) as error:
                from_official(case["family"], WRONG[wrong](state, key), **ctor)
            assert key in str(error.value) or (wrong in ("misshapen", "transposed") and ctor is not case["ctor"])


@pytest.mark.parametrize("name", ONE_EACH)
@pytest.mark.parametrize("other", ONE_EACH)
def test_state_dict_of_another_family_is_refused(name, other):
    """Without arguments an ADM network is an LDM network too, of the kind without spatial transformers."""
    case, state = CASES[name], state_of(CASES[other])
    if case["family"] != CASES[other]["family"]:
        for ctor in [case["ctor"], {}][: 1 if (name, other) == ("ldm_class_crossattn", "adm_superres") else 2]:
            with pytest.raises(ValueError, match=r"is missing|has shape|is unexpected"):
                from_official(case["family"], state, **ctor)


@pytest.mark.parametrize("name", ["DiT-S/8 @256", "cifar10_uvit_small", "adm_64", "ldm_cin_vq_f8 (LDM-8)"])
def test_published_checkpoint_error_names_the_wrong_key(name):
    model, layout = MODELS[name], layout_of(MODELS[name])
    for key in list(layout)[:8]:
        for wrong in (without(layout, key), {**layout, key: (3, 5)}):
            with pytest.raises(ValueError, match=rf"of {model['family']}: {key} (is missing|has shape \(3, 5\), not)"):
                from_official(model["family"], on_meta(wrong))


def test_checkpoint_must_agree_with_the_arguments():
    state = on_meta(layout_of(MODELS["DiT-B/2 @256"]))
    with pytest.raises(ValueError, match=r"pos_embed has shape \(1, 256, 768\), not \(1, 256, 384\), x_embedder"):
        from_official("dit", state, **MODELS["DiT-S/2 @256"]["ctor"])
    with pytest.raises(ValueError, match="width 768 is not divisible by 7"):
        from_official("dit", state, num_heads=7)


@pytest.mark.parametrize("name", ONE_EACH)
def test_heads_of_an_unpublished_network_must_be_given(name):
    with pytest.raises(ValueError, match=r"pass num_heads|pass num_clip_token"):
        from_official(CASES[name]["family"], state_of(CASES[name]))


def test_arguments_win_over_the_published_model():
    state = on_meta(layout_of(MODELS["adm_64"]))
    assert from_official("adm", state).spec.args["qkv_order"] == "qkv_first"
    net = from_official("adm", state, use_new_attention_order=False, num_head_channels=32)
    assert (net.spec.args["qkv_order"], net.spec.args["head_channels"]) == ("heads_first", 32)


def test_complete_arguments_use_constructor_defaults():
    """DiT(depth=12, hidden_size=384) has 16 heads, although DiT-S/2 with the same shapes has 6."""
    state = on_meta(layout_of(MODELS["DiT-S/2 @256"]))
    assert from_official("dit", state, depth=12, hidden_size=384).spec.args["heads"] == 16
    assert from_official("dit", state, depth=12).spec.args["heads"] == 6


@pytest.mark.parametrize(
    ("family", "ctor", "why"),
    [
        ("dti", {}, "did you mean dit"),
        ("dit", {"width": 3}, "no argument 'width'"),
        ("uvit", {"num_clip_token": 3}, "no argument 'num_clip_token'"),
        ("dit", {"num_heads": 7}, "not divisible by 7"),
        ("uvit", {"norm_layer": torch.nn.BatchNorm1d}, "only LayerNorm"),
        ("adm", {"image_size": 32}, "adm needs in_channels, model_channels"),
        ("ldm", {"num_heads": -1}, "num_heads or num_head_channels"),
        ("ldm", {"context_dim": 8}, "context_dim with use_spatial_transformer"),
        ("ldm", {"n_embed": 8}, "code indices"),
        ("ldm", {"dims": 3}, "dims is 3"),
        ("ldm", {"channel_mult": (2, 4)}, "start with 1"),
        ("adm", {"cls": "EncoderUNetModel"}, "SuperResModel"),
    ],
)
def test_impossible_arguments_are_refused(family, ctor, why):
    base = dict(in_channels=3, model_channels=32, out_channels=3, num_res_blocks=1, attention_resolutions=[2])
    unet = dict(base, image_size=16, num_heads=1) if family in ("adm", "ldm") and "image_size" not in ctor else {}
    with pytest.raises(ValueError, match=why):
        official_layout(family, **{**unet, **ctor})


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("adm_uncond_plain", {"y": torch.tensor([1, 2])}, "no classes"),
        ("uvit_cfg", {"context": torch.zeros(2, 7, 32)}, "no context"),
        ("dit_p2_tiny", {"timesteps": torch.zeros(3)}, "as t or as timesteps"),
        ("dit_p2_tiny", {"t": None}, "as t or as timesteps"),
        ("dit_p2_tiny", {"y": None}, "class-conditional"),
        ("t2i_tiny", {"context": None}, "text-conditional"),
        ("t2i_tiny", {"context": torch.zeros(2, 9, 32)}, "9 tokens"),
        ("adm_superres", {"low_res": None}, "upsamples an image"),
    ],
)
def test_unsupported_conditions_are_refused(name, more, why):
    with pytest.raises(ValueError, match=why):
        official_call(network(CASES[name]), **{**inputs(CASES[name]), **more})


def test_upsampler_may_be_a_network_of_six_channels():
    case = CASES["adm_superres"]
    net = from_official("adm", state_of(case), **{**case["ctor"], "in_channels": 6})
    assert net.spec.io.image_channels == 0
    with torch.no_grad():
        assert not differences(case, {"out": official_call(net, **inputs(case))})


def whole_ldm_checkpoint(case):
    """Return the state dict of network and class table under the published prefixes, and the labels."""
    recipe = case["inputs"]["context"]["class_embedding"]
    state = {f"model.diffusion_model.{key}": value for key, value in state_of(case).items()}
    table = weights("ldm", {recipe["key"]: recipe["shape"]}, recipe["seed"])[recipe["key"]]
    return {**state, "cond_stage_model.embedding.weight": table}, torch.tensor(recipe["labels"])


@pytest.mark.parametrize("arguments", ["all", "heads only"])
def test_ldm_with_class_table_takes_labels_and_contexts(arguments):
    case = CASES["ldm_class_crossattn"]
    state, labels = whole_ldm_checkpoint(case)
    net = from_official("ldm", state, **(case["ctor"] if arguments == "all" else {"num_heads": 1}))
    named = inputs(case)
    with torch.no_grad():
        assert not differences(case, {"out": official_call(net, **named)})
        named.pop("context")
        assert not differences(case, {"out": official_call(net, **named, y=labels)})
        assert not differences(case, {"out": net(named["x"], named["timesteps"], labels)})
    assert list(to_official(net)) == list(state)
    assert list(official_layout("ldm", **case["ctor"], n_classes=11)) == list(state)


def test_other_parts_of_an_ldm_checkpoint_are_ignored():
    """1001 rows are 1000 classes and the null class."""
    state = {f"model.diffusion_model.{key}": shape for key, shape in layout_of(MODELS["ldm_cin256_v2 (LDM-4)"]).items()}
    used = {**state, "cond_stage_model.embedding.weight": (1001, 512)}
    others = {"betas": (1000,), "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3), "model_ema.decay": ()}
    net = from_official("ldm", on_meta({**others, **used}))
    assert shapes(to_official(net)) == used
    assert (net.spec.io.num_classes, net.spec.io.null_label) == (1000, True)
    with pytest.raises(ValueError, match=r"second_stage_model\.weight is unexpected"):
        from_official("ldm", on_meta({**used, "second_stage_model.weight": (3,)}))


def shapes(state):
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize(
    ("arch", "args", "why"),
    [
        ("dit", {"conditioning": "in_context"}, "conditioning='in_context'"),
        ("dit", {"frequencies": "ddpm"}, "frequencies='ddpm'"),
        ("uvit", {"skip": "add"}, "skip='add'"),
        ("uvit", {"position": "sincos"}, "position='sincos'"),
        ("unet", {"groups": 8}, "groups=8"),
        ("unet", {"groups": 32, "rescale_residual": True}, "rescale_residual=True"),
    ],
)
def test_network_unknown_to_the_published_code_is_refused(arch, args, why):
    io = IOSpec(channels=3, size=8)
    with pytest.raises(ValueError, match=why):
        to_official(build(arch, "nano" if arch == "unet" else "nano/2", io=io, args=args))


def test_network_of_another_kind_is_not_written():
    with pytest.raises(ValueError, match="Linear is not a network of dit, uvit, unet"):
        to_official(torch.nn.Linear(2, 2))


LDM = dict(image_size=8, in_channels=1, out_channels=1, model_channels=32, num_res_blocks=1, num_heads=1)

UVIT = dict(img_size=8, patch_size=2, in_chans=1, embed_dim=32, num_heads=2)


@pytest.mark.parametrize(
    ("family", "ctor", "key", "shape"),
    [
        # heads of exactly 24 channels: two of them do not fill 64
        (
            "ldm",
            dict(LDM, attention_resolutions=(2,), channel_mult=(1, 2), num_head_channels=24, legacy=False)
            | dict(use_spatial_transformer=True, context_dim=8),
            "middle_block.1.proj_in.weight",
            (48, 64, 1, 1),
        ),
        # 48 divides the attended width 96, and need not divide 32
        (
            "ldm",
            dict(LDM, attention_resolutions=(2,), channel_mult=(1, 3), num_head_channels=48, legacy=False),
            "middle_block.1.qkv.weight",
            (288, 96, 1),
        ),
        ("uvit", dict(UVIT, depth=0), "mid_block.norm1.weight", (32,)),
        ("uvit", dict(UVIT, depth=1), "mid_block.norm1.weight", (32,)),
    ],
)
def test_rare_constructor_calls_are_supported(family, ctor, key, shape):
    layout = official_layout(family, **ctor)
    assert layout[key] == shape
    net = from_official(family, {k: torch.randn(s) * 0.1 for k, s in layout.items()}, **ctor)
    context = torch.randn(2, 3, 8) if "context_dim" in ctor else None
    assert official_call(net, x=torch.randn(2, 1, 8, 8), t=torch.tensor([1, 500]), context=context).shape == (
        2,
        1,
        8,
        8,
    )


@pytest.mark.parametrize(
    ("family", "ctor"),
    [
        ("dit", dict(patch_size=0)),
        ("dit", dict(depth="3")),
        ("dit", dict(num_classes=None)),
        ("uvit", dict(patch_size=0)),
        ("adm", dict(LDM, image_size=(8, 8), attention_resolutions=(2,))),
    ],
)
def test_impossible_constructor_calls_are_value_errors(family, ctor):
    with pytest.raises(ValueError, match=r"cannot be built|must be"):
        official_layout(family, **ctor)


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'from_nowhere'"):
        architectures.from_nowhere  # noqa: B018
