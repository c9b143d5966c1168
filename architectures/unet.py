"""The ADM U-Net: residual blocks with AdaGN, BigGAN resampling, attention at given resolutions.

Source: arXiv:2105.05233, Section 3 and Table 11 (ADM).  Arguments select the U-Nets of DDPM, iDDPM and LDM
and the upsamplers of ADM.

B batch, C channels, H W feature size, E embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    as_conditions,
    require_choices,
)
from .unet_blocks import (
    AttentionKind,
    BlockOptions,
    GroupNorm,
    Norm,
    QkvOrder,
    Resample,
    ResBlock,
    Stage,
    attended_levels,
    attention_layer,
    encoder,
    middle,
    resampling,
    time_mlp,
    zero_parameters,
)

LabelPath = Literal["add", "token"]  # add to the time embedding (ADM), or use as the only context token (LDM)

CHOICES = {
    "norm": ("adagn", "add"),
    "resample": ("biggan", "conv", "plain"),
    "qkv_order": ("qkv_first", "heads_first"),
    "attention_kind": ("self", "transformer"),
    "label": ("add", "token"),
}


class UNet(nn.Module):
    """ADM's U-Net.

    `attention` lists the resolutions with attention, in pixels of x, as the tables of the paper do.
    `head_channels` overrides `heads`; `up_heads` is the number of heads in the decoder (iDDPM).  With
    `exact_heads`, heads of a spatial transformer have `head_channels` channels even if this does not divide the
    width of the level.  With attention_kind="transformer", the context is the text.  With label="token" as well, the
    context is the class as one token of width `context_width`.  `out_channels` overrides `io.out_channels`.
    Raises ValueError if the groups do not divide a width, the image size cannot be halved at every level, or
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
        exact_heads: bool = False,
        up_heads: int | None = None,
        norm: Norm = "adagn",
        resample: Resample = "biggan",
        rescale_residual: bool = False,
        dropout: float = 0.0,
        groups: int = 32,
        qkv_order: QkvOrder = "qkv_first",
        attention_kind: AttentionKind = "self",
        transformer_depth: int = 1,
        label: LabelPath = "add",
        context_width: int = 512,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        require_choices(CHOICES, norm=norm, resample=resample, qkv_order=qkv_order, attention_kind=attention_kind)
        require_choices(CHOICES, label=label)
        if not channel_mult or min(channel_mult) <= 0:
            raise ValueError(f"channel_mult is {channel_mult}; it must hold a number above 0 for each level")
        self._attended = attended_levels(io.size, len(channel_mult), attention)
        self.channels, self.emb_width, self.upsamples_image = channels, 4 * channels, io.image_channels > 0
        self._options = BlockOptions(
            emb=self.emb_width,
            groups=groups,
            norm=norm,
            resample=resample,
            rescale=rescale_residual,
            dropout=dropout,
            qkv_order=qkv_order,
            heads=heads,
            head_channels=head_channels,
            exact_heads=exact_heads,
            up_heads=up_heads,
            attention_kind=attention_kind,
            transformer_depth=transformer_depth,
            context=_context_width(io, attention_kind, label, context_width),
        )
        widths = [int(mult * channels) for mult in channel_mult]
        self._build_layers(io, widths, res_blocks, out_channels or io.out_channels, label)
        self.label_token = nn.Embedding(io.label_rows, context_width) if label == "token" and io.label_rows else None

    def _build_layers(self, io: IOSpec, widths: list[int], res_blocks: int, out: int, label: LabelPath) -> None:
        label_rows = io.label_rows if label == "add" else 0
        emb, options = self.emb_width, self._options
        self.time_embed = time_mlp(self.channels)
        self.label_emb = nn.Embedding(label_rows, emb) if label_rows else None
        self.encoder, skips = encoder(io.channels + io.image_channels, widths, res_blocks, self._attended, options)
        self.middle = middle(widths[-1], options)
        self.decoder = self._decoder(widths, res_blocks, skips)
        self.out_norm = GroupNorm(options.groups, widths[0])
        self.out = zero_parameters(nn.Conv2d(widths[0], out, 3, padding=1))

    @staticmethod
    def free(io: IOSpec) -> Free:
        """Allow channels in multiples of the head size: 64 as in ADM, 32 for images below 16 pixels."""
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
        """Return the distance from ADM's two residual blocks per level, as |log(blocks / 2)|."""
        return abs(math.log(args["res_blocks"] / 2))

    def _decoder(self, widths: list[int], res_blocks: int, skips: list[int]) -> nn.ModuleList:
        stages, skips, c = [], list(skips), widths[-1]
        for level in reversed(range(len(widths))):
            width = widths[level]
            for i in range(res_blocks + 1):
                layers: list[nn.Module] = [ResBlock(c + skips.pop(), width, self._options)]
                if level in self._attended:
                    layers.append(attention_layer(width, self._options, decoder=True))
                c = width
                if level and i == res_blocks:
                    layers.append(resampling(c, self._options, "up"))
                stages.append(Stage(layers))
        return nn.ModuleList(stages)

    def _context(self, cond: Conditions) -> TextCondition | None:
        """Return the context of the spatial transformers: the text, or the label as one token."""
        if self._options.attention_kind == "self" or cond.text is not None:
            return cond.text
        if self.label_token is None:
            raise ValueError(TEXT_MISSING)
        if cond.label is None:
            raise ValueError(LABEL_MISSING)
        return TextCondition(tokens=self.label_token(cond.label).unsqueeze(1))

    def forward(self, x_BCHW: Tensor, t_B: Tensor, cond: Any = None) -> Tensor:
        cond = as_conditions(cond)
        emb_BE = self.time_embed(timestep_embedding(t_B, self.channels).to(x_BCHW.dtype))
        if self.label_emb is not None:
            if cond.label is None:
                raise ValueError(LABEL_MISSING)
            emb_BE = emb_BE + self.label_emb(cond.label)
        text = self._context(cond)
        h, skips = x_BCHW, []
        if self.upsamples_image:
            if cond.image is None:
                raise ValueError(IMAGE_MISSING)
            h = append_image(h, cond.image)
        for stage in self.encoder:
            h = stage(h, emb_BE, text)
            skips.append(h)
        h = self.middle(h, emb_BE, text)
        for stage in self.decoder:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb_BE, text)
        return self.out(F.silu(self.out_norm(h)))


def append_image(x_BCHW: Tensor, image_BChw: Tensor) -> Tensor:
    """Resize the image bilinearly to the size of x and append it as channels (ADM-U): (B, C + C', H, W)."""
    size = tuple(x_BCHW.shape[-2:])
    return torch.cat([x_BCHW, F.interpolate(image_BChw, size, mode="bilinear").to(x_BCHW.dtype)], dim=1)


def _context_width(io: IOSpec, kind: AttentionKind, label: LabelPath, width: int) -> int:
    """Return the width of the context tokens, or 0; raise ValueError if blocks and conditions do not fit."""
    token = bool(io.num_classes) and label == "token"
    if token and io.text_dim:
        raise ValueError("with label='token' both the label and the text would be the context; choose label='add'")
    if kind == "self" and (token or io.text_dim):
        raise ValueError("attention_kind='self' has no context; a text or label='token' needs 'transformer'")
    if kind == "transformer" and not (token or io.text_dim):
        raise ValueError("attention_kind='transformer' needs a context: a text, or classes with label='token'")
    return io.text_dim or (width if token else 0)
