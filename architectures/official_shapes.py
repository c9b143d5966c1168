"""Reading a published constructor's arguments back from the keys and shapes of a state dict.

What keys and shapes do not show is the number of heads, the order of the attention's channels and the
image size of a U-Net; it comes from the published model with the same visible arguments.  No two
published models that look alike differ in these.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from .official_ctor import DEFAULTS, PUBLISHED, Ctor

Shapes = Mapping[str, tuple[int, ...]]

TABLE = "cond_stage_model.embedding.weight"
"""The class embedder's table in an LDM checkpoint."""
CLIP_TOKENS = 77


def complete(family: str, shapes: Shapes, given: Mapping[str, Any]) -> tuple[Ctor, bool]:
    """All arguments of the constructor call that made the state dict, `given` winning.

    The second value tells whether the heads are known: given, or those of a published model.
    Raises ValueError, with the key where there is one, when the form is not the family's.
    """
    try:
        seen = _READ[family](shapes, given)
    except KeyError as error:
        raise ValueError(f"this is not a state dict of {family}: {error.args[0]} is missing") from error
    except (IndexError, ZeroDivisionError, ValueError) as error:
        raise ValueError(f"the shapes are not those of {family}: {error}") from error
    models = (DEFAULTS[family] | model for model in PUBLISHED[family].values())
    known = next((model for model in models if seen.items() <= _comparable(model).items()), None)
    sure = known is not None or bool({"num_heads", "num_head_channels"} & set(given))
    if known is None:
        known = {"num_heads": 1}
        if "channel_mult" in seen:
            known |= {"image_size": 8 * 2 ** len(seen["channel_mult"])}
    if TABLE in shapes:
        seen |= {"n_classes": shapes[TABLE][0]}
    return {**DEFAULTS[family], **known, **seen, **given}, sure


def _comparable(model: Ctor) -> Ctor:
    """The arguments as they are read: attention's levels from fine to coarse."""
    factors = model.get("attention_resolutions")
    return model | dict(attention_resolutions=tuple(sorted(factors))) if factors else model


