"""Denoising backbones behind one contract: DiT, U-ViT, the ADM U-Net and GenViT, or a class of your own.

Importing this package does not import torch; building a network, or reading a published one, does.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from .interface import Conditions, EpsNet, IOSpec, NetSpec, TextCondition, require_types
from .registry import entry, load, names, size_args, sizes

if TYPE_CHECKING:
    from torch import nn

    from .official import from_official, official_call, official_layout, to_official
    from .official_diffusers import from_diffusers, to_diffusers

__all__ = [
    "Conditions",
    "EpsNet",
    "IOSpec",
    "NetSpec",
    "TextCondition",
    "build",
    "from_diffusers",
    "from_official",
    "names",
    "official_call",
    "official_layout",
    "sizes",
    "to_diffusers",
    "to_official",
]

_HOMES = {
    "from_official": "official",
    "official_call": "official",
    "official_layout": "official",
    "to_official": "official",
    "from_diffusers": "official_diffusers",
    "to_diffusers": "official_diffusers",
}


POSITIVE = ("depth", "width", "heads", "patch", "channels", "res_blocks", "head_channels")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def build(arch: str, size: str | None = None, *, io: IOSpec, args: dict[str, Any] | None = None) -> nn.Module:
    """A network of a registered size, of explicit constructor arguments, or of both (args win).

    The result carries `spec`, from which `build(spec.arch, io=spec.io, args=spec.args)` makes the
    same network again.  Raises ValueError for unknown names and impossible shapes.
    """
    merged = {**size_args(arch, size), **(args or {})}
    cls = load(entry(arch).target)
    try:
        inspect.signature(cls).bind(io, **merged)
    except TypeError as error:
        raise ValueError(f"{arch} cannot be built: {error}") from error
    require_types(cls, merged)
    for name, value in merged.items():
        if isinstance(value, int) and value < (1 if name in POSITIVE else 0):
            raise ValueError(f"{name} is {value}; it must be at least {1 if name in POSITIVE else 0}")
    net = cls(io, **merged)
    net.spec = NetSpec(arch=arch, io=io, args=merged)
    return net
