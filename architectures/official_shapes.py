"""Infer the arguments of a published constructor from the keys and shapes of a state dict.

Keys and shapes do not show the number of heads, the order of the attention channels and the image size of a
U-Net.  These hidden arguments are taken from the published model with the same other arguments, the visible ones.
There is at most one, because published models that agree in the visible arguments agree in the hidden ones too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from .official_ctor import DEFAULTS, PUBLISHED, Ctor

Shapes = Mapping[str, tuple[int, ...]]

CLASS_TABLE_KEY = "cond_stage_model.embedding.weight"
"""Key of the class embedding table in an LDM checkpoint."""
CLIP_TOKENS = 77


def infer_arguments(family: str, shapes: Shapes, overrides: Mapping[str, Any]) -> tuple[Ctor, bool]:
    """Return the constructor arguments of a state dict, and whether the number of heads is known.

    `overrides` replace inferred values.  The number of heads is known from `overrides` or from a published model.
    Raises ValueError, with the missing key if there is one, if the shapes are not those of the family.
    """
    try:
        visible = _READERS[family](shapes, overrides)
    except KeyError as error:
        raise ValueError(f"this is not a state dict of {family}: {error.args[0]} is missing") from error
    except (IndexError, ZeroDivisionError, ValueError) as error:
        raise ValueError(f"the shapes are not those of {family}: {error}") from error
    models = (DEFAULTS[family] | model for model in PUBLISHED[family].values())
    known = next((model for model in models if visible.items() <= _comparable(model).items()), None)
    heads_known = known is not None or bool({"num_heads", "num_head_channels"} & set(overrides))
    if known is None:
        known = {"num_heads": 1}
        if "channel_mult" in visible:
            known |= {"image_size": 8 * 2 ** len(visible["channel_mult"])}
    if CLASS_TABLE_KEY in shapes:
        visible |= {"n_classes": shapes[CLASS_TABLE_KEY][0]}
    return {**DEFAULTS[family], **known, **visible, **overrides}, heads_known


def _comparable(model: Ctor) -> Ctor:
    """Sort the attention resolutions as the readers return them, from fine to coarse."""
    factors = model.get("attention_resolutions")
    return model | dict(attention_resolutions=tuple(sorted(factors))) if factors else model


def _mlp_ratio(hidden: int, width: int) -> float:
    """Return a factor r with int(width * r) == hidden."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _count_indices(shapes: Shapes, prefix: str) -> int:
    """Return one more than the largest index after the prefix, or 0 if no key has the prefix."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return 1 + max((int(m[1]) for m in map(pattern.match, shapes) if m), default=-1)


def _grid_size(tokens: int, hint: str = "") -> int:
    grid = math.isqrt(max(0, tokens))
    if not grid or grid**2 != tokens:
        raise ValueError(f"{tokens} patches are not a square{hint}")
    return grid


def _has_prefix(shapes: Shapes, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in shapes)


def _read_dit(shapes: Shapes, overrides: Mapping[str, Any]) -> Ctor:
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    rows = shapes["y_embedder.embedding_table.weight"][0]
    null = overrides.get("class_dropout_prob", 0.1) > 0 and overrides.get("num_classes") != rows
    return dict(
        input_size=_grid_size(shapes["pos_embed"][1]) * patch,
        patch_size=patch,
        in_channels=channels,
        hidden_size=width,
        depth=_count_indices(shapes, "blocks"),
        mlp_ratio=_mlp_ratio(shapes["blocks.0.mlp.fc1.weight"][0], width),
        class_dropout_prob=0.1 if null else 0.0,
        num_classes=rows - null,
        learn_sigma=shapes["final_layer.linear.weight"][0] == 2 * channels * patch**2,
    )


def _read_uvit(shapes: Shapes, overrides: Mapping[str, Any]) -> Ctor:
    width, channels, patch, _ = shapes["patch_embed.proj.weight"]
    blocks = _count_indices(shapes, "in_blocks")
    visible: Ctor = dict(
        patch_size=patch,
        in_chans=channels,
        embed_dim=width,
        depth=max(1, 2 * blocks),
        mlp_ratio=_mlp_ratio(shapes["mid_block.mlp.fc1.weight"][0], width),
        qkv_bias="mid_block.attn.qkv.bias" in shapes,
        mlp_time_embed=_has_prefix(shapes, "time_embed."),
        conv=_has_prefix(shapes, "final_layer."),
        skip=not blocks or _has_prefix(shapes, "out_blocks.0.skip_linear."),
    )
    if "context_embed.weight" in shapes:
        raise ValueError("context_embed.weight is unexpected; is the family uvit_t2i?")
    labels = shapes.get("label_emb.weight", (-1,))[0]
    patches = shapes["pos_embed"][1] - 1 - (labels > 0)
    return visible | dict(num_classes=labels, img_size=_grid_size(patches) * patch)


def _read_t2i(shapes: Shapes, overrides: Mapping[str, Any]) -> Ctor:
    """Infer text U-ViT's arguments; shapes do not separate text from patches, so 77 text tokens are the default."""
    width, clip_dim = shapes["context_embed.weight"]
    tokens, patch = shapes["pos_embed"][1] - 1, shapes["patch_embed.proj.weight"][-1]
    text = overrides.get("num_clip_token", CLIP_TOKENS)
    if "img_size" in overrides:
        text = tokens - (overrides["img_size"] // patch) ** 2
    grid = _grid_size(tokens - text, f" after {text} tokens of text: pass num_clip_token or img_size")
    network_shapes = {key: shape for key, shape in shapes.items() if key != "context_embed.weight"}
    visible = _read_uvit({**network_shapes, "pos_embed": (1, 1 + grid**2, width)}, overrides)
    del visible["num_classes"]
    return visible | dict(clip_dim=clip_dim, num_clip_token=text)


def _read_unet(shapes: Shapes) -> Ctor:
    """Infer ADM's or LDM's arguments; the first change of resolution shows the residual blocks per level."""
    channels = shapes["time_embed.0.weight"][1]
    emb_rows, out_rows = (shapes[f"middle_block.0.{k}.weight"][0] for k in ("emb_layers.1", "out_layers.3"))
    outs, ins = _count_indices(shapes, "output_blocks"), _count_indices(shapes, "input_blocks")
    up = re.compile(r"output_blocks\.(\d+)\.[12]\.(conv|in_layers\.0)\.weight")
    ups = [(int(m[1]), m[2]) for m in map(up.match, shapes) if m]
    gaps = [i for i in range(ins) if not any(key.startswith(f"input_blocks.{i}.") for key in shapes)]
    res_blocks = min(ups)[0] if ups else gaps[0] - 1 if gaps else outs - 1
    levels = range(outs // (res_blocks + 1))
    first = [(levels[-1] - level) * (res_blocks + 1) for level in levels]
    widths = [shapes[f"output_blocks.{i}.0.out_layers.3.weight"][0] for i in first]
    visible: Ctor = dict(
        model_channels=channels,
        out_channels=shapes["out.2.weight"][0],
        num_res_blocks=res_blocks,
        channel_mult=tuple(w // channels if w % channels == 0 else _mlp_ratio(w, channels) for w in widths),
        attention_resolutions=tuple(2**k for k, i in enumerate(first) if f"output_blocks.{i}.1.norm.weight" in shapes),
        num_classes=shapes.get("label_emb.weight", (None,))[0],
        use_scale_shift_norm=emb_rows == 2 * out_rows,
    )
    if len(levels) > 1:
        visible |= dict(resblock_updown=bool(ups) and ups[0][1] != "conv")
        visible |= dict(conv_resample=not gaps)
    return visible


def _read_adm(shapes: Shapes, overrides: Mapping[str, Any]) -> Ctor:
    """Infer ADM's arguments; by default six input channels mean an upsampler with three of x and three of the image."""
    visible, stem = _read_unet(shapes), shapes["input_blocks.0.0.weight"][1]
    is_upsampler = overrides.get("in_channels", 3) * 2 == stem
    if "cls" in overrides:
        is_upsampler = overrides["cls"] == "SuperResModel"
    return visible | dict(
        in_channels=stem // 2 if is_upsampler else stem, cls="SuperResModel" if is_upsampler else "UNetModel"
    )


def _read_ldm(shapes: Shapes, overrides: Mapping[str, Any]) -> Ctor:
    visible = _read_unet(shapes) | dict(in_channels=shapes["input_blocks.0.0.weight"][1])
    if "middle_block.1.proj_in.weight" in shapes:
        blocks = "middle_block.1.transformer_blocks"
        context = shapes[f"{blocks}.0.attn2.to_k.weight"][1]
        visible |= dict(context_dim=context, transformer_depth=_count_indices(shapes, blocks))
    return visible | dict(use_spatial_transformer="context_dim" in visible)


_READERS: dict[str, Any] = {
    "dit": _read_dit,
    "uvit": _read_uvit,
    "uvit_t2i": _read_t2i,
    "adm": _read_adm,
    "ldm": _read_ldm,
}
