"""Count parameters, multiply-accumulates, FLOPs and activation memory of a network on the meta device.

The "Gflops" of the papers are multiply-accumulates (MACs): matrix products and convolutions of one image, where
a multiply and an add count as one.  FLOPs are twice the MACs.  A training step costs three forward passes: one
forward, and two for the backward pass.  Guidance doubles the network evaluations of a sampling step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import architectures
from architectures import Conditions, IOSpec, TextCondition
from bench.config.schema import RunConfig
from bench.costs.flops import forward_flops, training_flops

BYTES_PER_PARAMETER = 20
"""Bytes of float32 weights, gradients, two AdamW moments and EMA weights."""


@dataclass(frozen=True, kw_only=True)
class NetworkCost:
    """Counted cost of one network."""

    params: int
    """Trainable parameters."""
    macs: int
    """Multiply-accumulates of one forward pass on one image."""

    @property
    def flops(self) -> int:
        """FLOPs of one forward pass on one image."""
        return forward_flops(self.macs)

    @property
    def training_flops(self) -> int:
        """FLOPs of training on one image: three forward passes."""
        return training_flops(self.macs, 1)

    def by(self, what: str) -> int:
        """Return the parameters if `what` is "params", else the MACs."""
        return self.params if what == "params" else self.macs


def meta_network(arch: str, size: str | None, io: IOSpec, args: Mapping[str, Any]) -> nn.Module:
    """Build the network on the meta device, without memory for its weights."""
    with torch.device("meta"):
        return architectures.build(arch, size, io=io, args=dict(args)).eval()


def meta_inputs(io: IOSpec) -> tuple[Tensor, Tensor, Any]:
    """Make x (1, C, H, W), t (1,) and the condition of one image on the meta device.

    A text condition of variable length gets one token, like LDM's class condition.
    """
    with torch.device("meta"):
        x, t = torch.empty(1, io.channels, io.size, io.size), torch.zeros(1)
        label = torch.zeros(1, dtype=torch.long) if io.num_classes else None
        if not (io.text_dim or io.image_channels):
            return x, t, label
        text = TextCondition(tokens=torch.empty(1, io.text_tokens or 1, io.text_dim)) if io.text_dim else None
        image = torch.empty(1, io.image_channels, io.size, io.size) if io.image_channels else None
        return x, t, Conditions(label=label, text=text, image=image)


class SkipShapePreservingOps(TorchFunctionMode):
    """Skip operations that keep the shape and have no MACs; they take half of the time on the meta device."""

    SKIPPED = frozenset((F.group_norm, F.layer_norm, F.silu, F.gelu, torch.group_norm, torch.layer_norm))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.SKIPPED and args:
            return args[0]
        return func(*args, **(kwargs or {}))


def count_cost(arch: str, size: str | None, io: IOSpec, args: Mapping[str, Any] | None = None) -> NetworkCost:
    """Count the cost of a network with torch's FlopCounterMode on the meta device."""
    return count_module(meta_network(arch, size, io, args or {}), meta_inputs(io))


def count_module(net: nn.Module, inputs: Sequence[Any]) -> NetworkCost:
    """Count the cost of a network on the meta device; `inputs` are the arguments of its forward pass for one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter, SkipShapePreservingOps():
        net(*inputs)
    params = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return NetworkCost(params=params, macs=counter.get_total_flops() // 2)


def activation_bytes(arch: str, size: str | None, io: IOSpec, args: Mapping[str, Any] | None = None) -> int:
    """Count the float32 bytes that autograd saves for the backward pass of one image, without checkpointing.

    Counts each storage of the saved tensors once and leaves out the parameters.
    """
    net = meta_network(arch, size, io, args or {})
    parameters = {p.untyped_storage()._cdata for p in net.parameters()}
    storage_bytes: dict[int, int] = {}
    saved: list[Tensor] = []  # keeps storages alive, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            storage_bytes[storage._cdata] = storage.nbytes()
            saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        net(*meta_inputs(io))
    return sum(storage_bytes.values())


def cost_of_config(config: RunConfig, io: IOSpec) -> NetworkCost:
    """Count the cost of a run's network."""
    return count_cost(config.model.arch, config.model.size or None, io, config.model.network)


def cost_summary(config: RunConfig, cost: NetworkCost) -> dict[str, Any]:
    """Return the cost fields of a record that follow from the config; training_flops covers the whole budget."""
    e = config.evaluation
    return {
        "params": cost.params,
        "macs": cost.macs,
        "flops": cost.flops,
        "training_flops": training_flops(cost.macs, config.budget.images) or None,
        "guidance_multiplier": 1 if e.guidance == 1 else 2,
        "sampling_flops_per_image": cost.flops * e.forward_passes,
    }
