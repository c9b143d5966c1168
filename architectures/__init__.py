"""Denoising backbones with one interface: DiT, U-ViT, the ADM U-Net, GenViT, or a class of your own.

Read `interface.py` first (what a backbone takes and returns), then `dit.py`; `registry.py` lists all sizes.
This package imports nothing from `bench`.  Importing it does not import torch; building a network does.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from .interface import Conditions, EpsNet, IOSpec, NetSpec, TextCondition, require_types
from .registry import entry, load_class, names, size_args, sizes

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

_LAZY_MODULES = {
    "from_official": "official",
    "official_call": "official",
    "official_layout": "official",
    "to_official": "official",
    "from_diffusers": "official_diffusers",
    "to_diffusers": "official_diffusers",
}


POSITIVE_ARGUMENTS = ("depth", "width", "heads", "patch", "channels", "res_blocks", "head_channels")
"""Integer arguments that must be at least 1; all other integer arguments must be at least 0."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY_MODULES[name]}", __name__), name)


def build(arch: str, size: str | None = None, *, io: IOSpec, args: dict[str, Any] | None = None) -> nn.Module:
    """Build a network from a registered size, explicit constructor arguments, or both (`args` override the size).

    The result has an attribute `spec`; `build(spec.arch, io=spec.io, args=spec.args)` builds the same network
    again.  Raises ValueError for unknown names and impossible shapes.
    """
    merged = {**size_args(arch, size), **(args or {})}
    cls = load_class(entry(arch).target)
    try:
        inspect.signature(cls).bind(io, **merged)
    except TypeError as error:
        raise ValueError(f"{arch} cannot be built: {error}") from error
    require_types(cls, merged)
    for name, value in merged.items():
        if isinstance(value, int) and value < (1 if name in POSITIVE_ARGUMENTS else 0):
            raise ValueError(f"{name} is {value}; it must be at least {1 if name in POSITIVE_ARGUMENTS else 0}")
    net = cls(io, **merged)
    net.spec = NetSpec(arch=arch, io=io, args=merged)
    return net
