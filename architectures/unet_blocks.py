"""The blocks of ADM's networks, and the encoder that the U-Net and the noisy classifier share.

Source: arXiv:2105.05233, Section 3; the switches are those of DDPM's, iDDPM's and LDM's U-Nets.

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
Order = Literal["qkv_first", "heads_first"]  # layout of the qkv channels in a checkpoint; no effect on training
Kind = Literal["self", "transformer"]  # ADM's attention block; LDM's spatial transformer, which sees a context
Direction = Literal["up", "down"]


class GroupNorm(nn.GroupNorm):
    """Group norm computed in float32 whatever the input's precision."""

    def __init__(self, groups: int, channels: int) -> None:
        require_divisible("channels", channels, groups, f"group norm has {groups} groups: use multiples of it")
        super().__init__(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """The choices that all blocks of a network share; the defaults are ADM's."""

    emb: int
    groups: int = 32
    norm: Norm = "adagn"
    resample: Resample = "biggan"
    rescale: bool = False
    dropout: float = 0.0
    qkv_order: Order = "qkv_first"
    heads: int = 1
    head_channels: int | None = 64
    exact_heads: bool = False
    up_heads: int | None = None
    attention_kind: Kind = "self"
    transformer_depth: int = 1
    context: int = 0


def zero(module: Any) -> Any:
    """The module with its parameters set to zero."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def down(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ResBlock(nn.Module):
    """norm, SiLU, conv, embedding, norm, SiLU, conv, plus the shortcut.

    With `resample` both paths change resolution, the main one after its norm and SiLU and before
    its convolution (BigGAN).
    """

    def __init__(self, c_in: int, c_out: int, style: Style, resample: Direction | None = None) -> None:
        super().__init__()
        self.scale_shift = style.norm == "adagn"
        self.gain = 1 / math.sqrt(2) if style.rescale else 1.0
        self.resample = {"up": up, "down": down, None: None}[resample]
        self.norm_in = GroupNorm(style.groups, c_in)
        self.conv_in = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.emb = nn.Linear(style.emb, 2 * c_out if self.scale_shift else c_out)
        self.norm_out = GroupNorm(style.groups, c_out)
        self.dropout = nn.Dropout(style.dropout)
        self.conv_out = zero(nn.Conv2d(c_out, c_out, 3, padding=1))
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
    """Self-attention over the H W positions with a residual, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, heads: int, style: Style) -> None:
        super().__init__()
        require_divisible("channels", channels, heads, "the heads must divide them")
        self.heads, self.order = heads, style.qkv_order
        self.norm = GroupNorm(style.groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor | None = None) -> Tensor:
        b, c, *_ = x_BCHW.shape
        qkv = self.qkv(self.norm(x_BCHW).flatten(2))
        if self.order == "qkv_first":
            q, k, v = qkv.reshape(b, 3, self.heads, c // self.heads, -1).unbind(1)
        else:
            q, k, v = qkv.reshape(b, self.heads, 3, c // self.heads, -1).unbind(2)
        y_BNTK = F.scaled_dot_product_attention(q.mT, k.mT, v.mT)
        return x_BCHW + self.proj_out(y_BNTK.mT.reshape(b, c, -1)).view_as(x_BCHW)


def attention_layer(width: int, style: Style, *, decoder: bool) -> nn.Module:
    """The attention of a level, with as many heads as the style says."""
    size = style.head_channels
    if style.attention_kind == "transformer":
        heads = width // size if size else style.heads
        if not 1 <= heads <= width:
            raise ValueError(f"{width} channels do not make {style.heads} heads, or one of head_channels={size}")
        depth, context = style.transformer_depth, style.context
        exact = size if size and style.exact_heads else width // heads
        return SpatialTransformer(width, heads, exact, context, depth, style.groups)
    if size:
        require_divisible("channels", width, size, "head_channels must divide every attended width")
        return AttentionBlock(width, width // size, style)
    return AttentionBlock(width, (style.up_heads or style.heads) if decoder else style.heads, style)


class Downsample(nn.Module):
    """Stride-2 convolution, or average pooling without parameters."""

    def __init__(self, channels: int, learned: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if learned else None

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor | None = None) -> Tensor:
        return down(x_BCHW) if self.op is None else self.op(x_BCHW)


class Upsample(nn.Module):
    """Nearest neighbour, then a convolution unless it is the plain kind."""

    def __init__(self, channels: int, learned: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if learned else nn.Identity()

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor | None = None) -> Tensor:
        return self.conv(up(x_BCHW))


class Stage(nn.ModuleList):
    """Layers run one after the other, each given the features and the embedding, or the context."""

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor, text: TextCondition | None) -> Tensor:
        for layer in self:
            x_BCHW = layer(x_BCHW, text if isinstance(layer, SpatialTransformer) else emb_BE)
        return x_BCHW


class Stem(nn.Conv2d):
    """The first 3x3 convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, padding=1)

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor | None = None) -> Tensor:
        return super().forward(x_BCHW)


def time_mlp(channels: int) -> nn.Sequential:
    """From a sinusoid of `channels` values to the embedding, four times as wide."""
    return nn.Sequential(nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, 4 * channels))


def attended_levels(size: int, levels: int, attention: Collection[int]) -> set[int]:
    """The levels whose resolution is in `attention`; ValueError when the image cannot be halved so often."""
    require_divisible("image size", size, 2 ** (levels - 1), f"{levels} levels halve it {levels - 1} times")
    return {level for level in range(levels) if size >> level in attention}


def resampling(width: int, style: Style, direction: Direction) -> nn.Module:
    """The layer between two levels: a residual block (BigGAN), or a resampling with or without a convolution."""
    if style.resample == "biggan":
        return ResBlock(width, width, style, direction)
    layer = Downsample if direction == "down" else Upsample
    return layer(width, learned=style.resample == "conv")


def encoder(
    c_in: int, widths: Sequence[int], res_blocks: int, attended: Collection[int], style: Style
) -> tuple[nn.ModuleList, list[int]]:
    """The stages down to the coarsest level, and the width that each one gives."""
    c = widths[0]
    stages, skips = [Stage([Stem(c_in, c)])], [c]
    for level, width in enumerate(widths):
        for _ in range(res_blocks):
            layers: list[nn.Module] = [ResBlock(c, width, style)]
            if level in attended:
                layers.append(attention_layer(width, style, decoder=False))
            stages.append(Stage(layers))
            c = width
            skips.append(c)
        if level < len(widths) - 1:
            stages.append(Stage([resampling(c, style, "down")]))
            skips.append(c)
    return nn.ModuleList(stages), skips


def middle(width: int, style: Style) -> Stage:
    """Two residual blocks at the coarsest level with attention between them."""
    attention = attention_layer(width, style, decoder=False)
    return Stage((ResBlock(width, width, style), attention, ResBlock(width, width, style)))
