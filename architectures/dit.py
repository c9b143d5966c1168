"""DiT: a transformer on patches with four types of conditioning (arXiv:2212.09748, Section 3).

B batch, C channels, H W image size, T tokens, D width, P patch.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .attention import Attention, CrossAttention, Mlp
from .embeddings import Frequencies, PatchEmbed, TimestepEmbedding, init_linears, sincos_2d, unpatchify
from .interface import LABEL_MISSING, Free, IOSpec, as_conditions, require_divisible, require_no
from .shapes import aspect_distance, heads_for, widths_and_depths

Conditioning = Literal["adaln_zero", "adaln", "cross_attention", "in_context"]  # Figure 3; Table 4


def _tanh_gelu() -> nn.Module:
    return nn.GELU(approximate="tanh")


def _layer_norm(width: int, affine: bool) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=affine)


def modulate(x_BTD: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    """Return x (1 + scale) + shift, with shift and scale (B, D) broadcast over tokens."""
    return torch.addcmul(shift_BD.unsqueeze(1), x_BTD, 1 + scale_BD.unsqueeze(1))


class InContextBlock(nn.Module):
    """Standard ViT block; the time and the label are two additional tokens of its sequence."""

    extra_tokens = 2

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = _layer_norm(width, affine=True)
        self.attn = Attention(width, heads)
        self.norm2 = _layer_norm(width, affine=True)
        self.mlp = Mlp(width, mlp_ratio, _tanh_gelu)

    def forward(self, x_BTD: Tensor, cond_BD: Tensor, pair_BSD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attn(self.norm1(x_BTD))
        return x_BTD + self.mlp(self.norm2(x_BTD))


class CrossAttentionBlock(nn.Module):
    """Self-attention, then cross-attention to the two tokens (time, label), then MLP.

    All norms are affine, including the final one, so that XL/2 has 597,991,712 parameters (Table 4: 598 M).
    """

    extra_tokens = 0

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = _layer_norm(width, affine=True)
        self.attn = Attention(width, heads)
        self.norm_cross = _layer_norm(width, affine=True)
        self.cross = CrossAttention(width, heads)
        self.norm2 = _layer_norm(width, affine=True)
        self.mlp = Mlp(width, mlp_ratio, _tanh_gelu)

    def forward(self, x_BTD: Tensor, cond_BD: Tensor, pair_BSD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attn(self.norm1(x_BTD))
        x_BTD = x_BTD + self.cross(self.norm_cross(x_BTD), pair_BSD)
        return x_BTD + self.mlp(self.norm2(x_BTD))


class AdaLNBlock(nn.Module):
    """Block with norms that a linear function of time + label shifts and scales; initially a plain ViT block."""

    extra_tokens = 0
    parts = 4

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = _layer_norm(width, affine=False)
        self.attn = Attention(width, heads)
        self.norm2 = _layer_norm(width, affine=False)
        self.mlp = Mlp(width, mlp_ratio, _tanh_gelu)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, self.parts * width))

    def forward(self, x_BTD: Tensor, cond_BD: Tensor, pair_BSD: Tensor) -> Tensor:
        shift1, scale1, shift2, scale2 = self.adaLN_modulation(cond_BD).chunk(4, dim=-1)
        x_BTD = x_BTD + self.attn(modulate(self.norm1(x_BTD), shift1, scale1))
        return x_BTD + self.mlp(modulate(self.norm2(x_BTD), shift2, scale2))


class AdaLNZeroBlock(AdaLNBlock):
    """adaLN block with a zero-initialised gate on both residual branches; initially the identity."""

    parts = 6

    def forward(self, x_BTD: Tensor, cond_BD: Tensor, pair_BSD: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(cond_BD).chunk(6, dim=-1)
        y_BTD = self.attn(modulate(self.norm1(x_BTD), shift1, scale1))
        x_BTD = torch.addcmul(x_BTD, gate1.unsqueeze(1), y_BTD)
        y_BTD = self.mlp(modulate(self.norm2(x_BTD), shift2, scale2))
        return torch.addcmul(x_BTD, gate2.unsqueeze(1), y_BTD)


class PlainFinal(nn.Module):
    """Layer norm and linear decoder."""

    affine = True

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm_final = _layer_norm(width, affine=self.affine)
        self.linear = nn.Linear(width, out)

    def forward(self, x_BTD: Tensor, cond_BD: Tensor) -> Tensor:
        return self.linear(self.norm_final(x_BTD))


class AdaLNFinal(PlainFinal):
    """Layer norm modulated by time + label, and linear decoder."""

    affine = False

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x_BTD: Tensor, cond_BD: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(cond_BD).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x_BTD), shift, scale))


BLOCKS: dict[str, tuple[type[Any], type[PlainFinal]]] = {
    "adaln_zero": (AdaLNZeroBlock, AdaLNFinal),
    "adaln": (AdaLNBlock, AdaLNFinal),
    "cross_attention": (CrossAttentionBlock, PlainFinal),
    "in_context": (InContextBlock, PlainFinal),
}


class LabelEmbedding(nn.Module):
    """Table of label vectors, (B,) int64 -> (B, D); the last row is the null class if there is one."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(rows, width)

    def forward(self, label_B: Tensor) -> Tensor:
        return self.embedding_table(label_B)


