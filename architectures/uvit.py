"""U-ViT: time, condition and patches are tokens, with long skip connections between blocks (arXiv:2209.12152).

B batch, C channels, H W image size, T tokens, E extra tokens (time, label or text), S text tokens, D width,
P patch.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, Mlp
from .embeddings import ConvPatchEmbed, PatchEmbed, sincos_2d, timestep_embedding, unpatchify
from .interface import (
    LABEL_MISSING,
    TEXT_MISSING,
    Free,
    IOSpec,
    TextCondition,
    as_conditions,
    require_choices,
    require_divisible,
    require_no,
)
from .shapes import aspect_distance, heads_for, widths_and_depths

Skip = Literal["concat", "add", "project_add", "add_project", "none"]  # Figure 2a
Time = Literal["token", "adaln"]  # Figure 2b
Head = Literal["after", "before", "none"]  # Figure 2c
Patches = Literal["linear", "conv"]  # Figure 2d
Position = Literal["learned", "sincos", "none"]  # Figure 2e


class ConcatSkip(nn.Module):
    """Linear(Concat(h_m, h_s)), the default of the paper (Figure 2a)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, width)

    def forward(self, main_BTD: Tensor, skip_BTD: Tensor) -> Tensor:
        return self.linear(torch.cat([main_BTD, skip_BTD], dim=-1))


class AddSkip(nn.Module):
    """h_m + h_s (Figure 2a)."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, main_BTD: Tensor, skip_BTD: Tensor) -> Tensor:
        return main_BTD + skip_BTD


class ProjectAddSkip(nn.Module):
    """h_m + Linear(h_s) (Figure 2a)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, main_BTD: Tensor, skip_BTD: Tensor) -> Tensor:
        return main_BTD + self.linear(skip_BTD)


class AddProjectSkip(ProjectAddSkip):
    """Linear(h_m + h_s) (Figure 2a)."""

    def forward(self, main_BTD: Tensor, skip_BTD: Tensor) -> Tensor:
        return self.linear(main_BTD + skip_BTD)


class NoSkip(AddSkip):
    """h_m: no skip connection (Figure 2a)."""

    def forward(self, main_BTD: Tensor, skip_BTD: Tensor) -> Tensor:
        return main_BTD


SKIPS: dict[str, type[nn.Module]] = {
    "concat": ConcatSkip,
    "add": AddSkip,
    "project_add": ProjectAddSkip,
    "add_project": AddProjectSkip,
    "none": NoSkip,
}


class PlainNorm(nn.LayerNorm):
    """Layer norm that ignores the time, which is a token."""

    def forward(self, x_BTD: Tensor, time_BD: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x_BTD)


class AdaNorm(nn.LayerNorm):
    """AdaLN(h, y) = (1 + y_s) LayerNorm(h) + y_b, where y_s and y_b are linear in the time embedding (Figure 2b)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.time = nn.Linear(width, 2 * width)

    def forward(self, x_BTD: Tensor, time_BD: Tensor) -> Tensor:  # type: ignore[override]
        scale_BD, shift_BD = self.time(time_BD).chunk(2, dim=-1)
        return super().forward(x_BTD) * (1 + scale_BD.unsqueeze(1)) + shift_BD.unsqueeze(1)


class UViTBlock(nn.Module):
    """Pre-norm transformer block; blocks of the second half first merge the skip connection."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, qkv_bias: bool, norm: type[nn.Module], skip: nn.Module | None
    ) -> None:
        super().__init__()
        self.norm1 = norm(width)
        self.attn = Attention(width, heads, qkv_bias=qkv_bias)
        self.norm2 = norm(width)
        self.mlp = Mlp(width, mlp_ratio, nn.GELU)
        self.skip = skip

    def forward(
        self, x_BTD: Tensor, time_BD: Tensor, mask_BT: Tensor | None = None, skip_BTD: Tensor | None = None
    ) -> Tensor:
        if self.skip is not None:
            x_BTD = self.skip(x_BTD, skip_BTD)
        x_BTD = x_BTD + self.attn(self.norm1(x_BTD, time_BD), mask_BT)
        return x_BTD + self.mlp(self.norm2(x_BTD, time_BD))


