"""Blocks of ADM's networks, and the encoder that the U-Net and the noisy classifier share.

Source: arXiv:2105.05233, Section 3.  The options cover the U-Nets of DDPM, iDDPM and LDM too.

B batch, C channels, H W feature size, E embedding width, N heads, K head size.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .interface import TextCondition, require_divisible
from .spatial import SpatialTransformer

Norm = Literal["adagn", "add"]  # ADM Table 3: scale-shift (AdaGN) or addition of the embedding
Resample = Literal["biggan", "conv", "plain"]  # ADM Table 1: BigGAN up/down; DDPM's strided convolution
QkvOrder = Literal["qkv_first", "heads_first"]  # order of the qkv channels in a checkpoint; no effect on training
AttentionKind = Literal["self", "transformer"]  # ADM's attention block; LDM's spatial transformer with a context
Direction = Literal["up", "down"]


class GroupNorm(nn.GroupNorm):
    """Group norm computed in float32 for inputs of any precision; the output has the input's dtype."""

    def __init__(self, groups: int, channels: int) -> None:
        require_divisible("channels", channels, groups, f"group norm has {groups} groups, which must divide them")
        super().__init__(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockOptions:
    """Options that all blocks of a network share; the defaults are ADM's."""

    emb: int
    """Width of the time embedding."""
    groups: int = 32
    norm: Norm = "adagn"
    resample: Resample = "biggan"
    rescale: bool = False
    dropout: float = 0.0
    qkv_order: QkvOrder = "qkv_first"
    heads: int = 1
    head_channels: int | None = 64
    exact_heads: bool = False
    up_heads: int | None = None
    attention_kind: AttentionKind = "self"
    transformer_depth: int = 1
    context: int = 0
    """Width of the context tokens; 0 means no context."""


def zero_parameters(module: Any) -> Any:
    """Set all parameters of a module to zero and return the module."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def downsample_2x(x: Tensor) -> Tensor:
    """Average 2x2 pixels: (B, C, H, W) -> (B, C, H / 2, W / 2)."""
    return F.avg_pool2d(x, 2)


def upsample_2x(x: Tensor) -> Tensor:
    """Repeat each pixel 2x2: (B, C, H, W) -> (B, C, 2 H, 2 W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ResBlock(nn.Module):
    """Residual block: norm, SiLU, conv, time embedding, norm, SiLU, dropout, conv, plus the shortcut.

    With `resample`, both paths change resolution; the main path does so between its first SiLU and its first
    convolution (BigGAN).
    """

    def __init__(self, c_in: int, c_out: int, options: BlockOptions, resample: Direction | None = None) -> None:
        super().__init__()
        self.scale_shift = options.norm == "adagn"
        self.gain = 1 / math.sqrt(2) if options.rescale else 1.0
        self.resample = {"up": upsample_2x, "down": downsample_2x, None: None}[resample]
        self.norm_in = GroupNorm(options.groups, c_in)
        self.conv_in = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.emb = nn.Linear(options.emb, 2 * c_out if self.scale_shift else c_out)
        self.norm_out = GroupNorm(options.groups, c_out)
        self.dropout = nn.Dropout(options.dropout)
        self.conv_out = zero_parameters(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor) -> Tensor:
        h = F.silu(self.norm_in(x_BCHW))
        if self.resample is not None:
            h, x_BCHW = self.resample(h), self.resample(x_BCHW)
        h = self.conv_in(h)
        emb_BC11 = self.emb(F.silu(emb_BE)).to(h.dtype)[:, :, None, None]
        if self.scale_shift:
            scale, shift = emb_BC11.chunk(2, dim=1)
            h = self.norm_out(h) * (1 + scale) + shift
        else:
            h = self.norm_out(h + emb_BC11)
        h = self.conv_out(self.dropout(F.silu(h)))
        return (self.shortcut(x_BCHW) + h) * self.gain


class AttentionBlock(nn.Module):
    """Self-attention over the H W positions plus a residual, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, heads: int, options: BlockOptions) -> None:
        super().__init__()
        require_divisible("channels", channels, heads, "the heads must divide them")
        self.heads, self.order = heads, options.qkv_order
        self.norm = GroupNorm(options.groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_parameters(nn.Conv1d(channels, channels, 1))

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor | None = None) -> Tensor:
        b, c, *_ = x_BCHW.shape
        qkv = self.qkv(self.norm(x_BCHW).flatten(2))
        if self.order == "qkv_first":
            q, k, v = qkv.reshape(b, 3, self.heads, c // self.heads, -1).unbind(1)
        else:
            q, k, v = qkv.reshape(b, self.heads, 3, c // self.heads, -1).unbind(2)
        y_BNTK = F.scaled_dot_product_attention(q.mT, k.mT, v.mT)
        return x_BCHW + self.proj_out(y_BNTK.mT.reshape(b, c, -1)).view_as(x_BCHW)


def attention_layer(width: int, options: BlockOptions, *, decoder: bool) -> nn.Module:
    """Build the attention layer of a level of this width; raise ValueError if heads and width do not fit."""
    size = options.head_channels
    if options.attention_kind == "transformer":
        heads = width // size if size else options.heads
        if not 1 <= heads <= width:
            raise ValueError(f"{width} channels cannot have heads={options.heads} or head_channels={size}")
        depth, context = options.transformer_depth, options.context
        exact = size if size and options.exact_heads else width // heads
        return SpatialTransformer(width, heads, exact, context, depth, options.groups)
    if size:
        require_divisible("channels", width, size, "head_channels must divide every attended width")
        return AttentionBlock(width, width // size, options)
    return AttentionBlock(width, (options.up_heads or options.heads) if decoder else options.heads, options)


class Downsample(nn.Module):
    """Stride-2 convolution if `learned`, else average pooling."""

    def __init__(self, channels: int, learned: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if learned else None

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor | None = None) -> Tensor:
        return downsample_2x(x_BCHW) if self.op is None else self.op(x_BCHW)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling, followed by a convolution if `learned`."""

    def __init__(self, channels: int, learned: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if learned else nn.Identity()

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor | None = None) -> Tensor:
        return self.conv(upsample_2x(x_BCHW))


class Stage(nn.ModuleList):
    """Sequence of layers; a spatial transformer takes the context, every other layer the time embedding."""

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor, text: TextCondition | None) -> Tensor:
        for layer in self:
            x_BCHW = layer(x_BCHW, text if isinstance(layer, SpatialTransformer) else emb_BE)
        return x_BCHW


class Stem(nn.Conv2d):
    """First 3x3 convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, padding=1)

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor | None = None) -> Tensor:
        return super().forward(x_BCHW)


def time_mlp(channels: int) -> nn.Sequential:
    """Build the MLP from the sinusoidal embedding (`channels` values) to the time embedding (4 * channels)."""
    return nn.Sequential(nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, 4 * channels))


def attended_levels(size: int, levels: int, attention: Collection[int]) -> set[int]:
    """Return the levels whose resolution is in `attention`; raise ValueError unless all levels can halve the size."""
    require_divisible("image size", size, 2 ** (levels - 1), f"{levels} levels halve it {levels - 1} times")
    return {level for level in range(levels) if size >> level in attention}


def resampling(width: int, options: BlockOptions, direction: Direction) -> nn.Module:
    """Build the layer between two levels: a residual block (BigGAN), or resampling with or without a convolution."""
    if options.resample == "biggan":
        return ResBlock(width, width, options, direction)
    layer = Downsample if direction == "down" else Upsample
    return layer(width, learned=options.resample == "conv")


def encoder(
    c_in: int, widths: Sequence[int], res_blocks: int, attended: Collection[int], options: BlockOptions
) -> tuple[nn.ModuleList, list[int]]:
    """Build the stages from the stem to the coarsest level; return them and the output width of each."""
    c = widths[0]
    stages, skips = [Stage([Stem(c_in, c)])], [c]
    for level, width in enumerate(widths):
        for _ in range(res_blocks):
            layers: list[nn.Module] = [ResBlock(c, width, options)]
            if level in attended:
                layers.append(attention_layer(width, options, decoder=False))
            stages.append(Stage(layers))
            c = width
            skips.append(c)
        if level < len(widths) - 1:
            stages.append(Stage([resampling(c, options, "down")]))
            skips.append(c)
    return nn.ModuleList(stages), skips


def middle(width: int, options: BlockOptions) -> Stage:
    """Build the stage of the coarsest level: two residual blocks with attention between them."""
    attention = attention_layer(width, options, decoder=False)
    return Stage((ResBlock(width, width, options), attention, ResBlock(width, width, options)))
