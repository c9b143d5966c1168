"""GenViT: a ViT whose tokens are scaled and shifted by the time (arXiv:2208.07791).

The time embedding has four values per token.  From it, each block computes one scale and one shift per token
(not per channel).  The block applies them before its attention and again before its MLP.  The classifier of the
paper's hybrid model uses the class token; the denoiser drops it at the end.

B batch, C channels, H W image size, T tokens (the class token and the patches), E time embedding width
(4 T), D width, P patch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .attention import Attention, Mlp
from .embeddings import PatchEmbed, init_linears, timestep_embedding, unpatchify
from .interface import LABEL_MISSING, Free, IOSpec, as_conditions, require_divisible, require_no
from .shapes import aspect_distance, heads_for, widths_and_depths


class GenViTBlock(nn.Module):
    """Pre-norm transformer block with x <- x (1 + scale) + shift before each branch; one scale and shift per token."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, tokens: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(4 * tokens, 2 * tokens))
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, qkv_bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, mlp_ratio, nn.GELU)

    def forward(self, x_BTD: Tensor, time_BE: Tensor | None) -> Tensor:
        if time_BE is None:
            x_BTD = x_BTD + self.attn(self.norm1(x_BTD))
            return x_BTD + self.mlp(self.norm2(x_BTD))
        scale_BT1, shift_BT1 = self.time(time_BE).unsqueeze(-1).chunk(2, dim=1)
        x_BTD = x_BTD * (1 + scale_BT1) + shift_BT1
        x_BTD = x_BTD + self.attn(self.norm1(x_BTD))
        x_BTD = x_BTD * (1 + scale_BT1) + shift_BT1
        return x_BTD + self.mlp(self.norm2(x_BTD))


class GenViT(nn.Module):
    """GenViT's denoiser; the sizes of the authors' table are in `architectures.registry`.

    The published denoiser takes no label; without classes (`io.num_classes` 0) this is the same network.
    With classes, we add a label embedding to the time embedding, as ADM does.
    `classifier` is the number of classes of the published classification head, which `classify` applies.  The
    published parameter counts include this head (10 classes, or 200 for Tiny-ImageNet).
    Raises ValueError if the patch does not divide the image, the heads do not divide the width, or the
    width is odd or below 4.
    """

    def __init__(
        self,
        io: IOSpec,
        *,
        depth: int,
        width: int,
        heads: int | None = None,
        patch: int = 4,
        mlp_ratio: float = 2.0,
        classifier: int = 0,
    ) -> None:
        super().__init__()
        require_no(io, "GenViT", "text_dim", "image_channels")
        require_divisible("image size", io.size, patch, "choose a patch that divides it")
        if width < 4 or width % 2:
            raise ValueError(f"width is {width}; the time embedding needs an even width of at least 4")
        heads = heads or heads_for(width)
        tokens = (io.size // patch) ** 2 + 1
        emb = 4 * tokens
        self.patch, self.width, self.extra_tokens = patch, width, 1
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.GELU(), nn.Linear(emb, emb))
        self.label_emb = nn.Embedding(io.label_rows, emb) if io.num_classes else None
        self.patch_embed = PatchEmbed(io.channels, width, patch)
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, width))
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.ModuleList([GenViTBlock(width, heads, mlp_ratio, tokens) for _ in range(depth)])
        self.decoder_pred = nn.Linear(width, patch**2 * io.out_channels)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classifier)) if classifier else None
        self._init_weights()

    @staticmethod
    def free(io: IOSpec) -> Free:
        return widths_and_depths()

    distance = staticmethod(aspect_distance)

    def _init_weights(self) -> None:
        """Initialise linears by Xavier, positions and class token by N(0, 1) (official code), labels by N(0, 0.02)."""
        init_linears(self, nn.init.xavier_normal_)
        if self.label_emb is not None:
            nn.init.normal_(self.label_emb.weight, std=0.02)

    def _time(self, t_B: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the time embedding (B, E); its sinusoidal input has the sines first."""
        cosines, sines = timestep_embedding(t_B, self.width, spacing="ddpm").chunk(2, dim=-1)
        return self.time_embed(torch.cat([sines, cosines], dim=-1).to(dtype))

    def _tokens(self, x_BCHW: Tensor, time_BE: Tensor | None) -> Tensor:
        """Return all tokens after the last block, (B, T, D), the class token first."""
        x_BTD = self.patch_embed(x_BCHW)
        x_BTD = torch.cat([self.cls_token.expand(len(x_BTD), -1, -1), x_BTD], dim=1) + self.pos_embed
        for block in self.blocks:
            x_BTD = block(x_BTD, time_BE)
        return x_BTD

    def forward(self, x_BCHW: Tensor, t_B: Tensor, cond: Any = None) -> Tensor:
        time_BE = self._time(t_B, x_BCHW.dtype)
        if self.label_emb is not None:
            label_B = as_conditions(cond).label
            if label_B is None:
                raise ValueError(LABEL_MISSING)
            time_BE = time_BE + self.label_emb(label_B)
        x_BTF = self.decoder_pred(self._tokens(x_BCHW, time_BE)[:, 1:])
        return unpatchify(x_BTF, self.patch, x_BCHW.shape[-2] // self.patch, x_BCHW.shape[-1] // self.patch)

    def classify(self, x_BCHW: Tensor, t_B: Tensor | None = None) -> Tensor:
        """Return class logits (B, classes) of noisy images at times t, or of clean images if t is None.

        Without t, the blocks apply no scale and no shift.  Raises ValueError if the network has no classifier.
        """
        if self.head is None:
            raise ValueError("this network has no classifier; build it with classifier=10 for ten classes")
        time_BE = None if t_B is None else self._time(t_B, x_BCHW.dtype)
        return self.head(self._tokens(x_BCHW, time_BE)[:, 0])
