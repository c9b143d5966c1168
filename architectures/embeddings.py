"""Time and position embeddings, and the conversion of images to tokens and back.

B batch, C channels, H W image size, P patch, T tokens, D width, h w token grid (h = H / P).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .interface import require_choices

Frequencies = Literal["adm", "ddpm"]  # exponents i / half (ADM, DiT, U-ViT) or i / (half - 1) (DDPM, diffusers)


def timestep_embedding(t_B: Tensor, width: int, max_period: float = 10_000.0, spacing: Frequencies = "adm") -> Tensor:
    """Return the sinusoidal embedding (B, width) of times (B,) in float32: cosines first, then sines.

    Frequencies are max_period^(-i / half) for i = 0 .. half - 1, as in ADM's code.  With spacing="ddpm" they are
    max_period^(-i / (half - 1)), as in DDPM's code (arXiv:2006.11239).  The last value of an odd width is zero.
    Frequencies and arguments are float32 as in the published code; near t = 1000 the result depends on their rounding.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=t_B.device)
    freqs = torch.exp(-math.log(max_period) * steps / (half if spacing == "adm" else half - 1))
    args = t_B.float()[:, None] * freqs[None]
    emb = torch.cat([args.cos(), args.sin()], dim=-1)
    return nn.functional.pad(emb, (0, width % 2))


def sincos_2d(width: int, grid_h: int, grid_w: int) -> Tensor:
    """Return the fixed 2-D position table (grid_h * grid_w, width) in float32.

    The first half of the width encodes the column, the second half the row.  Each half is sines, then
    cosines, with frequencies 10000^(-i / (width / 4)) (MAE, arXiv:2111.06377; used by DiT).
    Raises ValueError unless 4 divides the width.
    """
    if width % 4:
        raise ValueError(f"width {width} is not divisible by 4, which 2-D sine-cosine positions need")
    quarter = width // 4
    freqs = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    rows = torch.arange(grid_h, dtype=torch.float64).repeat_interleave(grid_w)
    cols = torch.arange(grid_w, dtype=torch.float64).repeat(grid_h)
    halves = [pos[:, None] * freqs[None] for pos in (cols, rows)]
    return torch.cat([torch.cat([a.sin(), a.cos()], dim=1) for a in halves], dim=1).float()


class TimestepEmbedding(nn.Module):
    """Sinusoidal embedding of `frequencies` values, then a two-layer SiLU MLP: (B,) -> (B, width)."""

    def __init__(
        self, width: int, frequencies: int = 256, hidden: int | None = None, spacing: Frequencies = "adm"
    ) -> None:
        super().__init__()
        require_choices({"frequencies": ("adm", "ddpm")}, frequencies=spacing)
        self.frequencies, self.spacing = frequencies, spacing
        hidden = hidden or width
        first = nn.Linear(frequencies, hidden)
        self.mlp = nn.Sequential(first, nn.SiLU(), nn.Linear(hidden, width))

    def forward(self, t_B: Tensor) -> Tensor:
        emb = timestep_embedding(t_B, self.frequencies, spacing=self.spacing)
        return self.mlp(emb.to(next(self.parameters()).dtype))


class PatchEmbed(nn.Module):
    """Linear projection of PxP patches: (B, C, H, W) -> (B, T, D), patches in row-major order."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.proj(x_BCHW).flatten(2).transpose(1, 2).contiguous()


class ConvPatchEmbed(nn.Module):
    """3x3 convolutions of stride 2, then a 1x1 convolution (U-ViT Figure 2d; Xiao, arXiv:2106.14881).

    There is one stride-2 convolution per factor of two in the patch; channels double up to the width.
    Patch 1 has one 3x3 convolution of stride 1.  Raises ValueError unless the patch is a power of two.
    """

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        if patch & (patch - 1):
            raise ValueError(f"patch {patch} is not a power of two, which patch_embed='conv' needs")
        halvings = patch.bit_length() - 1
        layers: list[nn.Module] = []
        for i in range(max(1, halvings)):
            out = max(8, width >> max(0, halvings - 1 - i))
            layers += [nn.Conv2d(channels, out, 3, stride=2 if halvings else 1, padding=1), nn.GELU()]
            channels = out
        self.proj = nn.Sequential(*layers, nn.Conv2d(channels, width, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.proj(x_BCHW).flatten(2).transpose(1, 2).contiguous()


def unpatchify(tokens_BTF: Tensor, patch: int, grid_h: int, grid_w: int) -> Tensor:
    """Reshape tokens (B, h*w, P*P*C) to an image (B, C, h*P, w*P); token values are ordered (row, column, channel)."""
    b, _, f = tokens_BTF.shape
    c = f // patch**2
    x = tokens_BTF.reshape(b, grid_h, grid_w, patch, patch, c)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, c, grid_h * patch, grid_w * patch)


def init_linears(net: nn.Module, init: Callable[[Tensor], Any]) -> None:
    """Apply `init` to the weights of all linear and convolution layers as matrices (out, in); zero their biases."""
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            init(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
