"""Read and write DiT in the layout of diffusers' `DiTTransformer2DModel`.

diffusers stores a copy of the time and label embedders in every block and omits the position table.  Its forward
pass differs from the published one in two constants: the time frequencies are 10000^(-i / (half - 1)), and the
norm before the MLP uses the eps of the configuration, 1e-5 in the published conversions instead of 1e-6.
`from_diffusers` computes the published function, with which the published weights were trained;
frequencies="ddpm" selects the frequencies of diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import build
from .embeddings import Frequencies, sincos_2d
from .interface import IOSpec, NetSpec, Variance
from .official import as_tensors, check_finite, check_layout, load_copies, shapes_of

FIXED_CONFIG = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "dropout": 0.0,
    "norm_elementwise_affine": False,
    "norm_type": "ada_norm_zero",
}
"""Values that diffusers' configuration must have for DiT."""

DEFAULTS = {
    **FIXED_CONFIG,
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


POSITIVE_INTEGERS = (
    "attention_head_dim",
    "in_channels",
    "num_attention_heads",
    "num_embeds_ada_norm",
    "num_layers",
    "patch_size",
    "sample_size",
)
"""Keys of the configuration that need an integer above 0."""


class TensorMapping(NamedTuple):
    """Tensor of diffusers and its source, chunk `part` of `parts` of our tensor along the first dimension."""

    theirs: str
    ours: str
    part: int = 0
    parts: int = 1


def from_diffusers(
    state_dict: Mapping[str, Any], config: Mapping[str, Any], *, frequencies: Frequencies = "adm"
) -> nn.Module:
    """Build a DiT, in eval mode, from the weights and the configuration of a `DiTTransformer2DModel`.

    Raises ValueError if the configuration is not DiT's, keys or shapes do not fit it, weights are not finite, or the
    copies of an embedder in the blocks differ.
    """
    io, args = _from_config(config)
    with torch.device("meta"):
        net = build("dit", io=io, args={**args, "frequencies": frequencies})
    tensors = as_tensors(state_dict)
    check_layout("diffusers' DiT", shapes_of(_as_diffusers(net.state_dict(), args["depth"])), shapes_of(tensors))
    check_finite(tensors)
    chunks: dict[str, dict[int, Tensor]] = {}
    for mapping in _tensor_mappings(args["depth"]):
        tensor = tensors[mapping.theirs]
        if not torch.equal(chunks.setdefault(mapping.ours, {}).setdefault(mapping.part, tensor), tensor):
            raise ValueError(
                f"{mapping.theirs} is not the same as in the first block; DiT has one embedder for all blocks"
            )
    grid = io.size // args["patch"]
    table = sincos_2d(args["width"], grid, grid)[None].to(tensors["proj_out_1.weight"])
    weights = {ours: torch.cat(list(parts.values())) for ours, parts in chunks.items()}
    return load_copies(net, {"pos_embed": table, **weights})


def to_diffusers(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights of a DiT in diffusers' layout and order, and the matching configuration.

    Raises ValueError for a network that diffusers' DiT does not support.
    """
    spec = getattr(net, "spec", None)
    if not isinstance(spec, NetSpec) or spec.arch != "dit":
        raise ValueError(f"{type(net).__name__} is not a DiT built by architectures.build")
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
        raise ValueError(f"diffusers' DiT {why}, so it cannot hold these weights")

    if spec.args.get("conditioning", "adaln_zero") != "adaln_zero":
        refuse("supports adaln_zero only")
    if not spec.io.num_classes or not spec.io.null_label:
        refuse("has classes and a null class")
    if weights["blocks.0.mlp.fc1.weight"].shape[0] != 4 * table.shape[1]:
        refuse("has an MLP four times as wide as the network")
    if not torch.allclose(weights["pos_embed"][0].float().cpu(), table, rtol=0, atol=1e-3):
        refuse("computes its position table")


def _from_config(config: Mapping[str, Any]) -> tuple[IOSpec, dict[str, Any]]:
    """Return the IOSpec and DiT's arguments of a configuration; ignore keys that do not concern DiT."""
    c = {**DEFAULTS, **config}
    for name, value in FIXED_CONFIG.items():
        if c[name] != value:
            raise ValueError(f"{name} is {c[name]!r} in the configuration; DiT has {value!r}")
    for name in POSITIVE_INTEGERS:
        if type(c[name]) is not int or c[name] < 1:
            raise ValueError(f"{name} is {c[name]!r} in the configuration; it must be a whole number above 0")
    ratio = (c["out_channels"] or c["in_channels"]) / c["in_channels"]
    if ratio not in (1, 2):
        raise ValueError(
            f"out_channels is {c['out_channels']} in the configuration; "
            f"DiT has {c['in_channels']}, as many as the input, or twice as many"
        )
    variance: Variance = "learned_range" if ratio == 2 else "fixed"
    io = IOSpec(
        channels=c["in_channels"], size=c["sample_size"], num_classes=c["num_embeds_ada_norm"], variance=variance
    )
    width = c["num_attention_heads"] * c["attention_head_dim"]
    return io, dict(depth=c["num_layers"], width=width, heads=c["num_attention_heads"], patch=c["patch_size"])


def _as_diffusers(weights: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    return {p.theirs: weights[p.ours].chunk(p.parts)[p.part].clone() for p in _tensor_mappings(depth)}


def _tensor_mappings(depth: int) -> Iterator[TensorMapping]:
    """Yield the mapping of every tensor, in diffusers' order."""
    yield from _weight_and_bias("pos_embed.proj", "x_embedder.proj")
    for i in range(depth):
        theirs, ours = f"transformer_blocks.{i}", f"blocks.{i}"
        yield from _weight_and_bias(f"{theirs}.norm1.emb.timestep_embedder.linear_1", "t_embedder.mlp.0")
        yield from _weight_and_bias(f"{theirs}.norm1.emb.timestep_embedder.linear_2", "t_embedder.mlp.2")
        table = "embedding_table.weight"
        yield TensorMapping(f"{theirs}.norm1.emb.class_embedder.{table}", f"y_embedder.{table}")
        yield from _weight_and_bias(f"{theirs}.norm1.linear", f"{ours}.adaLN_modulation.1")
        for part, name in enumerate("qkv"):
            yield from _weight_and_bias(f"{theirs}.attn1.to_{name}", f"{ours}.attn.qkv", part, 3)
        yield from _weight_and_bias(f"{theirs}.attn1.to_out.0", f"{ours}.attn.proj")
        yield from _weight_and_bias(f"{theirs}.ff.net.0.proj", f"{ours}.mlp.fc1")
        yield from _weight_and_bias(f"{theirs}.ff.net.2", f"{ours}.mlp.fc2")
    yield from _weight_and_bias("proj_out_1", "final_layer.adaLN_modulation.1")
    yield from _weight_and_bias("proj_out_2", "final_layer.linear")


def _weight_and_bias(theirs: str, ours: str, part: int = 0, parts: int = 1) -> Iterator[TensorMapping]:
    for kind in ("weight", "bias"):
        yield TensorMapping(f"{theirs}.{kind}", f"{ours}.{kind}", part, parts)