def _ratio(hidden: int, width: int) -> float:
    """The factor r for which int(width * r) is `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _count(shapes: Shapes, prefix: str) -> int:
    """One more than the largest number that follows the prefix."""
    found = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return 1 + max((int(m[1]) for m in map(found.match, shapes) if m), default=-1)


def _grid(tokens: int, hint: str = "") -> int:
    grid = math.isqrt(max(0, tokens))
    if not grid or grid**2 != tokens:
        raise ValueError(f"{tokens} patches are not a square{hint}")
    return grid


def _any(shapes: Shapes, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in shapes)


def _read_dit(shapes: Shapes, given: Mapping[str, Any]) -> Ctor:
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    rows = shapes["y_embedder.embedding_table.weight"][0]
    null = given.get("class_dropout_prob", 0.1) > 0 and given.get("num_classes") != rows
    return dict(
        input_size=_grid(shapes["pos_embed"][1]) * patch,
        patch_size=patch,
        in_channels=channels,
        hidden_size=width,
        depth=_count(shapes, "blocks"),
        mlp_ratio=_ratio(shapes["blocks.0.mlp.fc1.weight"][0], width),
        class_dropout_prob=0.1 if null else 0.0,
        num_classes=rows - null,
        learn_sigma=shapes["final_layer.linear.weight"][0] == 2 * channels * patch**2,
    )


def _read_uvit(shapes: Shapes, given: Mapping[str, Any]) -> Ctor:
    width, channels, patch, _ = shapes["patch_embed.proj.weight"]
    blocks = _count(shapes, "in_blocks")
    seen: Ctor = dict(
        patch_size=patch,
        in_chans=channels,
        embed_dim=width,
        depth=max(1, 2 * blocks),
        mlp_ratio=_ratio(shapes["mid_block.mlp.fc1.weight"][0], width),
        qkv_bias="mid_block.attn.qkv.bias" in shapes,
        mlp_time_embed=_any(shapes, "time_embed."),
        conv=_any(shapes, "final_layer."),
        skip=not blocks or _any(shapes, "out_blocks.0.skip_linear."),
    )
    if "context_embed.weight" in shapes:
        raise ValueError("context_embed.weight is unexpected; is the family uvit_t2i?")
    labels = shapes.get("label_emb.weight", (-1,))[0]
    patches = shapes["pos_embed"][1] - 1 - (labels > 0)
    return seen | dict(num_classes=labels, img_size=_grid(patches) * patch)


def _read_t2i(shapes: Shapes, given: Mapping[str, Any]) -> Ctor:
    """Positions do not tell text from patches: there are 77 tokens of text unless the arguments say otherwise."""
    width, clip_dim = shapes["context_embed.weight"]
    tokens, patch = shapes["pos_embed"][1] - 1, shapes["patch_embed.proj.weight"][-1]
    text = given.get("num_clip_token", CLIP_TOKENS)
    if "img_size" in given:
        text = tokens - (given["img_size"] // patch) ** 2
    grid = _grid(tokens - text, f" after {text} tokens of text: pass num_clip_token or img_size")
    rest = {key: shape for key, shape in shapes.items() if key != "context_embed.weight"}
    seen = _read_uvit({**rest, "pos_embed": (1, 1 + grid**2, width)}, given)
    del seen["num_classes"]
    return seen | dict(clip_dim=clip_dim, num_clip_token=text)


def _read_unet(shapes: Shapes) -> Ctor:
    """The number of residual blocks a level follows from where the first change of resolution is."""
    channels = shapes["time_embed.0.weight"][1]
    emb_rows, out_rows = (shapes[f"middle_block.0.{k}.weight"][0] for k in ("emb_layers.1", "out_layers.3"))
    outs, ins = _count(shapes, "output_blocks"), _count(shapes, "input_blocks")
    up = re.compile(r"output_blocks\.(\d+)\.[12]\.(conv|in_layers\.0)\.weight")
    ups = [(int(m[1]), m[2]) for m in map(up.match, shapes) if m]
    gaps = [i for i in range(ins) if not any(key.startswith(f"input_blocks.{i}.") for key in shapes)]
    res_blocks = min(ups)[0] if ups else gaps[0] - 1 if gaps else outs - 1
    levels = range(outs // (res_blocks + 1))
    first = [(levels[-1] - level) * (res_blocks + 1) for level in levels]
    widths = [shapes[f"output_blocks.{i}.0.out_layers.3.weight"][0] for i in first]
    seen: Ctor = dict(
        model_channels=channels,
        out_channels=shapes["out.2.weight"][0],
        num_res_blocks=res_blocks,
        channel_mult=tuple(w // channels if w % channels == 0 else _ratio(w, channels) for w in widths),
        attention_resolutions=tuple(2**k for k, i in enumerate(first) if f"output_blocks.{i}.1.norm.weight" in shapes),
        num_classes=shapes.get("label_emb.weight", (None,))[0],
        use_scale_shift_norm=emb_rows == 2 * out_rows,
    )
    if len(levels) > 1:
        seen |= dict(resblock_updown=bool(ups) and ups[0][1] != "conv")
        seen |= dict(conv_resample=not gaps)
    return seen


def _read_adm(shapes: Shapes, given: Mapping[str, Any]) -> Ctor:
    """Six channels in are an upsampler's three and three, unless the arguments say otherwise."""
    seen, stem = _read_unet(shapes), shapes["input_blocks.0.0.weight"][1]
    pair = given.get("in_channels", 3) * 2 == stem
    if "cls" in given:
        pair = given["cls"] == "SuperResModel"
    return seen | dict(in_channels=stem // 2 if pair else stem, cls="SuperResModel" if pair else "UNetModel")


def _read_ldm(shapes: Shapes, given: Mapping[str, Any]) -> Ctor:
    seen = _read_unet(shapes) | dict(in_channels=shapes["input_blocks.0.0.weight"][1])
    if "middle_block.1.proj_in.weight" in shapes:
        blocks = "middle_block.1.transformer_blocks"
        context = shapes[f"{blocks}.0.attn2.to_k.weight"][1]
        seen |= dict(context_dim=context, transformer_depth=_count(shapes, blocks))
    return seen | dict(use_spatial_transformer="context_dim" in seen)


_READ: dict[str, Any] = {
    "dit": _read_dit,
    "uvit": _read_uvit,
    "uvit_t2i": _read_t2i,
    "adm": _read_adm,
    "ldm": _read_ldm,
}
