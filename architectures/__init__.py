"""Denoising backbones behind one contract: DiT, U-ViT and the ADM U-Net, or a class of your own."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from .interface import EpsNet, IOSpec, NetSpec
from .registry import entry, load, names, size_args, sizes

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EpsNet", "IOSpec", "NetSpec", "build", "names", "sizes"]


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
    net = cls(io, **merged)
    net.spec = NetSpec(arch=arch, io=io, args=merged)
    return net
