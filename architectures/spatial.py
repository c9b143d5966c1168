"""LDM's spatial transformer: self-attention over feature map positions and cross-attention to a context.

Source: arXiv:2112.10752, Section 3.3 and Appendix E.2.1.

B batch, C channels, H W feature size, T positions (H * W), S context tokens, D width of the context,
N heads, K head size, M inner width (N * K).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import broadcast_key_mask
from .interface import TextCondition


class ContextAttention(nn.Module):
    """Multi-head attention from positions to a context (or to the positions): (B, T, M), (B, S, D) -> (B, T, M)."""

    def __init__(self, inner: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(inner, inner, bias=False)
        self.k = nn.Linear(context, inner, bias=False)
        self.v = nn.Linear(context, inner, bias=False)
        self.proj = nn.Linear(inner, inner)

    def forward(self, x_BTM: Tensor, context_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        pairs = ((self.q, x_BTM), (self.k, context_BSD), (self.v, context_BSD))
        q, k, v = (f(z).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f, z in pairs)
        y_BNTK = F.scaled_dot_product_attention(q, k, v, attn_mask=broadcast_key_mask(mask_BS))
        return self.proj(y_BNTK.transpose(1, 2).flatten(2))


class GatedMlp(nn.Module):
    """MLP of hidden width 4 M, where each value is multiplied by the GELU of its gate (GEGLU, arXiv:2002.05202)."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inner, 8 * inner)
        self.fc2 = nn.Linear(4 * inner, inner)

    def forward(self, x_BTM: Tensor) -> Tensor:
        value, gate = self.fc1(x_BTM).chunk(2, dim=-1)
        return self.fc2(value * F.gelu(gate))


class ContextBlock(nn.Module):
    """Pre-norm block: self-attention, cross-attention to the context, MLP.

    The order of the members is that of the published checkpoints.
    """

    def __init__(self, inner: int, context: int, heads: int) -> None:
        super().__init__()
        self.self_attn = ContextAttention(inner, inner, heads)
        self.mlp = GatedMlp(inner)
        self.cross_attn = ContextAttention(inner, context, heads)
        self.norm1 = nn.LayerNorm(inner)
        self.norm2 = nn.LayerNorm(inner)
        self.norm3 = nn.LayerNorm(inner)

    def forward(self, x_BTM: Tensor, text: TextCondition) -> Tensor:
        y_BTM = self.norm1(x_BTM)
        x_BTM = x_BTM + self.self_attn(y_BTM, y_BTM)
        x_BTM = x_BTM + self.cross_attn(self.norm2(x_BTM), text.tokens, text.mask)
        return x_BTM + self.mlp(self.norm3(x_BTM))


class SpatialTransformer(nn.Module):
    """Context blocks between two 1x1 convolutions, plus a residual: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, heads: int, head_size: int, context: int, depth: int, groups: int) -> None:
        super().__init__()
        inner = heads * head_size
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, inner, 1)
        self.blocks = nn.ModuleList([ContextBlock(inner, context, heads) for _ in range(depth)])
        self.proj_out = nn.Conv2d(inner, channels, 1)
        for p in self.proj_out.parameters():
            nn.init.zeros_(p)

    def forward(self, x_BCHW: Tensor, text: TextCondition) -> Tensor:
        x_BMHW = self.proj_in(self.norm(x_BCHW))
        x_BTM = x_BMHW.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x_BTM = block(x_BTM, text)
        return x_BCHW + self.proj_out(x_BTM.transpose(1, 2).reshape(x_BMHW.shape))
