"""What a network costs: parameters, multiply-accumulates, FLOPs and memory, counted without computing.

The papers' "Gflops" are multiply-accumulates (MACs): matrix products and convolutions of one image,
one multiply and one add counted as one.  FLOPs are twice that; a training step costs three forward
passes (one forward, two backward); guidance doubles the evaluations of a sampling step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import architectures
from architectures import IOSpec

from .config import RunConfig

BYTES_PER_PARAMETER = 20
"""float32 weights, gradients, two AdamW moments and the average."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Counted cost of one network."""

    params: int
    """Trainable parameters."""
    macs: int
    """Multiply-accumulates of one forward pass on one image."""

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def training_flops(self) -> int:
        """FLOPs to train on one image."""
        return 3 * self.flops

    def by(self, what: str) -> int:
        return self.params if what == "params" else self.macs


def meta_network(arch: str, size: str | None, io: IOSpec, args: Mapping[str, Any]) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return architectures.build(arch, size, io=io, args=dict(args)).eval()


def meta_inputs(io: IOSpec, batch: int = 1) -> tuple[Tensor, Tensor, Tensor | None]:
    """x, t and labels of the right shapes, without memory."""
    x = torch.empty(batch, io.channels, io.size, io.size, device="meta")
    cond = torch.zeros(batch, dtype=torch.long, device="meta") if io.num_classes else None
    return x, torch.zeros(batch, device="meta"), cond


def count(arch: str, size: str | None, io: IOSpec, args: Mapping[str, Any] | None = None) -> Cost:
    """Cost of a network, counted by torch's FlopCounterMode on the meta device."""
    net = meta_network(arch, size, io, args or {})
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(*meta_inputs(io))
    params = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return Cost(params=params, macs=counter.get_total_flops() // 2)


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


def of(config: RunConfig, io: IOSpec) -> Cost:
    """Cost of a run's network."""
    return count(config.model.arch, config.model.size or None, io, config.model.network)


def summary(config: RunConfig, cost: Cost) -> dict[str, Any]:
    """The record's cost columns that follow from the configuration alone.

    Outside its interval guidance costs nothing, which is counted as the interval's share of the steps.
    """
    e = config.evaluation
    low, high = e.guidance_interval
    guided = 0 if e.guidance == 1 else round(e.steps * (high - low))
    return {
        "params": cost.params,
        "macs": cost.macs,
        "flops": cost.flops,
        "training_flops": cost.training_flops * config.budget.images,
        "guidance_multiplier": 1 if e.guidance == 1 else 2,
        "sampling_flops_per_image": cost.flops * (e.steps + guided),
    }