class DiT(nn.Module):
    """Diffusion transformer; the sizes of Table 1 are in `architectures.registry`.

    Raises ValueError when the patch does not divide the image or the heads do not divide the width.
    """

    def __init__(
        self,
        io: IOSpec,
        *,
        depth: int,
        width: int,
        heads: int | None = None,
        patch: int = 2,
        mlp_ratio: float = 4.0,
        conditioning: Conditioning = "adaln_zero",
        frequencies: Frequencies = "adm",
    ) -> None:
        super().__init__()
        require_no(io, "DiT", "text_dim", "image_channels")
        require_divisible("image size", io.size, patch, "choose a patch that divides it")
        if conditioning not in BLOCKS:
            raise ValueError(f"conditioning is {conditioning!r}; choose one of {', '.join(BLOCKS)}")
        block, final = BLOCKS[conditioning]
        heads = heads or heads_for(width)
        self.patch = patch
        self.extra_tokens = block.extra_tokens
        self.x_embedder = PatchEmbed(io.channels, width, patch)
        self.t_embedder = TimestepEmbedding(width, spacing=frequencies)
        self.y_embedder = LabelEmbedding(io.label_rows, width) if io.num_classes else None
        grid = io.size // patch
        self.register_buffer("pos_embed", sincos_2d(width, grid, grid)[None])
        self.blocks = nn.ModuleList([block(width, heads, mlp_ratio) for _ in range(depth)])
        self.final_layer = final(width, patch**2 * io.out_channels)
        self._init_weights()

    @staticmethod
    def free(io: IOSpec) -> Free:
        return widths_and_depths()

    distance = staticmethod(aspect_distance)

    def _init_weights(self) -> None:
        """Initialise linears by Xavier, embeddings by N(0, 0.02), modulations and decoder to zero (Section 3.2)."""
        init_linears(self, nn.init.xavier_uniform_)
        if self.y_embedder is not None:
            nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        for name, p in self.t_embedder.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(p, std=0.02)
        zeroed = [m[1] for n, m in self.named_modules() if n.endswith("adaLN_modulation")]
        for linear in [*zeroed, self.final_layer.linear]:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, cond: Any = None) -> Tensor:
        grid_h, grid_w = x_BCHW.shape[-2] // self.patch, x_BCHW.shape[-1] // self.patch
        x_BTD = self.x_embedder(x_BCHW) + self.pos_embed.to(x_BCHW.dtype)
        cond_BD = self.t_embedder(t_B)
        pair_BSD = cond_BD.unsqueeze(1)
        if self.y_embedder is not None:
            label_B = as_conditions(cond).label
            if label_B is None:
                raise ValueError(LABEL_MISSING)
            label_BD = self.y_embedder(label_B)
            pair_BSD = torch.stack([cond_BD, label_BD], dim=1)
            cond_BD = cond_BD + label_BD
        tokens = x_BTD.shape[1]
        if self.extra_tokens:
            x_BTD = torch.cat([x_BTD, pair_BSD], dim=1)
        for block in self.blocks:
            x_BTD = block(x_BTD, cond_BD, pair_BSD)
        x_BTF = self.final_layer(x_BTD[:, :tokens], cond_BD)
        return unpatchify(x_BTF, self.patch, grid_h, grid_w)
