"""DiT in the layout of diffusers' `DiTTransformer2DModel`, read and written.

diffusers keeps a copy of the time and label embedders in every block and leaves out the position
table.  Its forward also differs from the published one in two numbers: the time's frequencies are
10000^(-i / (half - 1)), and the norm before the MLP has the configuration's eps, 1e-5 in the published
conversions, for 1e-6.  `from_diffusers` gives the published function, which is what the published
weights were trained with; frequencies="ddpm" follows diffusers in the first number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import build
from .embeddings import Frequencies, sincos_2d
from .interface import IOSpec, NetSpec, Variance
from .official import as_tensors, check_finite, check_layout, fill, shapes_of

FIXED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "dropout": 0.0,
    "norm_elementwise_affine": False,
    "norm_type": "ada_norm_zero",
}
"""What DiT's transformer does not leave open in diffusers' configuration."""

DEFAULTS = {
    **FIXED,
    "attention_head_dim": 72,
    "in_channels": 4,
    "norm_eps": 1e-5,
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "out_channels": None,
    "patch_size": 2,
    "sample_size": 32,
}


WHOLE = (
    "attention_head_dim",
    "in_channels",
    "num_attention_heads",
    "num_embeds_ada_norm",
    "num_layers",
    "patch_size",
    "sample_size",
)
"""What must be a whole number above 0 in it."""


class Place(NamedTuple):
    """Where one of diffusers' weights is here: `part` of `parts` of ours, along the first dimension."""

    theirs: str
    ours: str
    part: int = 0
    parts: int = 1


def from_diffusers(
    state_dict: Mapping[str, Any], config: Mapping[str, Any], *, frequencies: Frequencies = "adm"
) -> nn.Module:
    """A DiT in eval mode from the weights and the configuration of a `DiTTransformer2DModel`.

    Raises ValueError for a configuration that DiT does not have, for keys or shapes that do not fit it,
    for weights that are not finite, and when the blocks' copies of an embedder differ.
    """
    io, args = _from_config(config)
    with torch.device("meta"):
        net = build("dit", io=io, args={**args, "frequencies": frequencies})
    tensors = as_tensors(state_dict)
    check_layout("diffusers' DiT", shapes_of(_as_diffusers(net.state_dict(), args["depth"])), shapes_of(tensors))
    check_finite(tensors)
    found: dict[str, dict[int, Tensor]] = {}
    for place in _places(args["depth"]):
        tensor = tensors[place.theirs]
        if not torch.equal(found.setdefault(place.ours, {}).setdefault(place.part, tensor), tensor):
            raise ValueError(
                f"{place.theirs} is not the same as in the first block; DiT has one embedder for all blocks"
            )
    grid = io.size // args["patch"]
    table = sincos_2d(args["width"], grid, grid)[None].to(tensors["proj_out_1.weight"])
    weights = {ours: torch.cat(list(parts.values())) for ours, parts in found.items()}
    return fill(net, {"pos_embed": table, **weights})


def to_diffusers(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A DiT's weights in diffusers' layout and order, and the configuration that goes with them.

    Raises ValueError for a network that diffusers' DiT cannot express.
    """
    spec = getattr(net, "spec", None)
    if not isinstance(spec, NetSpec) or spec.arch != "dit":
        raise ValueError(f"{type(net).__name__} is not a DiT that architectures.build made")
    io, weights = spec.io, net.state_dict()
    width, _, patch, _ = weights["x_embedder.proj.weight"].shape
    heads: int = net.blocks[0].attn.heads  # type: ignore[index,union-attr]
    _check_expressible(spec, weights, sincos_2d(width, io.size // patch, io.size // patch))
    config = {
        **DEFAULTS,
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": io.channels,
        "out_channels": io.out_channels,
        "num_layers": spec.args["depth"],
        "num_embeds_ada_norm": io.num_classes,
        "patch_size": patch,
        "sample_size": io.size,
        "norm_eps": 1e-6,
    }
    return _as_diffusers(weights, spec.args["depth"]), config


def _check_expressible(spec: NetSpec, weights: Mapping[str, Tensor], table: Tensor) -> None:
    def refuse(why: str) -> None:
        raise ValueError(f"diffusers' DiT {why}, so these weights have no place in it")

    if spec.args.get("conditioning", "adaln_zero") != "adaln_zero":
        refuse("knows adaln_zero only")
    if not spec.io.num_classes or not spec.io.null_label:
        refuse("has classes and a null class")
    if weights["blocks.0.mlp.fc1.weight"].shape[0] != 4 * table.shape[1]:
        refuse("has an MLP four times as wide as the network")
    if not torch.allclose(weights["pos_embed"][0].float().cpu(), table, rtol=0, atol=1e-3):
        refuse("computes its position table")


def _from_config(config: Mapping[str, Any]) -> tuple[IOSpec, dict[str, Any]]:
    """The problem and DiT's arguments; names that do not concern DiT are passed over."""
    c = {**DEFAULTS, **config}
    for name, value in FIXED.items():
        if c[name] != value:
            raise ValueError(f"{name} is {c[name]!r} in the configuration; DiT has {value!r}")
    for name in WHOLE:
        if type(c[name]) is not int or c[name] < 1:
            raise ValueError(f"{name} is {c[name]!r} in the configuration; it must be a whole number above 0")
    ratio = (c["out_channels"] or c["in_channels"]) / c["in_channels"]
    if ratio not in (1, 2):
        raise ValueError(f"{c['out_channels']} channels out of {c['in_channels']}: DiT has as many, or twice as many")
    variance: Variance = "learned_range" if ratio == 2 else "fixed"
    io = IOSpec(
        channels=c["in_channels"], size=c["sample_size"], num_classes=c["num_embeds_ada_norm"], variance=variance
    )
    width = c["num_attention_heads"] * c["attention_head_dim"]
    return io, dict(depth=c["num_layers"], width=width, heads=c["num_attention_heads"], patch=c["patch_size"])


def _as_diffusers(weights: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    return {p.theirs: weights[p.ours].chunk(p.parts)[p.part].clone() for p in _places(depth)}


def _places(depth: int) -> Iterator[Place]:
    """Every weight, in diffusers' order."""
    yield from _both("pos_embed.proj", "x_embedder.proj")
    for i in range(depth):
        theirs, ours = f"transformer_blocks.{i}", f"blocks.{i}"
        yield from _both(f"{theirs}.norm1.emb.timestep_embedder.linear_1", "t_embedder.mlp.0")
        yield from _both(f"{theirs}.norm1.emb.timestep_embedder.linear_2", "t_embedder.mlp.2")
        table = "embedding_table.weight"
        yield Place(f"{theirs}.norm1.emb.class_embedder.{table}", f"y_embedder.{table}")
        yield from _both(f"{theirs}.norm1.linear", f"{ours}.adaLN_modulation.1")
        for part, name in enumerate("qkv"):
            yield from _both(f"{theirs}.attn1.to_{name}", f"{ours}.attn.qkv", part, 3)
        yield from _both(f"{theirs}.attn1.to_out.0", f"{ours}.attn.proj")
        yield from _both(f"{theirs}.ff.net.0.proj", f"{ours}.mlp.fc1")
        yield from _both(f"{theirs}.ff.net.2", f"{ours}.mlp.fc2")
    yield from _both("proj_out_1", "final_layer.adaLN_modulation.1")
    yield from _both("proj_out_2", "final_layer.linear")


def _both(theirs: str, ours: str, part: int = 0, parts: int = 1) -> Iterator[Place]:
    for kind in ("weight", "bias"):
        yield Place(f"{theirs}.{kind}", f"{ours}.{kind}", part, parts)
