"""Compare the speed of our networks with other implementations of equal configuration: python -m bench.speed

DiT is compared with diffusers' DiTTransformer2DModel, the U-Net with diffusers' UNet2DModel.  diffusers has no U-ViT,
so ours is compared with a network of timm's blocks.  Both networks of a pair have the same parameters and MACs (the
table shows both).  Their forward and backward passes alternate in one process.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import architectures
from architectures import IOSpec
from architectures.embeddings import timestep_embedding
from bench.costs import timing

LEARNED_RANGE_IO = IOSpec(channels=4, size=32, num_classes=1000, variance="learned_range")
LATENT_IO = IOSpec(channels=4, size=32, num_classes=1000)
SIZES = {
    "small": {"dit": "S/2", "uvit": "S/2", "unet": 128},
    "large": {"dit": "XL/2", "uvit": "H/2", "unet": 256},
}
"""Registered sizes of DiT and U-ViT, and channels of the U-Net."""


class DiffusersDiT(nn.Module):
    """diffusers' DiT with our call signature."""

    def __init__(self, ours: nn.Module) -> None:
        super().__init__()
        weights, config = architectures.to_diffusers(ours)
        self.net = DiTTransformer2DModel(**config)
        self.net.load_state_dict(weights)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        out: Tensor = self.net(x, timestep=t.long(), class_labels=label).sample
        return out


class DiffusersUNet(nn.Module):
    """diffusers' DDPM U-Net with our call signature."""

    def __init__(self, io: IOSpec, channels: int) -> None:
        super().__init__()
        self.net = UNet2DModel(
            sample_size=io.size,
            in_channels=io.channels,
            out_channels=io.out_channels,
            block_out_channels=(channels, 2 * channels, 2 * channels),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=64,
            num_class_embeds=io.label_rows,
        )

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        out: Tensor = self.net(x, t, class_labels=label).sample
        return out


class TimmUViT(nn.Module):
    """U-ViT (arXiv:2209.12152, Section 3) with timm's blocks."""

    def __init__(self, io: IOSpec, *, depth: int, width: int, heads: int, patch: int, head: str = "after") -> None:
        super().__init__()
        self.width, self.patch = width, patch

        def block() -> nn.Module:
            return Block(width, heads, qkv_bias=False)

        self.embed = nn.Conv2d(io.channels, width, patch, stride=patch)
        self.label = nn.Embedding(io.label_rows, width)
        self.position = nn.Parameter(torch.zeros(1, 2 + (io.size // patch) ** 2, width))
        self.down = nn.ModuleList(block() for _ in range(depth // 2))
        self.middle = block()
        self.up = nn.ModuleList(block() for _ in range(depth // 2))
        self.skips = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(width)
        self.decode = nn.Linear(width, patch**2 * io.channels)
        self.conv = nn.Conv2d(io.channels, io.channels, 3, padding=1) if head == "after" else nn.Identity()

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).mT
        extra = (self.label(label), timestep_embedding(t, self.width))
        h, skips = torch.cat([*(e[:, None] for e in extra), tokens], dim=1) + self.position, []
        for block in self.down:
            h = block(h)
            skips.append(h)
        h = self.middle(h)
        for block, skip in zip(self.up, self.skips, strict=True):
            h = block(skip(torch.cat([h, skips.pop()], dim=-1)))
        grid, p = x.shape[-1] // self.patch, self.patch
        patches = self.decode(self.norm(h))[:, 2:].reshape(len(x), grid, grid, p, p, -1)
        return self.conv(patches.permute(0, 5, 1, 3, 2, 4).reshape(x.shape))


def unet_args(channels: int) -> dict[str, Any]:
    """Return the arguments for which our U-Net has the layers of DDPM's U-Net, which UNet2DModel implements."""
    return dict(
        channels=channels,
        channel_mult=(1, 2, 2),
        res_blocks=2,
        attention=(16, 8),
        head_channels=64,
        norm="add",
        resample="conv",
    )


def network_pair(family: str, size: Any) -> tuple[nn.Module, nn.Module, IOSpec]:
    """Build (our network, the reference network, their IOSpec) with equal configurations."""
    if family == "dit":
        ours = architectures.build("dit", size, io=LEARNED_RANGE_IO)
        return ours, DiffusersDiT(ours), LEARNED_RANGE_IO
    if family == "uvit":
        ours = architectures.build("uvit", size, io=LATENT_IO)
        return ours, TimmUViT(LATENT_IO, **architectures.registry.size_args("uvit", size)), LATENT_IO
    ours = architectures.build("unet", io=LATENT_IO, args=unet_args(size))
    return ours, DiffusersUNet(LATENT_IO, size), LATENT_IO


def counted_cost(net: nn.Module, io: IOSpec) -> tuple[int, int]:
    """Count (trainable parameters, MACs of one image)."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(*timing.inputs_for(io, 1, next(net.parameters()).device))
    return sum(p.numel() for p in net.parameters() if p.requires_grad), counter.get_total_flops() // 2


def measure_pair(family: str, size: Any, batch: int, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Time a pair alternately; return rows of the reference, ours and, for the U-Net, ours in channels_last."""
    torch.manual_seed(0)
    ours, plain, io = network_pair(family, size)
    ours, plain = ours.to(device), plain.to(device)
    inputs = timing.inputs_for(io, batch, device)
    names = {"ours": "ours", "plain": {"dit": "diffusers", "unet": "diffusers", "uvit": "timm blocks"}[family]}
    workloads = {"plain": timing.training_work(plain, inputs), "ours": timing.training_work(ours, inputs)}
    if family == "unet":
        channels_last = architectures.build("unet", io=io, args=unet_args(size)).to(device)
        channels_last = channels_last.to(memory_format=torch.channels_last)
        converted = (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])
        workloads["last"], names["last"] = timing.training_work(channels_last, converted), "ours, channels_last"
    seconds = timing.time_alternately(workloads, rounds)
    costs = {"plain": counted_cost(plain, io), "ours": counted_cost(ours, io), "last": counted_cost(ours, io)}
    return [
        {
            "network": f"{family} {size}",
            "implementation": names[work],
            "params (M)": f"{costs[work][0] / 1e6:.2f}",
            "MACs (G)": f"{costs[work][1] / 1e9:.3f}",
            "images/s": f"{batch / median(seconds[work]):.3g}",
            "speed relative to the other": f"{1 / timing.median_ratio(seconds, work, 'plain'):.2f}",
        }
        for work in workloads
    ]
