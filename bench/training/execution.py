"""Execution settings: precision, torch.compile, activation checkpointing, memory format.

None of them changes the names, shapes or dtypes of a network's tensors, so the state dict stays the same.
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
"""Backend of torch.compile; tests use a faster one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionSettings:
    """Execution settings for one device; every "auto" is resolved except that of channels_last."""

    device: torch.device
    precision: Precision = "fp32"
    """bf16 is autocast with float32 weights; fp32 on a GPU disables TF32 in matrix products and convolutions."""
    compile: Literal["none", "blocks", "graphs"] = "none"
    checkpointing: bool = False
    """Activation checkpointing of each block."""
    channels_last: Literal["auto", "on", "off"] = "off"
    """"auto" converts networks that have convolutions in their blocks."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Set torch's TF32 flags for forward and backward passes in all threads, and restore them on exit."""
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
        """Autocast context for forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def call(self, net: nn.Module, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """Call a prepared network, or its DDP wrapper; the output is float32."""
        if self.compile == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        with self.autocast():
            out: Tensor = net(x, t, cond)
        return out.float()

    def place(self, net: nn.Module) -> nn.Module:
        """Convert the network to channels_last if set; call this before copying, sharding or compiling the network."""
        if self.channels_last == "on" or (self.channels_last == "auto" and is_convolutional(net)):
            net.to(memory_format=torch.channels_last)
        return net

    def prepare(self, net: nn.Module) -> nn.Module:
        """Apply activation checkpointing and torch.compile in place; afterwards the network cannot be copied."""
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
        """Wrap the network as `net(x, t, cond)` for samplers."""
        prepared = self.prepare(self.place(net))

        def call(x: Tensor, t: Tensor, cond: Any) -> Tensor:
            with self.running():
                out = self.call(prepared, x, t, cond)
            return (
                out.clone() if self.compile == "graphs" else out
            )  # the next replay of a CUDA graph overwrites its output

        return call


def training_execution(config: RunConfig, device: torch.device) -> ExecutionSettings:
    """Settings for training on a device; ValueError for a precision that the device lacks."""
    c = config.compute
    precision = c.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and has_bf16() else "fp32"
    return ExecutionSettings(
        device=device,
        precision=supported_precision(precision, device, "compute"),
        compile=compile_mode(config, device),
        checkpointing=c.activation_checkpointing == "blocks",
        channels_last=channels_last_setting(config, device),
    )


def sampling_execution(config: RunConfig, device: torch.device) -> ExecutionSettings:
    """Settings for sampling on a device; ValueError for a precision that the device lacks."""
    return ExecutionSettings(
        device=device,
        precision=supported_precision(config.evaluation.precision, device, "evaluation"),
        compile=compile_mode(config, device),
        channels_last=channels_last_setting(config, device),
    )


def compile_mode(config: RunConfig, device: torch.device) -> Any:
    """compute.compile with "auto" resolved: blocks on a GPU, none on a CPU."""
    mode = config.compute.compile
    return mode if mode != "auto" else "blocks" if device.type == "cuda" else "none"


def channels_last_setting(config: RunConfig, device: torch.device) -> Any:
    """compute.channels_last; "auto" is off on a CPU."""
    setting = config.compute.channels_last
    return "off" if setting == "auto" and device.type != "cuda" else setting


def supported_precision(precision: Any, device: torch.device, section: str) -> Any:
    """Return the precision; raise ValueError that names `section` of the config for tf32 on a CPU."""
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"{section}.precision is tf32, which only GPUs support; on a CPU use fp32 or bf16")
    return precision


def has_bf16() -> bool:
    """Whether the GPU has bfloat16 units (Ampere and later)."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def is_convolutional(net: nn.Module) -> bool:
    """Whether the blocks of a network have convolutions."""
    return any(isinstance(m, nn.Conv2d) for block in parallel.transformer_blocks(net) for m in block.modules())


def compiled_modules(net: nn.Module) -> list[nn.Module]:
    """List the modules that are compiled or checkpointed one by one.

    These are the blocks and other children of the same classes, or the whole network if it has no lists of blocks.
    """
    blocks = list(parallel.transformer_blocks(net))
    classes = {type(block) for block in blocks}
    return [*blocks, *(child for child in net.children() if type(child) in classes)] or [net]


def checkpointed_call(forward: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a layer and save only its inputs for the backward pass; dropout repeats its draws."""
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def compile_each(layers: list[nn.Module]) -> None:
    """Compile the forward of each layer; layers of equal structure share one graph.

    torch stores compiled graphs with the code object, allows few per code object and checks all of them at each call.
    A U-Net has a different structure for nearly every block, so each structure gets a copy of the code object.
    """
    forwards: dict[Any, Any] = {}
    for layer in layers:
        recomputed = isinstance(layer.forward, partial)
        key = (type(layer), str(layer), recomputed, *((name, p.shape) for name, p in layer.named_parameters()))
        if key not in forwards:
            forward = copy_function(recompute_in_backward(type(layer).forward) if recomputed else type(layer).forward)
            forwards[key] = torch.compile(forward, fullgraph=True, dynamic=False, backend=BACKEND)
        layer.forward = MethodType(forwards[key], layer)


def recompute_in_backward(forward: Any) -> Any:
    """Wrap a class's forward in activation checkpointing."""

    def recomputed(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return checkpointed_call(partial(forward, self), *args, **kwargs)

    return recomputed


def copy_function(function: Any) -> Any:
    """Copy a function together with its code object."""
    if not isinstance(function, FunctionType):
        return function
    code = function.__code__.replace()
    copy = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
