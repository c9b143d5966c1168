"""Table of all architectures: name -> class, paper, sizes and the data set of each size.

Imports no torch; a network's module is imported when it is built.  To add an architecture, write one
file and one entry here; the contract test covers it.  A class outside of this package needs no entry: it is named
``package.module:Class``, or registered as an entry point in the group ``backbones``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from .suggestions import did_you_mean

DEFAULT_DATASET = "imagenet256-latents"
ENTRY_POINTS = "backbones"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One architecture."""

    target: str
    """Import path of its class: "package.module:Class"."""
    paper: str = ""
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Size name -> constructor arguments."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Size name -> data set of its paper, or the closest one here; "" if none is close.  Default: ImageNet 256
    latents."""
    toy: str = ""
    """Smallest size, for a laptop; the default size for data sets that belong to no other size."""
    toy_large: str = ""
    """Toy size for images above 16 pixels; "" means `toy`."""

    def setting(self, size: str) -> str:
        """Return the default data set of a size; "" if no known data set fits."""
        return self.settings.get(size, DEFAULT_DATASET)

    def is_toy(self, size: str) -> bool:
        """Whether a size is meant for data sets that run on a laptop."""
        return size in (self.toy, self.toy_large) or self.settings.get(size) in ("digits", "shapes")

    def toy_for(self, pixels: int) -> str:
        """Return the toy size for images of this width in pixels."""
        return (pixels > 16 and self.toy_large) or self.toy


def _dit_sizes() -> dict[str, dict[str, int]]:
    """DiT Table 1: S, B, L, XL with patch 2, 4, 8."""
    table = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
    return {
        f"{name}/{patch}": dict(depth=depth, width=width, heads=heads, patch=patch)
        for name, (depth, width, heads) in table.items()
        for patch in (2, 4, 8)
    }


def _uvit(depth: int, width: int, heads: int, patch: int, **more: Any) -> dict[str, Any]:
    return dict(depth=depth, width=width, heads=heads, patch=patch, **more)


def _adm(channels: int, mult: tuple[float, ...], res_blocks: int = 2, **more: Any) -> dict[str, Any]:
    return {"channels": channels, "channel_mult": mult, "res_blocks": res_blocks, "attention": (32, 16, 8), **more}


def _ddpm(channels: int, mult: tuple[int, ...], res_blocks: int, **more: Any) -> dict[str, Any]:
    """U-Net of DDPM and iDDPM: strided convolutions, fixed number of heads."""
    common = dict(attention=(16, 8), heads=1, head_channels=None, resample="conv", qkv_order="heads_first")
    return {**common, **more, "channels": channels, "channel_mult": mult, "res_blocks": res_blocks}


def _ldm(channels: int, mult: tuple[int, ...], **more: Any) -> dict[str, Any]:
    """U-Net of LDM: spatial transformers attend to one token, the class label."""
    switches: dict[str, Any] = dict(norm="add", resample="conv", attention_kind="transformer", label="token")
    return _adm(channels, mult, **switches, **more)


TOY_UNETS = {"nano": (32, 1), "pico": (16, 3), "micro": (32, 3)}
"""U-Nets for 8x8 images: name -> (channels, residual blocks per level)."""


def _toy_unet(channels: int, res_blocks: int) -> dict[str, Any]:
    shape = dict(channels=channels, channel_mult=(1, 1), res_blocks=res_blocks)
    return dict(**shape, attention=(4,), head_channels=min(channels, 32), groups=8)


def _genvit(width: int, heads: int, patch: int) -> dict[str, int]:
    return dict(depth=9, width=width, heads=heads, patch=patch)


ARCHITECTURES: dict[str, Entry] = {
    "dit": Entry(
        target="architectures.dit:DiT",
        paper="arXiv:2212.09748",
        sizes={**_dit_sizes(), **{f"nano/{p}": dict(depth=4, width=96, heads=3, patch=p) for p in (2, 4)}},
        settings={"nano/2": "digits", "nano/4": "shapes"},
        toy="nano/2",
        toy_large="nano/4",
    ),
    "uvit": Entry(
        target="architectures.uvit:UViT",
        paper="arXiv:2209.12152",
        sizes={  # Table 2 and the published configurations; S/2 and S-deep/2 with text are the MS-COCO models
            "S/2": _uvit(12, 512, 8, 2),
            "S/4": _uvit(12, 512, 8, 4),
            "S-deep/2": _uvit(16, 512, 8, 2),
            "M/4": _uvit(16, 768, 12, 4),
            "L/2": _uvit(20, 1024, 16, 2),
            "L/4": _uvit(20, 1024, 16, 4),
            "H/2": _uvit(28, 1152, 16, 2, head="none"),
            "H/4": _uvit(28, 1152, 16, 4, head="none"),
            # narrow networks need the published code's time MLP, because they learn a raw sinusoid slowly, and
            # initial weights of about 1 / sqrt(width)
            **{f"nano/{p}": _uvit(4, 88, 4, p, time_mlp=True, init_std=0.1) for p in (2, 4)},
        },
        settings={
            "S/2": "cifar10-uncond",
            "S/4": "celeba64",
            "M/4": "imagenet64",
            "L/4": "imagenet512-latents",
            "H/4": "imagenet512-latents",
            "nano/2": "digits",
            "nano/4": "shapes",
        },
        toy="nano/2",
        toy_large="nano/4",
    ),
    "unet": Entry(
        target="architectures.unet:UNet",
        paper="arXiv:2105.05233",
        sizes={  # Table 11
            "ADM-64": _adm(192, (1, 2, 3, 4), 3, dropout=0.1),
            "ADM-128": _adm(256, (1, 1, 2, 3, 4), heads=4, head_channels=None, qkv_order="heads_first"),
            "ADM-256": _adm(256, (1, 1, 2, 2, 4, 4), qkv_order="heads_first"),
            "ADM-512": _adm(256, (0.5, 1, 1, 2, 2, 4, 4), qkv_order="heads_first"),
            # arXiv:2006.11239, Appendix B; arXiv:2102.09672, Section 6: 120 M and 270 M at 64 pixels
            "DDPM-32": _ddpm(128, (1, 2, 2, 2), 2, attention=(16,), norm="add", dropout=0.1),
            "iDDPM-32": _ddpm(128, (1, 2, 2, 2), 3, heads=4, dropout=0.3),
            "iDDPM-64": _ddpm(128, (1, 2, 3, 4), 3, heads=4),
            "iDDPM-64-L": _ddpm(192, (1, 2, 3, 4), 3, heads=4),
            # arXiv:2112.10752, Tables 13 and 15; made for 3x64x64 and 4x32x32 latents
            "LDM-4": _ldm(192, (1, 2, 3, 5), heads=1, head_channels=None),
            "LDM-8": _ldm(256, (1, 2, 4), head_channels=32),
            **{name: _toy_unet(*shape) for name, shape in TOY_UNETS.items()},
            "nano-32": _adm(16, (1, 1, 2, 2), 1, attention=(8,), head_channels=32, groups=8),
        },
        settings={
            "ADM-64": "imagenet64",
            "ADM-128": "imagenet128",
            "ADM-256": "imagenet256",
            "ADM-512": "imagenet512",
            "DDPM-32": "cifar10-uncond",
            "iDDPM-32": "cifar10-uncond",
            "iDDPM-64": "imagenet64",
            "iDDPM-64-L": "imagenet64",
            "LDM-4": "imagenet256-vq4",
            "LDM-8": "imagenet256-vq8",
            "nano-32": "shapes",
            **dict.fromkeys(TOY_UNETS, "digits"),
        },
        toy="nano",
        toy_large="nano-32",
    ),
    "genvit": Entry(
        target="architectures.genvit:GenViT",
        paper="arXiv:2208.07791",
        sizes={  # width/patch: CIFAR-10; CelebA 128 and Tiny-ImageNet 64; ten classes of ImageNet at 128 and at 224
            "384/4": _genvit(384, 12, 4),
            "384/8": _genvit(384, 12, 8),
            "512/8": _genvit(512, 8, 8),
            "1024/14": _genvit(1024, 8, 14),
            **{f"nano/{p}": dict(depth=4, width=96, heads=3, patch=p) for p in (2, 4)},
        },
        settings={
            "384/4": "cifar10-uncond",
            "384/8": "celeba64",
            "512/8": "imagenet128",
            "1024/14": "",
            "nano/2": "digits",
            "nano/4": "shapes",
        },
        toy="nano/2",
        toy_large="nano/4",
    ),
}


def names() -> list[str]:
    """Names of the registered architectures, including entry points."""
    return [*ARCHITECTURES, *(ep.name for ep in entry_points(group=ENTRY_POINTS) if ep.name not in ARCHITECTURES)]


def entry(arch: str) -> Entry:
    """Return the entry of a registered name, an entry point or "package.module:Class".

    Raises ValueError, with the closest names, for an unknown architecture.
    """
    if arch in ARCHITECTURES:
        return ARCHITECTURES[arch]
    target = next((ep.value for ep in entry_points(group=ENTRY_POINTS) if ep.name == arch), arch)
    if ":" not in target:
        raise ValueError(f"unknown architecture {arch!r}; {did_you_mean(arch, names())}")
    cls = load_class(target)
    return Entry(
        target=target,
        paper=getattr(cls, "paper", ""),
        sizes=getattr(cls, "sizes", {}),
        settings=getattr(cls, "settings", {}),
        toy=next(iter(getattr(cls, "sizes", {})), ""),
    )


def load_class(target: str) -> Any:
    """Import the class at "package.module:Class"; raise ValueError if the module or the class does not exist."""
    module_name, _, class_name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"cannot import {module_name!r} ({error}); is its folder on PYTHONPATH?") from error
    cls = getattr(module, class_name, None)
    if not inspect.isclass(cls):
        known = [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module_name]
        raise ValueError(f"{module_name} has no class {class_name!r}; {did_you_mean(class_name, known)}")
    return cls


def sizes(arch: str) -> list[str]:
    """Names of the sizes of an architecture."""
    return list(entry(arch).sizes)


def size_args(arch: str, size: str | None) -> dict[str, Any]:
    """Return the constructor arguments of a size.

    Raises ValueError for an unknown size, with the closest sizes or the architecture that has it.
    """
    architecture = entry(arch)
    if not size:
        return {}
    if size in architecture.sizes:
        return dict(architecture.sizes[size])
    others = [name for name in ARCHITECTURES if name != arch and size in ARCHITECTURES[name].sizes]
    if others:
        raise ValueError(f"size {size!r} belongs to {' and '.join(others)}; {arch} has {', '.join(architecture.sizes)}")
    raise ValueError(f"unknown size {size!r} of {arch}; {did_you_mean(size, architecture.sizes)}")
