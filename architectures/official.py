"""Published checkpoints in and out: DiT, U-ViT, text U-ViT, ADM and LDM.

    net = from_official("dit", torch.load("DiT-XL-2-256x256.pt"))
    eps = official_call(net, x=x, t=t, y=y)
    state_dict = to_official(net)

Families are dit, uvit, uvit_t2i, adm and ldm; `ctor` are the arguments of the published constructor,
with its defaults (`architectures.official_ctor` lists them).  How `from_official` completes them:

1. If the arguments with the constructor's defaults describe the state dict, they are the call.
2. Otherwise what is missing is read from keys and shapes, and what these do not show (number of heads,
   order of the attention's channels) is that of the published model with the same visible arguments.
   Of models nobody published the heads must be given.

An LDM checkpoint may hold the class embedder's table, under the two prefixes of the published files;
the network then takes labels as well as contexts.  Its autoencoder, schedule and moving average are
left aside.  The published code's mixed precision (use_fp16) is the caller's affair.
ADM's noisy classifiers, which are no denoisers, have their own three functions in `architectures.classifier`.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import build
from .interface import Conditions, NetSpec, TextCondition
from .official_ctor import DEFAULTS, PUBLISHED, Ctor, check_names, missing_arguments, translate
from .official_shapes import TABLE, Shapes, complete
from .registry import entry, load
from .unet import append_image

Layout = dict[str, tuple[int, ...]]

UNET_PREFIX = "model.diffusion_model."
OTHER_LDM_PARTS = re.compile(
    r"(first_stage_model|model_ema)\..*|(betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|logvar"
    r"|log_one_minus_alphas_cumprod|sqrt_recip(m1)?_alphas_cumprod|posterior_variance|posterior_mean_coef[12]"
    r"|posterior_log_variance_clipped|lvlb_weights|scale_factor)"
)
"""What else an LDM checkpoint holds: autoencoder, moving average, schedule."""

RENAMES: dict[str, list[tuple[str, str]]] = {
    "dit": [],
    "uvit": [(r"\.skip\.linear\.", ".skip_linear.")],
    "unet": [
        (r"^encoder\.", "input_blocks."),
        (r"^middle\.", "middle_block."),
        (r"^decoder\.", "output_blocks."),
        (r"^out_norm\.", "out.0."),
        (r"^out\.(?=weight|bias)", "out.2."),
        (r"\.norm_in\.", ".in_layers.0."),
        (r"\.conv_in\.", ".in_layers.2."),
        (r"\.emb\.", ".emb_layers.1."),
        (r"\.norm_out\.", ".out_layers.0."),
        (r"\.conv_out\.", ".out_layers.3."),
        (r"\.shortcut\.", ".skip_connection."),
        (r"\.blocks\.", ".transformer_blocks."),
        (r"\.self_attn\.", ".attn1."),
        (r"\.cross_attn\.", ".attn2."),
        (r"\.(attn[12])\.([qkv])\.", r".\1.to_\2."),
        (r"\.(attn[12])\.proj\.", r".\1.to_out.0."),
        (r"\.mlp\.fc1\.", ".ff.net.0.proj."),
        (r"\.mlp\.fc2\.", ".ff.net.2."),
    ],
}
"""Our parameter names -> the published ones, by architecture; the order of the entries is the same."""

PUBLISHED_CHOICES: dict[str, dict[str, tuple[Any, ...]]] = {
    "dit": {"conditioning": ("adaln_zero",), "frequencies": ("adm",)},
    "uvit": {
        "skip": ("concat", "none"),
        "time": ("token",),
        "head": ("after", "none"),
        "patch_embed": ("linear",),
        "position": ("learned",),
    },
    "unet": {"rescale_residual": (False,), "groups": (32,)},
}
"""Values of our switches that the published code has too."""


def official_layout(family: str, **ctor: Any) -> Layout:
    """Keys and shapes of the published state dict, in its order; allocates nothing.

    Raises ValueError for an unknown argument, a missing one, or values that the constructor refuses.
    """
    net = _meta(family, ctor)
    return shapes_of(dict(_renamed(net)))


def from_official(family: str, state_dict: Mapping[str, Any], **ctor: Any) -> nn.Module:
    """A network in eval mode that computes the published code's function on the published weights.

    Raises ValueError, before anything is built, when keys are missing, left over or misshapen, or when
    weights are not finite numbers.  The weights are copied; their precision and device are kept.
    """
    check_names(family, ctor)
    tensors = as_tensors(state_dict)
    if family == "ldm" and TABLE in tensors:
        tensors = {key: value for key, value in tensors.items() if not OTHER_LDM_PARTS.fullmatch(key)}
    call = _resolve(family, shapes_of(tensors), ctor)
    check_finite(tensors)
    net = _meta(family, call)
    theirs = (official for official, _ in _renamed(net))
    return fill(net, {key: tensors[official] for key, official in zip(net.state_dict(), theirs, strict=True)})


def to_official(net: nn.Module) -> dict[str, Tensor]:
    """The network's weights under their published names, in the published order: `from_official`'s inverse.

    The tensors share the network's memory.  A U-Net's attention channels stay in the order that its
    `qkv_order` says: "qkv_first" is the published use_new_attention_order=True.
    Raises ValueError for a network that the published code cannot express.
    """
    _check_expressible(net)
    return dict(_renamed(net))


def official_call(
    net: nn.Module,
    *,
    x: Tensor,
    t: Tensor | None = None,
    timesteps: Tensor | None = None,
    y: Tensor | None = None,
    context: Tensor | None = None,
    low_res: Tensor | None = None,
) -> Tensor:
    """The network's output for the published forward's arguments, whichever of them it has.

    Raises ValueError for a condition that the network does not take.
    """
    if (t is None) == (timesteps is None):
        raise ValueError("give the time as t or as timesteps")
    io = _spec(net).io
    if y is not None and not io.num_classes:
        raise ValueError("this network has no classes, but y is given")
    if context is not None and not (io.text_dim or getattr(net, "label_token", None) is not None):
        raise ValueError("this network attends to no context, but context is given")
    if low_res is not None and _spec(net).arch != "unet":
        raise ValueError("this network upsamples no image, but low_res is given")
    if low_res is not None and not io.image_channels:
        x, low_res = append_image(x, low_res), None
    text = None if context is None else TextCondition(tokens=context)
    return net(x, t if t is not None else timesteps, Conditions(label=y, text=text, image=low_res))


def _meta(family: str, ctor: Mapping[str, Any]) -> nn.Module:
    """The network of a published constructor call, without memory for its weights."""
    try:
        arch, io, args = translate(family, ctor)
        with torch.device("meta"):
            return build(arch, io=io, args=args)
    except (TypeError, ZeroDivisionError, RuntimeError) as error:
        raise ValueError(f"{family} cannot be built from these arguments: {error}") from error


def _spec(net: nn.Module) -> NetSpec:
    spec = getattr(net, "spec", None)
    if not isinstance(spec, NetSpec) or spec.arch not in RENAMES:
        raise ValueError(f"{type(net).__name__} is not a network of {', '.join(RENAMES)} that architectures.build made")
    return spec


def renamed(key: str, renames: list[tuple[str, str]]) -> str:
    """The published name of one of our parameters."""
    for pattern, new in renames:
        key = re.sub(pattern, new, key)
    return key


def _renamed(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(published key, weight) in the published order."""
    renames = RENAMES[_spec(net).arch]
    weights = net.state_dict()
    prefix = UNET_PREFIX if "label_token.weight" in weights else ""
    for key, value in weights.items():
        if key == "label_token.weight":
            yield TABLE, value
            continue
        yield prefix + renamed(key, renames), value


