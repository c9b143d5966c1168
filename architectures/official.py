"""Read and write published checkpoints of DiT, U-ViT, text U-ViT, ADM and LDM.

    net = from_official("dit", torch.load("DiT-XL-2-256x256.pt"))
    eps = official_call(net, x=x, t=t, y=y)
    state_dict = to_official(net)

Families are dit, uvit, uvit_t2i, adm and ldm.  `ctor` are arguments of the published constructor
(`architectures.official_ctor` lists them with their defaults).  `from_official` completes them:

1. If these arguments with the constructor's defaults describe the state dict, they are used.
2. Otherwise the missing arguments are inferred from keys and shapes.  Keys and shapes do not show the number of
   heads and the order of the attention channels.  These two are taken from the published model that has the same
   inferred arguments.  For unpublished models, pass the number of heads.

An LDM checkpoint may contain the class embedding table under the prefixes of the published files; the network
then takes labels as well as contexts.  Its autoencoder, noise schedule and EMA are ignored.  `use_fp16` has no
effect: the caller chooses the precision.  `architectures.classifier` reads and writes ADM's noisy classifiers.
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
from .official_shapes import CLASS_TABLE_KEY, Shapes, infer_arguments
from .registry import entry, load_class
from .unet import append_image

Layout = dict[str, tuple[int, ...]]

UNET_PREFIX = "model.diffusion_model."
OTHER_LDM_PARTS = re.compile(
    r"(first_stage_model|model_ema)\..*|(betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|logvar"
    r"|log_one_minus_alphas_cumprod|sqrt_recip(m1)?_alphas_cumprod|posterior_variance|posterior_mean_coef[12]"
    r"|posterior_log_variance_clipped|lvlb_weights|scale_factor)"
)
"""Keys of an LDM checkpoint that are ignored: autoencoder, EMA, noise schedule."""

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
"""Architecture -> (pattern of our parameter name, published name); the order of parameters is the same."""

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
"""Architecture -> argument -> the values that the published code supports."""


def official_layout(family: str, **ctor: Any) -> Layout:
    """Return key -> shape of the published state dict, in its order; allocate no weights.

    Raises ValueError for an unknown or missing argument, or values that the constructor rejects.
    """
    net = _build_on_meta(family, ctor)
    return shapes_of(dict(_published_items(net)))


def from_official(family: str, state_dict: Mapping[str, Any], **ctor: Any) -> nn.Module:
    """Build a network, in eval mode, that computes the published function on the published weights.

    The weights are copied with their dtype and device.  Raises ValueError, before the network is built, if keys are
    missing or unexpected, shapes differ, or weights are not finite.
    """
    check_names(family, ctor)
    tensors = as_tensors(state_dict)
    if family == "ldm" and CLASS_TABLE_KEY in tensors:
        tensors = {key: value for key, value in tensors.items() if not OTHER_LDM_PARTS.fullmatch(key)}
    arguments = _resolve_arguments(family, shapes_of(tensors), ctor)
    check_finite(tensors)
    net = _build_on_meta(family, arguments)
    published_keys = (key for key, _ in _published_items(net))
    return load_copies(net, {name: tensors[key] for name, key in zip(net.state_dict(), published_keys, strict=True)})


def to_official(net: nn.Module) -> dict[str, Tensor]:
    """Return the weights by published name, in the published order: the inverse of `from_official`.

    The tensors share the network's memory.  The attention channels of a U-Net keep the order of its
    `qkv_order`; "qkv_first" is the published use_new_attention_order=True.
    Raises ValueError for a network that the published code does not support.
    """
    _check_expressible(net)
    return dict(_published_items(net))


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
    """Call a network with the argument names of the published forward functions.

    Raises ValueError for a condition that the network does not take.
    """
    if (t is None) == (timesteps is None):
        raise ValueError("give the time as t or as timesteps")
    io = _network_spec(net).io
    if y is not None and not io.num_classes:
        raise ValueError("this network has no classes; call it without y")
    if context is not None and not (io.text_dim or getattr(net, "label_token", None) is not None):
        raise ValueError("this network takes no context; call it without context")
    if low_res is not None and _network_spec(net).arch != "unet":
        raise ValueError("this network upsamples no image; call it without low_res")
    if low_res is not None and not io.image_channels:
        x, low_res = append_image(x, low_res), None
    text = None if context is None else TextCondition(tokens=context)
    return net(x, t if t is not None else timesteps, Conditions(label=y, text=text, image=low_res))


def _build_on_meta(family: str, ctor: Mapping[str, Any]) -> nn.Module:
    """Build the network of a published constructor call on the meta device."""
    try:
        arch, io, args = translate(family, ctor)
        with torch.device("meta"):
            return build(arch, io=io, args=args)
    except (TypeError, ZeroDivisionError, RuntimeError) as error:
        raise ValueError(f"{family} cannot be built from these arguments: {error}") from error


def _network_spec(net: nn.Module) -> NetSpec:
    spec = getattr(net, "spec", None)
    if not isinstance(spec, NetSpec) or spec.arch not in RENAMES:
        raise ValueError(f"{type(net).__name__} is not a network of {', '.join(RENAMES)} built by architectures.build")
    return spec


def rename_key(key: str, renames: list[tuple[str, str]]) -> str:
    """Return the published name of one of our parameters."""
    for pattern, new in renames:
        key = re.sub(pattern, new, key)
    return key


def _published_items(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield (published key, weight) in the published order."""
    renames = RENAMES[_network_spec(net).arch]
    weights = net.state_dict()
    prefix = UNET_PREFIX if "label_token.weight" in weights else ""
    for key, value in weights.items():
        if key == "label_token.weight":
            yield CLASS_TABLE_KEY, value
            continue
        yield prefix + rename_key(key, renames), value