class UViT(nn.Module):
    """U-ViT with `depth // 2` input blocks, one middle block and `depth // 2` output blocks.

    `depth` is the number in the published configurations; the paper's "13 layers" are depth 12.
    The order of tokens is label, time, text (`io.text_tokens` of them), patches.
    Raises ValueError if the patch does not divide the image, the heads do not divide the width, or
    a choice is unknown.
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
        qkv_bias: bool = False,
        time_mlp: bool = False,
        skip: Skip = "concat",
        time: Time = "token",
        head: Head = "after",
        patch_embed: Patches = "linear",
        position: Position = "learned",
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        _check_io(io, patch)
        require_choices(CHOICES, skip=skip, time=time, head=head, patch_embed=patch_embed, position=position)
        heads = heads or heads_for(width)
        grid = io.size // patch
        self.patch, self.width, self.time, self.head_choice = patch, width, time, head
        self.text_tokens = io.text_tokens
        self.extra_tokens = (time == "token") + (io.num_classes > 0) + io.text_tokens

        embed = PatchEmbed if patch_embed == "linear" else ConvPatchEmbed
        self.patch_embed = embed(io.channels, width, patch)
        self.time_embed: nn.Module = nn.Identity()
        if time_mlp:
            self.time_embed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.label_emb = nn.Embedding(io.label_rows, width) if io.num_classes else None
        self.context_embed = nn.Linear(io.text_dim, width) if io.text_dim else None
        self._make_positions(position, grid)
        norm = PlainNorm if time == "token" else AdaNorm

        def blocks(count: int, skips: bool) -> nn.ModuleList:
            joins = [SKIPS[skip](width) if skips and skip != "none" else None for _ in range(count)]
            return nn.ModuleList([UViTBlock(width, heads, mlp_ratio, qkv_bias, norm, join) for join in joins])

        self.in_blocks = blocks(depth // 2, skips=False)
        self.mid_block = blocks(1, skips=False)[0]
        self.out_blocks = blocks(depth // 2, skips=True)
        self.norm = nn.LayerNorm(width)
        self.conv_before = nn.Conv2d(width, width, 3, padding=1) if head == "before" else None
        out = io.out_channels
        self.decoder_pred = nn.Linear(width, patch**2 * out)
        self.final_layer = nn.Conv2d(out, out, 3, padding=1) if head == "after" else nn.Identity()
        self._init_weights(init_std)

    @staticmethod
    def free(io: IOSpec) -> Free:
        return widths_and_depths(depth_step=2)

    distance = staticmethod(aspect_distance)

    def _make_positions(self, position: Position, grid: int) -> None:
        tokens = self.extra_tokens + grid * grid
        if position == "learned":
            self.pos_embed: Tensor = nn.Parameter(torch.zeros(1, tokens, self.width))
            return
        table = torch.zeros(1, tokens, self.width)
        if position == "sincos":
            table[0, self.extra_tokens :] = sincos_2d(self.width, grid, grid)
        self.register_buffer("pos_embed", table, persistent=False)

    def _init_weights(self, std: float) -> None:
        """Initialise linears, embeddings and positions by N(0, std), truncated to [-2, 2] (official code: std 0.02)."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(self.pos_embed, nn.Parameter):
            nn.init.trunc_normal_(self.pos_embed, std=std)

    def _extra(self, time_BD: Tensor, cond: Any) -> list[Tensor]:
        """Return the tokens before the patches: label, time, text."""
        cond = as_conditions(cond)
        extra = [time_BD.unsqueeze(1)] if self.time == "token" else []
        if self.label_emb is not None:
            if cond.label is None:
                raise ValueError(LABEL_MISSING)
            extra.insert(0, self.label_emb(cond.label).unsqueeze(1))
        if self.context_embed is not None:
            if cond.text is None:
                raise ValueError(TEXT_MISSING)
            text_BSD = cond.text.tokens
            if text_BSD.shape[1] != self.text_tokens:
                raise ValueError(f"the text has {text_BSD.shape[1]} tokens; this network takes {self.text_tokens}")
            extra.append(self.context_embed(text_BSD))
        return extra

    def _mask(self, text: TextCondition | None, tokens: int) -> Tensor | None:
        """Return the mask (B, T) over all tokens, True for tokens to attend to; None if the text has no mask."""
        if not self.text_tokens or text is None or text.mask is None:
            return None
        before = self.extra_tokens - self.text_tokens
        return F.pad(text.mask.bool(), (before, tokens - self.extra_tokens), value=True)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, cond: Any = None) -> Tensor:
        grid_h, grid_w = x_BCHW.shape[-2] // self.patch, x_BCHW.shape[-1] // self.patch
        x_BTD = self.patch_embed(x_BCHW)
        time_BD = self.time_embed(timestep_embedding(t_B, self.width).to(x_BTD.dtype))
        x_BTD = torch.cat([*self._extra(time_BD, cond), x_BTD], dim=1) + self.pos_embed.to(x_BTD.dtype)
        mask_BT = self._mask(as_conditions(cond).text, x_BTD.shape[1])

        skips = []
        for block in self.in_blocks:
            x_BTD = block(x_BTD, time_BD, mask_BT)
            skips.append(x_BTD)
        x_BTD = self.mid_block(x_BTD, time_BD, mask_BT)
        for block in self.out_blocks:
            x_BTD = block(x_BTD, time_BD, mask_BT, skips.pop())

        x_BTD = self.norm(x_BTD)
        if self.conv_before is not None:
            x_BDhw = x_BTD[:, self.extra_tokens :].transpose(1, 2).unflatten(2, (grid_h, grid_w))
            x_BTF = self.decoder_pred(self.conv_before(x_BDhw).flatten(2).transpose(1, 2))
        else:
            # decode the extra tokens too, like the published code, because the published cost counts them
            x_BTF = self.decoder_pred(x_BTD)[:, self.extra_tokens :]
        return self.final_layer(unpatchify(x_BTF, self.patch, grid_h, grid_w))


CHOICES = {
    "skip": tuple(SKIPS),
    "time": ("token", "adaln"),
    "head": ("after", "before", "none"),
    "patch_embed": ("linear", "conv"),
    "position": ("learned", "sincos", "none"),
}


def _check_io(io: IOSpec, patch: int) -> None:
    require_no(io, "U-ViT", "image_channels")
    require_divisible("image size", io.size, patch, "choose a patch that divides it")
    if io.num_classes and io.text_dim:
        raise ValueError(f"U-ViT takes labels or text, but num_classes is {io.num_classes} and text_dim {io.text_dim}")
    if io.text_dim and not io.text_tokens:
        raise ValueError("U-ViT has one position per text token, so it needs text_tokens (77 for CLIP)")
