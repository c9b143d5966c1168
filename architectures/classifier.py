"""ADM's noisy classifier: the U-Net's encoder, attention pooling and logits (arXiv:2105.05233, Section 4).

It is not a denoiser, so the registry does not list it.  Classifier guidance uses the gradient of its log-probability.

    net = from_official(torch.load("256x256_classifier.pt"))
    logits = net(x, t)

B batch, C channels, H W image size, S positions and their mean (h w + 1), N heads, K head size.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import official
from .embeddings import timestep_embedding
from .interface import require_divisible
from .official_shapes import Shapes
from .unet_blocks import BlockOptions, GroupNorm, QkvOrder, attended_levels, encoder, middle, time_mlp

SIZES: dict[int, dict[str, Any]] = {
    64: dict(size=64, channel_mult=(1, 2, 3, 4), res_blocks=4),
    128: dict(size=128, channel_mult=(1, 1, 2, 3, 4)),
    256: dict(size=256, channel_mult=(1, 1, 2, 2, 4, 4)),
    512: dict(size=512, channel_mult=(0.5, 1, 1, 2, 2, 4, 4)),
}
"""Image size in pixels -> arguments that differ from the constructor's defaults (Table 12)."""

RENAMES = [
    *official.RENAMES["unet"],
    (r"^pool\.position$", "out.2.positional_embedding"),
    (r"^pool\.qkv\.", "out.2.qkv_proj."),
    (r"^pool\.proj\.", "out.2.c_proj."),
]
"""(pattern of our parameter name, published name); the order of parameters is the same."""


class AttentionPool(nn.Module):
    """CLIP's attention pooling: attention from the mean of all positions, (B, C, h, w) -> (B, out)."""

    def __init__(self, channels: int, grid: int, heads: int, out: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.randn(channels, grid**2 + 1) / channels**0.5)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj = nn.Conv1d(channels, out, 1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        x_BCS = x_BChw.flatten(2)
        x_BCS = torch.cat([x_BCS.mean(dim=-1, keepdim=True), x_BCS], dim=-1) + self.position
        qkv = self.qkv(x_BCS).unflatten(1, (3, self.heads, -1))
        q, k, v = (z.mT for z in qkv.unbind(1))
        y_BNSK = F.scaled_dot_product_attention(q, k, v)
        # project every position like the published code, because the published cost counts them all
        return self.proj(y_BNSK.mT.flatten(1, 2))[:, :, 0]


class NoisyClassifier(nn.Module):
    """Network from noisy images x (B, image_channels, size, size) and times t (B,), 0..999, to logits (B, classes).

    `attention` lists the resolutions with attention, in pixels of x, as the tables of the paper do.
    Raises ValueError if the groups or the heads do not divide a width, or if the image size cannot be halved
    at every level.
    """

    def __init__(
        self,
        *,
        size: int,
        classes: int = 1000,
        image_channels: int = 3,
        channels: int = 128,
        channel_mult: Sequence[float] = (1, 2, 3, 4),
        res_blocks: int = 2,
        attention: Sequence[int] = (32, 16, 8),
        head_channels: int = 64,
        qkv_order: QkvOrder = "heads_first",
    ) -> None:
        super().__init__()
        counts = dict(size=size, classes=classes, image_channels=image_channels, channels=channels)
        for name, value in (counts | dict(res_blocks=res_blocks, head_channels=head_channels)).items():
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        attended = attended_levels(size, len(channel_mult), attention)
        options = BlockOptions(emb=4 * channels, head_channels=head_channels, qkv_order=qkv_order)
        widths = [int(mult * channels) for mult in channel_mult]
        require_divisible("channels", widths[-1], head_channels, "head_channels must divide the last width")
        self.size, self.channels = size, channels
        self.time_embed = time_mlp(channels)
        self.encoder, _ = encoder(image_channels, widths, res_blocks, attended, options)
        self.middle = middle(widths[-1], options)
        self.out_norm = GroupNorm(options.groups, widths[-1])
        self.pool = AttentionPool(widths[-1], size >> (len(widths) - 1), widths[-1] // head_channels, classes)

    def forward(self, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        if x_BCHW.shape[-2:] != (self.size, self.size):
            height, width = x_BCHW.shape[-2:]
            raise ValueError(f"x is {height}x{width}; this classifier takes {self.size}x{self.size}")
        emb_BE = self.time_embed(timestep_embedding(t_B, self.channels).to(x_BCHW.dtype))
        h = x_BCHW
        for stage in [*self.encoder, self.middle]:
            h = stage(h, emb_BE, None)
        return self.pool(F.silu(self.out_norm(h)))


def official_layout(**args: Any) -> official.Layout:
    """Return key -> shape of the published state dict, in its order; allocate no weights."""
    return official.shapes_of(to_official(_build_on_meta(args)))


def to_official(net: nn.Module) -> dict[str, Tensor]:
    """Return the weights by published name, in the published order; they share the network's memory."""
    return {official.rename_key(key, RENAMES): value for key, value in net.state_dict().items()}


def from_official(state_dict: Mapping[str, Any], **args: Any) -> NoisyClassifier:
    """Build the published classifier, in eval mode, from its state dict.

    The entry of `SIZES` and the number of classes follow from the shapes; constructor arguments in `args`
    override them.  Raises ValueError, with the first wrong keys, if shapes do not fit or weights are not finite.
    """
    tensors = official.as_tensors(state_dict)
    shapes = official.shapes_of(tensors)
    args = {**_published(shapes), **args}
    official.check_layout("ADM's noisy classifier", official_layout(**args), shapes)
    official.check_finite(tensors)
    net = _build_on_meta(args)
    published_keys = to_official(net)
    weights = {name: tensors[key] for name, key in zip(net.state_dict(), published_keys, strict=True)}
    official.load_copies(net, weights)
    return net


def _build_on_meta(args: Mapping[str, Any]) -> NoisyClassifier:
    try:
        inspect.signature(NoisyClassifier).bind(**args)
    except TypeError as error:
        raise ValueError(f"the classifier cannot be built: {error}") from error
    with torch.device("meta"):
        return NoisyClassifier(**args)


def _published(shapes: Shapes) -> dict[str, Any]:
    """Return the entry of SIZES with the same number of encoder blocks, and the number of classes in the shapes."""
    blocks = {int(m[1]) for m in (re.match(r"input_blocks\.(\d+)\.", key) for key in shapes) if m}
    pixels = next((p for p, args in SIZES.items() if len(blocks) == _blocks(**args)), 64)
    return SIZES[pixels] | dict(classes=(*shapes.get("out.2.c_proj.bias", ()), 1000)[0])


def _blocks(channel_mult: Sequence[float], res_blocks: int = 2, **_: Any) -> int:
    """Count encoder blocks: the stem, the residual blocks of each level, and the downsampling between levels."""
    return len(channel_mult) * (res_blocks + 1)
