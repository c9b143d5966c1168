"""The ADM U-Net: residual blocks with AdaGN, BigGAN resampling, attention by resolution.

Source: arXiv:2105.05233, Section 3 and Table 11 (ADM); DDPM's, iDDPM's and LDM's U-Nets and ADM's
upsamplers are switches of it.

B batch, C channels, H W feature size, E embedding width, N heads, K head size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .embeddings import timestep_embedding
from .interface import (
    IMAGE_MISSING,
    LABEL_MISSING,
    TEXT_MISSING,
    Conditions,
    Free,
    IOSpec,
    TextCondition,
    conditions,
    require_choices,
    require_divisible,
)
from .spatial import SpatialTransformer

Norm = Literal["adagn", "add"]  # ADM Table 3: scale-shift (AdaGN) or addition of the embedding
Resample = Literal["biggan", "conv", "plain"]  # ADM Table 1: BigGAN up/down; DDPM's strided convolution
Order = Literal["qkv_first", "heads_first"]  # layout of the qkv channels in a checkpoint; no effect on training
Kind = Literal["self", "transformer"]  # ADM's attention block; LDM's spatial transformer, which sees a context
Label = Literal["add", "token"]  # a label's vector is added to the time's (ADM), or is the context's one token (LDM)

CHOICES = {
    "norm": ("adagn", "add"),
    "resample": ("biggan", "conv", "plain"),
    "qkv_order": ("qkv_first", "heads_first"),
    "attention_kind": ("self", "transformer"),
    "label": ("add", "token"),
}


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
    """The choices that all blocks of a U-Net share."""

    emb: int
    groups: int
    norm: Norm
    resample: Resample
    rescale: bool
    dropout: float
    qkv_order: Order
    heads: int
    head_channels: int | None
    up_heads: int | None
    attention_kind: Kind
    transformer_depth: int
    context: int


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

    def __init__(
        self,
        c_in: int,
        c_out: int,
        style: Style,
        resample: Literal["up", "down"] | None = None,
    ) -> None:
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
        return SpatialTransformer(width, heads, width // heads, context, depth, style.groups)
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


class UNet(nn.Module):
    """ADM's U-Net.

    `attention` lists the resolutions (in pixels of x) that have attention, as the paper's tables do.
    `head_channels` wins over `heads`; `up_heads` is the decoder's own number of heads (iDDPM).
    With attention_kind="transformer" a text is the context, or with label="token" a class is, as one
    token that is `context_width` wide.  `out_channels` replaces the number that follows from `io`.
    Raises ValueError when the groups do not divide a width, the image cannot be halved often enough or
    a choice is unknown.
    """

    def __init__(
        self,
        io: IOSpec,
        *,
        channels: int,
        channel_mult: Sequence[float] = (1, 2, 3, 4),
        res_blocks: int = 2,
        attention: Sequence[int] = (32, 16, 8),
        heads: int = 1,
        head_channels: int | None = 64,
        up_heads: int | None = None,
        norm: Norm = "adagn",
        resample: Resample = "biggan",
        rescale_residual: bool = False,
        dropout: float = 0.0,
        groups: int = 32,
        qkv_order: Order = "qkv_first",
        attention_kind: Kind = "self",
        transformer_depth: int = 1,
        label: Label = "add",
        context_width: int = 512,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        chosen = dict(norm=norm, resample=resample, qkv_order=qkv_order, attention_kind=attention_kind, label=label)
        require_choices(CHOICES, **chosen)
        levels = len(channel_mult)
        require_divisible("image size", io.size, 2 ** (levels - 1), f"{levels} levels halve it {levels - 1} times")
        self.channels, self.emb_width, self.upsamples_image = channels, 4 * channels, io.image_channels > 0
        self._style = Style(
            emb=self.emb_width,
            groups=groups,
            norm=norm,
            resample=resample,
            rescale=rescale_residual,
            dropout=dropout,
            qkv_order=qkv_order,
            heads=heads,
            head_channels=head_channels,
            up_heads=up_heads,
            attention_kind=attention_kind,
            transformer_depth=transformer_depth,
            context=_context_width(io, attention_kind, label, context_width),
        )
        self._attended = {level for level in range(levels) if io.size >> level in attention}
        widths, added = [int(mult * channels) for mult in channel_mult], io.label_rows if label == "add" else 0
        self._make(io, widths, res_blocks, out_channels or io.out_channels, added)
        tokens = io.label_rows if label == "token" else 0
        self.label_token = nn.Embedding(tokens, context_width) if tokens else None

    def _make(self, io: IOSpec, widths: list[int], res_blocks: int, out: int, label_rows: int) -> None:
        emb, style = self.emb_width, self._style
        self.time_embed = nn.Sequential(nn.Linear(self.channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_emb = nn.Embedding(label_rows, emb) if label_rows else None
        self.encoder, skips = self._encoder(io.channels + io.image_channels, widths, res_blocks)
        mid = widths[-1]
        attention = attention_layer(mid, style, decoder=False)
        self.middle = Stage((self._block(mid, mid), attention, self._block(mid, mid)))
        self.decoder = self._decoder(widths, res_blocks, skips)
        self.out_norm = GroupNorm(style.groups, widths[0])
        self.out = zero(nn.Conv2d(widths[0], out, 3, padding=1))

    @staticmethod
    def free(io: IOSpec) -> Free:
        """Channels in multiples of the head size: 64 as in ADM, 32 for small images."""
        head = 64 if io.size >= 16 else 32
        mults: list[tuple[int, ...]] = [(1, 1), (1, 2)]
        if io.size >= 32:
            mults = [(1, 2, 2), (1, 2, 4), (1, 2, 2, 2), (1, 2, 3, 4), (1, 2, 4, 4)]
        return {
            "channel_mult": mults,
            "heads": (1,),
            "head_channels": (head,),
            "res_blocks": (1, 2, 3, 4),
            "channels": range(head, 1025, head),
        }

    @staticmethod
    def distance(args: Mapping[str, Any]) -> float:
        """ADM has two residual blocks a level (three at 64 pixels)."""
        return abs(math.log(args["res_blocks"] / 2))

    def _block(self, c_in: int, c_out: int, resample: Literal["up", "down"] | None = None) -> ResBlock:
        return ResBlock(c_in, c_out, self._style, resample)

    def _change(self, width: int, direction: Literal["up", "down"]) -> nn.Module:
        if self._style.resample == "biggan":
            return self._block(width, width, resample=direction)
        layer = Downsample if direction == "down" else Upsample
        return layer(width, learned=self._style.resample == "conv")

    def _encoder(self, c_in: int, widths: list[int], res_blocks: int) -> tuple[nn.ModuleList, list[int]]:
        c = widths[0]
        stages, skips = [Stage([Stem(c_in, c)])], [c]
        for level, width in enumerate(widths):
            for _ in range(res_blocks):
                layers: list[nn.Module] = [self._block(c, width)]
                if level in self._attended:
                    layers.append(attention_layer(width, self._style, decoder=False))
                stages.append(Stage(layers))
                c = width
                skips.append(c)
            if level < len(widths) - 1:
                stages.append(Stage([self._change(c, "down")]))
                skips.append(c)
        return nn.ModuleList(stages), skips

    def _decoder(self, widths: list[int], res_blocks: int, skips: list[int]) -> nn.ModuleList:
        stages, skips, c = [], list(skips), widths[-1]
        for level in reversed(range(len(widths))):
            width = widths[level]
            for i in range(res_blocks + 1):
                layers: list[nn.Module] = [self._block(c + skips.pop(), width)]
                if level in self._attended:
                    layers.append(attention_layer(width, self._style, decoder=True))
                c = width
                if level and i == res_blocks:
                    layers.append(self._change(c, "up"))
                stages.append(Stage(layers))
        return nn.ModuleList(stages)

    def _context(self, given: Conditions) -> TextCondition | None:
        """What the spatial transformers attend to: the text, or the label's token."""
        if self._style.attention_kind == "self" or given.text is not None:
            return given.text
        if self.label_token is None:
            raise ValueError(TEXT_MISSING)
        if given.label is None:
            raise ValueError(LABEL_MISSING)
        return TextCondition(tokens=self.label_token(given.label).unsqueeze(1))

    def forward(self, x_BCHW: Tensor, t_B: Tensor, cond: Any = None) -> Tensor:
        given = conditions(cond)
        emb_BE = self.time_embed(timestep_embedding(t_B, self.channels).to(x_BCHW.dtype))
        if self.label_emb is not None:
            if given.label is None:
                raise ValueError(LABEL_MISSING)
            emb_BE = emb_BE + self.label_emb(given.label)
        text = self._context(given)
        h, skips = x_BCHW, []
        if self.upsamples_image:
            if given.image is None:
                raise ValueError(IMAGE_MISSING)
            h = append_image(h, given.image)
        for stage in self.encoder:
            h = stage(h, emb_BE, text)
            skips.append(h)
        h = self.middle(h, emb_BE, text)
        for stage in self.decoder:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb_BE, text)
        return self.out(F.silu(self.out_norm(h)))


def append_image(x_BCHW: Tensor, image_BChw: Tensor) -> Tensor:
    """x and, as more channels, the image brought to its size (ADM-U)."""
    size = tuple(x_BCHW.shape[-2:])
    return torch.cat([x_BCHW, F.interpolate(image_BChw, size, mode="bilinear").to(x_BCHW.dtype)], dim=1)


def _context_width(io: IOSpec, kind: Kind, label: Label, width: int) -> int:
    """Width of the context's tokens, 0 without one; ValueError when blocks and conditions do not fit."""
    token = bool(io.num_classes) and label == "token"
    if token and io.text_dim:
        raise ValueError("label='token' makes the label the context, but so is the text; choose label='add'")
    if kind == "self" and (token or io.text_dim):
        raise ValueError("attention_kind='self' sees no context; a text or label='token' needs 'transformer'")
    if kind == "transformer" and not (token or io.text_dim):
        raise ValueError("attention_kind='transformer' needs a context: a text, or classes with label='token'")
    return io.text_dim or (width if token else 0)


class Stem(nn.Conv2d):
    """The first 3x3 convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, padding=1)

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor | None = None) -> Tensor:
        return super().forward(x_BCHW)