def _check_expressible(net: nn.Module) -> None:
    """Raise ValueError unless the published code has the same network."""
    spec = _network_spec(net)
    defaults = inspect.signature(load_class(entry(spec.arch).target)).parameters
    for name, allowed in PUBLISHED_CHOICES[spec.arch].items():
        value = spec.args.get(name, defaults[name].default)
        if value not in allowed:
            raise ValueError(
                f"the published code has no {name}={value!r}, so these weights cannot be written in its layout"
            )
    if spec.arch == "uvit" and spec.io.variance != "fixed":
        raise ValueError("the published U-ViT predicts no variance, so it cannot hold these weights")
    if spec.io.image_channels not in (0, spec.io.channels):
        raise ValueError(
            "the published upsampler takes an image with the channels of x, so it cannot hold these weights"
        )


def as_tensors(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Convert the values of a state dict to tensors; raise ValueError for other values and sparse tensors."""
    if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
        raise ValueError(f"a state dict maps names to tensors; this is a {type(state_dict).__name__}")
    tensors = {}
    for key, value in state_dict.items():
        try:
            tensors[key] = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            type_name = type(value).__name__
            raise ValueError(f"{key} is a {type_name}, not a tensor; is this the state dict itself?") from error
        if tensors[key].layout != torch.strided:
            raise ValueError(f"{key} is a sparse tensor; weights must be dense")
    return tensors


def shapes_of(tensors: Mapping[str, Tensor]) -> Layout:
    """Return key -> shape."""
    return {key: tuple(value.shape) for key, value in tensors.items()}


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError, with the first keys, for weights that are not finite floating-point numbers."""
    integers = [key for key, value in tensors.items() if not value.is_floating_point()]
    if integers:
        raise ValueError(f"these weights are not floating-point numbers: {_list_first(integers)}")
    not_finite = [key for key, value in tensors.items() if not value.is_meta and not torch.isfinite(value).all()]
    if not_finite:
        raise ValueError(f"these weights have NaN or infinity: {_list_first(not_finite)}")


def check_layout(network: str, layout: Shapes, shapes: Shapes) -> None:
    """Raise ValueError, with the first keys that differ, unless the shapes equal the layout."""
    if wrong := _differences(layout, shapes):
        raise ValueError(f"this is not a state dict of {network}: {_list_first(wrong)}")


def load_copies(net: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Load copies of weights into a network that was built on the meta device; return it in eval mode."""
    net.load_state_dict({key: value.detach().clone() for key, value in weights.items()}, assign=True)
    return net.eval()


def _resolve_arguments(family: str, shapes: Shapes, ctor: Ctor) -> Ctor:
    """Return the constructor arguments that give these shapes; raise ValueError with the first keys that differ."""
    inner = (
        {key.removeprefix(UNET_PREFIX): shape for key, shape in shapes.items()} if CLASS_TABLE_KEY in shapes else shapes
    )
    argument_sets: list[tuple[Ctor, bool]] = [] if missing_arguments(family, ctor) else [(ctor, True)]
    error: ValueError | None = None
    try:
        argument_sets.append(infer_arguments(family, inner, ctor))
    except ValueError as inference_error:
        error = inference_error
    candidates: list[Layout] = []
    for arguments, heads_known in argument_sets:
        try:
            layout = official_layout(family, **arguments)
        except ValueError as layout_error:
            error = layout_error if len(argument_sets) > 1 else error or layout_error
            continue
        if layout == shapes and heads_known:
            return arguments
        if layout == shapes:
            error = ValueError(
                f"no published {family} has these shapes, and they do not show the number of heads: pass num_heads"
            )
        else:
            candidates.append(layout)
    candidates = _candidate_layouts(family, ctor) + candidates
    nearest = min(candidates, key=lambda layout: len(_differences(layout, shapes)), default={})
    if error and 10 * len(_differences(nearest, shapes)) >= len(nearest):
        raise error  # no layout is close enough to name wrong entries
    check_layout(family, nearest, shapes)
    raise AssertionError("a layout that equals the shapes has been returned above")


def _candidate_layouts(family: str, ctor: Ctor) -> list[Layout]:
    """Return the layouts of the published models that agree with the arguments."""
    models = {name: {**DEFAULTS[family], **model} for name, model in PUBLISHED[family].items()}
    return [_model_layout(family, name) for name, model in models.items() if ctor.items() <= model.items()]


@functools.cache
def _model_layout(family: str, name: str) -> Layout:
    return official_layout(family, **PUBLISHED[family][name])


def _differences(layout: Shapes, shapes: Shapes) -> list[str]:
    """Describe missing keys, different shapes and unexpected keys: two of each kind first, then the rest."""
    wrong = []
    for key, shape in layout.items():
        if key not in shapes:
            wrong.append(f"{key} is missing")
        elif shapes[key] != shape:
            wrong.append(f"{key} has shape {shapes[key]}, not {shape}")
    extra = [f"{key} is unexpected" for key in shapes if key not in layout]
    return wrong[:2] + extra[:2] + wrong[2:] + extra[2:]


def _list_first(items: list[str], most: int = 4) -> str:
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")
