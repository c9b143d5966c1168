"""What a network costs: parameters, multiply-accumulates, FLOPs and memory, counted without computing.

    python -m bench.cost                 our count beside every published one
    python -m bench.cost dit_xl adm      the rows whose names hold one of these words

The papers' "Gflops" are multiply-accumulates (MACs): matrix products and convolutions of one image,
one multiply and one add counted as one.  FLOPs are twice that; a training step costs three forward
passes (one forward, two backward); guidance doubles the evaluations of a sampling step.
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
"""float32 weights, gradients, two AdamW moments and the average."""


@dataclass(frozen=True, kw_only=True)
class NetworkCost:
    """Counted cost of one network."""

    params: int
    """Trainable parameters."""
    macs: int
    """Multiply-accumulates of one forward pass on one image."""

    @property
    def flops(self) -> int:
        return forward_flops(self.macs)

    @property
    def training_flops(self) -> int:
        """FLOPs to train on one image."""
        return training_flops(self.macs, 1)

    def by(self, what: str) -> int:
        return self.params if what == "params" else self.macs


def meta_network(arch: str, size: str | None, io: IOSpec, args: Mapping[str, Any]) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return architectures.build(arch, size, io=io, args=dict(args)).eval()


def meta_inputs(io: IOSpec) -> tuple[Tensor, Tensor, Any]:
    """x, t and conditions of the right shapes for one image, without memory.

    A text of open length has one token, as LDM's class condition does.
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
    """Leaves out what changes no shape and has no MACs; on the meta device these are half of the time."""

    LEFT_OUT = frozenset((F.group_norm, F.layer_norm, F.silu, F.gelu, torch.group_norm, torch.layer_norm))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.LEFT_OUT and args:
            return args[0]
        return func(*args, **(kwargs or {}))


def count_cost(arch: str, size: str | None, io: IOSpec, args: Mapping[str, Any] | None = None) -> NetworkCost:
    """Cost of a network, counted by torch's FlopCounterMode on the meta device."""
    return count_module(meta_network(arch, size, io, args or {}), meta_inputs(io))


def count_module(net: nn.Module, inputs: Sequence[Any]) -> NetworkCost:
    """Cost of a network on the meta device; `inputs` are those of one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter, SkipShapePreservingOps():
        net(*inputs)
    params = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return NetworkCost(params=params, macs=counter.get_total_flops() // 2)


def activation_bytes(arch: str, size: str | None, io: IOSpec, args: Mapping[str, Any] | None = None) -> int:
    """float32 bytes that autograd keeps for one image's backward pass, without checkpointing.

    Counted on the meta device from the saved tensors, parameters left out, each storage once.
    """
    net = meta_network(arch, size, io, args or {})
    own = {p.untyped_storage()._cdata for p in net.parameters()}
    seen: dict[int, int] = {}
    held: list[Tensor] = []  # keeps storages alive, so that none is counted under another's address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        net(*meta_inputs(io))
    return sum(seen.values())


def cost_of_config(config: RunConfig, io: IOSpec) -> NetworkCost:
    """Cost of a run's network."""
    return count_cost(config.model.arch, config.model.size or None, io, config.model.network)


def cost_summary(config: RunConfig, cost: NetworkCost) -> dict[str, Any]:
    """The record's cost columns that follow from the configuration alone."""
    e = config.evaluation
    return {
        "params": cost.params,
        "macs": cost.macs,
        "flops": cost.flops,
        "training_flops": training_flops(cost.macs, config.budget.images) or None,
        "guidance_multiplier": 1 if e.guidance == 1 else 2,
        "sampling_flops_per_image": cost.flops * e.forward_passes,
    }
