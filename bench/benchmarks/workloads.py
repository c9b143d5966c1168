"""Workloads timed by bench.throughput: train step, forward pass, sampling; ours and the published implementations.

B batch, C channels, H W image size.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

import architectures
from architectures.check import perturb_parameters
from bench.config.schema import RunConfig
from bench.config.seeds import derive_seed
from bench.costs import timing
from bench.diffusion import samplers
from bench.diffusion.gaussian_diffusion import draw_timesteps, make_diffusion
from bench.experiments import presets
from bench.training import execution, micro_batching
from bench.training.trainer import backward, new_training_state, train_step

GUIDANCE = 1.5
"""Guidance scale if the config has none."""
Call = Callable[[], Any]


@dataclass(kw_only=True)
class NetworkWorkload:
    """Warmed-up call that is ready to be timed."""

    call: Call
    images: int
    """Images per call."""
    compile_seconds: float
    """Additional seconds of the first call, for compilation and micro-batch search."""
    peak_bytes: int | None
    """Peak GPU memory in bytes, less the memory in use before; None on a CPU."""
    micro_batch: Callable[[], int] = lambda: 0
    """Micro-batch that a training workload chose; 0 means the whole batch."""


def warm_up(
    workload: tuple[Call, Callable[[], int]], images: int, device: torch.device, before: int
) -> NetworkWorkload:
    """Call a workload three times; raise torch.OutOfMemoryError if it does not fit.

    `before` is the GPU memory in bytes that was in use before the workload was built.
    """
    call, micro_batch = workload
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
        if len(seconds) == 1:
            reset_peak_memory(device)  # leaves out micro-batches that did not fit
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else None
    compile_seconds = max(0.0, seconds[0] - min(seconds[1:]))
    return NetworkWorkload(
        call=call, images=images, compile_seconds=compile_seconds, peak_bytes=peak, micro_batch=micro_batch
    )


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; a CPU needs no wait."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> int:
    """Reset the peak of GPU memory and return the bytes in use; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def eager_baseline(config: RunConfig, device: torch.device) -> RunConfig:
    """Return the config with the settings of the published loops: eager, TF32 on a GPU, float32 on a CPU."""
    compute = replace(
        config.compute,
        precision="tf32" if device.type == "cuda" else "fp32",
        compile="none",
        activation_checkpointing="none",
        channels_last="off",
    )
    return replace(config, compute=compute, evaluation=replace(config.evaluation, precision="fp32"))


def cycle_noise_batches(config: RunConfig, device: torch.device, count: int = 4) -> Any:
    """Repeat `count` random batches (x0, t, eps, labels) endlessly, on the CPU like the loader's."""
    io, generator = presets.network_io(config), torch.Generator().manual_seed(0)
    shape, batches = (config.recipe.batch, io.channels, io.size, io.size), []
    for _ in range(count):
        x, eps = (torch.randn(shape, generator=generator) for _ in range(2))
        labels = torch.randint(0, io.num_classes + 1, shape[:1], generator=generator)
        batch = (x, draw_timesteps(config.diffusion, shape[0], generator), eps, labels)
        batches.append(tuple(z.pin_memory() for z in batch) if device.type == "cuda" else batch)
    return cycle(batches)


def training_workload(config: RunConfig, device: torch.device) -> tuple[Call, Callable[[], int]]:
    """Make a workload of one step of our trainer, which does not wait for the device."""
    state, batches = new_training_state(config, presets.network_io(config), device), cycle_noise_batches(config, device)
    diffusion = make_diffusion(config.diffusion, device)

    def call() -> None:
        with state.engine.running():
            train_step(state, config, diffusion, next(batches))

    return call, lambda: state.micro_batch


def published_training_workload(config: RunConfig, device: torch.device) -> tuple[Call, Callable[[], int]]:
    """Make a workload of one step of the published loops: unfused AdamW, unfused EMA, loss.item() at each step."""
    config = eager_baseline(config, device)
    state, batches = new_training_state(config, presets.network_io(config), device), cycle_noise_batches(config, device)
    diffusion, parameters = make_diffusion(config.diffusion, device), list(state.net.parameters())
    state.optimizer = torch.optim.AdamW(parameters, lr=config.recipe.lr, weight_decay=config.recipe.weight_decay)

    def accumulate(batch: tuple[Tensor, ...]) -> Tensor:
        state.optimizer.zero_grad()
        size = len(batch[0])
        pieces = zip(*(z.split(state.micro_batch or size) for z in batch), strict=True)
        return torch.stack([backward(state, diffusion, piece, len(piece[0]) / size) for piece in pieces]).sum()

    def call() -> None:
        batch = next(batches)
        with state.engine.running():
            loss = micro_batching.accumulate_with_retry(lambda: accumulate(batch), state, len(batch[0]), search=True)
            state.optimizer.step()
        with torch.no_grad():
            for ema, weight in zip(state.ema.parameters(), parameters, strict=True):
                ema.mul_(config.recipe.ema).add_(weight, alpha=1 - config.recipe.ema)
        loss.item()

    return call, lambda: state.micro_batch


def live_network(config: RunConfig, device: torch.device) -> torch.nn.Module:
    """Build a network for sampling with perturbed parameters, so that no zero-initialised branch is skipped."""
    torch.manual_seed(derive_seed(config.seed, "init"))
    model = config.model
    net = architectures.build(model.arch, model.size or None, io=presets.network_io(config), args=model.network)
    return perturb_parameters(net).to(device).requires_grad_(False)


def forward_workload(config: RunConfig, device: torch.device, batch: int) -> tuple[Call, Callable[[], int]]:
    """Make a workload of one forward pass with the execution settings of sampling."""
    call = execution.sampling_execution(config, device).sampler(live_network(config, device))
    inputs = timing.inputs_for(presets.network_io(config), batch, device)

    def once() -> Tensor:
        with torch.inference_mode():
            out: Tensor = call(*inputs)
            return out

    return once, lambda: 0


def sampling_workload(config: RunConfig, device: torch.device, batch: int) -> Callable[[int], Tensor]:
    """Make a function from the number of steps to images (B, C, H, W), sampled with guidance from fixed noise."""
    io, e = presets.network_io(config), config.evaluation
    net = execution.sampling_execution(config, device).sampler(live_network(config, device))
    guidance = (e.guidance if e.guidance != 1 else GUIDANCE) if io.num_classes else 1.0
    labels = torch.arange(batch, device=device) % io.num_classes if io.num_classes else None

    def images(steps: int) -> Tensor:
        with_steps = dataclasses.replace(config, evaluation=replace(e, steps=steps, guidance=guidance))
        guided = samplers.guide_from_config(net, with_steps, io.num_classes)
        with torch.inference_mode():
            return samplers.sample_images(
                guided, with_steps, (io.channels, io.size, io.size), range(batch), labels, device
            )

    return images


def relative_rms_difference(ours: Tensor, theirs: Tensor) -> float:
    """Root mean square of the difference of two image batches, relative to the root mean square of `theirs`."""
    return float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())
