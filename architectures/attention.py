"""Self-attention, cross-attention and MLP over tokens.

B batch, T tokens, S context tokens, D width, N heads, K head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from .interface import require_divisible


class Attention(nn.Module):
    """Multi-head self-attention, (B, T, D) -> (B, T, D); `mask` (B, T) is True for tokens to attend to."""

    def __init__(self, width: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        require_divisible("width", width, heads, "the heads must divide it")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        b, t, d = x_BTD.shape
        q, k, v = self.qkv(x_BTD).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y_BNTK = F.scaled_dot_product_attention(q, k, v, attn_mask=broadcast_key_mask(mask_BT))
        return self.proj(y_BNTK.transpose(1, 2).reshape(b, t, d))


class CrossAttention(nn.Module):
    """Multi-head attention from tokens to a context, (B, T, D), (B, S, D) -> (B, T, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        require_divisible("width", width, heads, "the heads must divide it")
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, context_BSD: Tensor) -> Tensor:
        b, t, d = x_BTD.shape
        shape = (b, -1, self.heads, d // self.heads)
        q = self.q(x_BTD).reshape(shape).transpose(1, 2)
        k, v = (z.reshape(shape).transpose(1, 2) for z in self.kv(context_BSD).chunk(2, dim=-1))
        y_BNTK = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y_BNTK.transpose(1, 2).reshape(b, t, d))


def broadcast_key_mask(mask_BS: Tensor | None) -> Tensor | None:
    """Reshape a mask over keys from (B, S) to (B, 1, 1, S), to broadcast over heads and queries."""
    return None if mask_BS is None else mask_BS[:, None, None, :]


class Mlp(nn.Module):
    """Two-layer perceptron with hidden width `ratio * width`; parameter names are timm's.

    It replaces timm's class, because the import of timm also imports torchvision and torch's compiler, which takes 2 s
    at every process start.
    """

    def __init__(self, width: int, ratio: float, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, int(width * ratio))
        self.act = act()
        self.fc2 = nn.Linear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))