def _check_expressible(net: nn.Module) -> None:
    spec = _spec(net)
    defaults = inspect.signature(load(entry(spec.arch).target)).parameters
    for name, allowed in PUBLISHED_CHOICES[spec.arch].items():
        value = spec.args.get(name, defaults[name].default)
        if value not in allowed:
            raise ValueError(f"the published code has no {name}={value!r}, so these weights have no place in it")
    if spec.arch == "uvit" and spec.io.variance != "fixed":
        raise ValueError("the published U-ViT predicts no variance, so these weights have no place in it")
    if spec.io.image_channels not in (0, spec.io.channels):
        raise ValueError("the published upsampler's image has as many channels as x, so these weights do not fit it")


def as_tensors(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict's values as tensors; ValueError for what is none."""
    if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
        raise ValueError(f"a state dict maps names to tensors; this is a {type(state_dict).__name__}")
    tensors = {}
    for key, value in state_dict.items():
        try:
            tensors[key] = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(value).__name__
            raise ValueError(f"{key} is a {kind}, not a tensor; is this the state dict itself?") from error
        if tensors[key].layout != torch.strided:
            raise ValueError(f"{key} is a sparse tensor; weights are dense ones")
    return tensors


def shapes_of(tensors: Mapping[str, Tensor]) -> Layout:
    return {key: tuple(value.shape) for key, value in tensors.items()}


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError, with the first keys, for weights that are not finite floating-point numbers."""
    whole = [key for key, value in tensors.items() if not value.is_floating_point()]
    if whole:
        raise ValueError(f"these weights are not floating-point numbers: {_some(whole)}")
    wild = [key for key, value in tensors.items() if not value.is_meta and not torch.isfinite(value).all()]
    if wild:
        raise ValueError(f"these weights have NaN or infinity: {_some(wild)}")


def check_layout(what: str, layout: Shapes, shapes: Shapes) -> None:
    """Raise ValueError, with the first keys that differ, unless the shapes are the layout's."""
    if wrong := _differences(layout, shapes):
        raise ValueError(f"this is not a state dict of {what}: {_some(wrong)}")


def fill(net: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network, built on the meta device, with copies of the weights, in eval mode."""
    net.load_state_dict({key: value.detach().clone() for key, value in weights.items()}, assign=True)
    return net.eval()


def _resolve(family: str, shapes: Shapes, ctor: Ctor) -> Ctor:
    """The constructor call whose layout the shapes are; ValueError names the first keys that differ."""
    inner = {key.removeprefix(UNET_PREFIX): shape for key, shape in shapes.items()} if TABLE in shapes else shapes
    calls: list[tuple[Ctor, bool]] = [] if missing_arguments(family, ctor) else [(ctor, True)]
    error: ValueError | None = None
    try:
        calls.append(complete(family, inner, ctor))
    except ValueError as unreadable:
        error = unreadable
    near: list[Layout] = []
    for call, sure in calls:
        try:
            layout = official_layout(family, **call)
        except ValueError as refused:
            error = refused if len(calls) > 1 else error or refused
            continue
        if layout == shapes and sure:
            return call
        if layout == shapes:
            error = ValueError(f"no published {family} has these shapes, which do not show its heads: pass num_heads")
        else:
            near.append(layout)
    near = _near_models(family, ctor) + near
    nearest = min(near, key=lambda layout: len(_differences(layout, shapes)), default={})
    if error and 10 * len(_differences(nearest, shapes)) >= len(nearest):
        raise error  # nothing is near enough to say which entries are wrong
    check_layout(family, nearest, shapes)
    raise AssertionError("a published layout that fits is found above")


def _near_models(family: str, ctor: Ctor) -> list[Layout]:
    """Layouts of the published models that the arguments do not contradict."""
    models = {name: {**DEFAULTS[family], **model} for name, model in PUBLISHED[family].items()}
    return [_layout_of(family, name) for name, model in models.items() if ctor.items() <= model.items()]


@functools.cache
def _layout_of(family: str, name: str) -> Layout:
    return official_layout(family, **PUBLISHED[family][name])


def _differences(layout: Shapes, shapes: Shapes) -> list[str]:
    """What is missing or misshapen, in the layout's order, mixed with what is left over."""
    wrong = []
    for key, shape in layout.items():
        if key not in shapes:
            wrong.append(f"{key} is missing")
        elif shapes[key] != shape:
            wrong.append(f"{key} has shape {shapes[key]}, not {shape}")
    extra = [f"{key} is unexpected" for key in shapes if key not in layout]
    return wrong[:2] + extra[:2] + wrong[2:] + extra[2:]


def _some(what: list[str], most: int = 4) -> str:
    more = len(what) - most
    return ", ".join(what[:most]) + (f" and {more} more" if more > 0 else "")
