"""How a network is computed on a device: its precision, what is compiled, and what is kept for the backward pass.

Nothing here changes the names, shapes or types of a network's tensors, so a checkpoint does not tell of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.config.schema import Precision, RunConfig
from bench.training import parallel

BACKEND = "inductor"
"""torch.compile's; tests take a quicker one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionSettings:
    """What "auto" comes to on a device."""

    device: torch.device
    precision: Precision = "fp32"
    """bf16 is autocast over float32 weights; fp32 on a GPU is without TF32, in convolutions too."""
    compile: Literal["none", "blocks", "graphs"] = "none"
    checkpointing: bool = False
    channels_last: Literal["auto", "on", "off"] = "off"
    """auto is on for convolutional networks."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """TF32 as the precision says, on a GPU; for forward and backward passes, whichever thread they are in."""
        if self.device.type != "cuda":
            yield
            return
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        exact = self.precision == "fp32"
        try:
            torch.set_float32_matmul_precision("highest" if exact else "high")
            torch.backends.cudnn.allow_tf32 = not exact
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]

    def autocast(self) -> torch.autocast:
        """For forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def call(self, net: nn.Module, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """The network's output in float32; the network is prepared, or a replica of one that is."""
        if self.compile == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        with self.autocast():
            out: Tensor = net(x, t, cond)
        return out.float()

    def place(self, net: nn.Module) -> nn.Module:
        """The network in the memory order that suits it; before it is copied, sharded or compiled."""
        if self.channels_last == "on" or (self.channels_last == "auto" and is_convolutional(net)):
            net.to(memory_format=torch.channels_last)
        return net

    def prepare(self, net: nn.Module) -> nn.Module:
        """Checkpoint and compile in place, after which the network cannot be copied; its tensors stay as they are."""
        layers = compiled_modules(net)
        if self.checkpointing:
            for layer in layers:
                layer.forward = partial(checkpointed_call, layer.forward)
        if self.compile == "blocks":
            compile_each(layers)
        elif self.compile == "graphs":
            mode = "reduce-overhead" if BACKEND == "inductor" else None
            net.forward = torch.compile(net.forward, fullgraph=True, dynamic=False, backend=BACKEND, mode=mode)
        return net

    def sampler(self, net: nn.Module) -> Any:
        """The network as samplers call it: `net(x, t, cond)`."""
        prepared = self.prepare(self.place(net))

        def call(x: Tensor, t: Tensor, cond: Any) -> Tensor:
            with self.running():
                out = self.call(prepared, x, t, cond)
            return out.clone() if self.compile == "graphs" else out  # a graph's output is overwritten by the next

        return call


def training_execution(config: RunConfig, device: torch.device) -> ExecutionSettings:
    """How a run trains on a device; ValueError for what the device does not have."""
    c = config.compute
    precision = c.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and has_bf16() else "fp32"
    return ExecutionSettings(
        device=device,
        precision=supported_precision(precision, device, "compute"),
        compile=compiled(config, device),
        checkpointing=c.activation_checkpointing == "blocks",
        channels_last=to_memory_format(config, device),
    )


def sampling_execution(config: RunConfig, device: torch.device) -> ExecutionSettings:
    """How its images are made there; ValueError likewise."""
    return ExecutionSettings(
        device=device,
        precision=supported_precision(config.evaluation.precision, device, "evaluation"),
        compile=compiled(config, device),
        channels_last=to_memory_format(config, device),
    )


def compiled(config: RunConfig, device: torch.device) -> Any:
    chosen = config.compute.compile
    return chosen if chosen != "auto" else "blocks" if device.type == "cuda" else "none"


def to_memory_format(config: RunConfig, device: torch.device) -> Any:
    chosen = config.compute.channels_last
    return "off" if chosen == "auto" and device.type != "cuda" else chosen


def supported_precision(precision: Any, device: torch.device, section: str) -> Any:
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"{section}.precision is tf32, which only GPUs compute; on a CPU use fp32 or bf16")
    return precision


def has_bf16() -> bool:
    """Whether the GPU computes bfloat16 itself: Ampere and later."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def is_convolutional(net: nn.Module) -> bool:
    """Whether a network's blocks hold convolutions."""
    return any(isinstance(m, nn.Conv2d) for block in parallel.transformer_blocks(net) for m in block.modules())


def compiled_modules(net: nn.Module) -> list[nn.Module]:
    """What is compiled or checkpointed by itself: the blocks, and modules of their kinds beside the lists of them.

    The whole network where it has no such lists.
    """
    blocks = list(parallel.transformer_blocks(net))
    kinds = {type(block) for block in blocks}
    return [*blocks, *(child for child in net.children() if type(child) in kinds)] or [net]


def checkpointed_call(forward: Any, *given: Any, **named: Any) -> Any:
    """A layer that keeps no more than its inputs; dropout draws the same again."""
    return checkpoint(forward, *given, use_reentrant=False, **named)


def compile_each(layers: list[nn.Module]) -> None:
    """Compile the forward of each; layers of the same structure share one graph.

    Each structure has a copy of the code, because that is what torch hangs compiled graphs on, of which it
    allows few, and all of which it goes through at a call: a U-Net has a structure for nearly every block.
    """
    made: dict[Any, Any] = {}
    for layer in layers:
        recomputed = isinstance(layer.forward, partial)
        key = (type(layer), str(layer), recomputed, *((name, p.shape) for name, p in layer.named_parameters()))
        if key not in made:
            own = copy_function(recompute_in_backward(type(layer).forward) if recomputed else type(layer).forward)
            made[key] = torch.compile(own, fullgraph=True, dynamic=False, backend=BACKEND)
        layer.forward = MethodType(made[key], layer)


def recompute_in_backward(forward: Any) -> Any:
    """The forward of a class, keeping no more than its inputs."""

    def recomputed(self: nn.Module, *given: Any, **named: Any) -> Any:
        return checkpointed_call(partial(forward, self), *given, **named)

    return recomputed


def copy_function(function: Any) -> Any:
    """A function of the same body with a code object of its own."""
    if not isinstance(function, FunctionType):
        return function
    code = function.__code__.replace()
    made = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made
