"""What bench.throughput times: a training step, a forward pass and sampling, as a run makes them and as published ones.

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
"""Scale where a configuration has none."""
Call = Callable[[], Any]


@dataclass(kw_only=True)
class NetworkWorkload:
    """Something that is ready to be timed."""

    call: Call
    images: int
    """Of one call."""
    compile_seconds: float
    """What the first call took more than the second: compiling, and finding what fits."""
    peak_bytes: int | None
    """Of GPU memory, what was there before it left out."""
    micro_batch: Callable[[], int] = lambda: 0


def ready(made: tuple[Call, Callable[[], int]], images: int, device: torch.device, before: int) -> NetworkWorkload:
    """Call it until it is warm; torch.OutOfMemoryError where that does not fit.  `before` was allocated for others."""
    call, micro_batch = made
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
        if len(seconds) == 1:
            allocated(device)  # from here on, without what was tried and did not fit
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else None
    spent = max(0.0, seconds[0] - min(seconds[1:]))
    return NetworkWorkload(call=call, images=images, compile_seconds=spent, peak_bytes=peak, micro_batch=micro_batch)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def allocated(device: torch.device) -> int:
    """Bytes of GPU memory in use, from which the next peak is counted."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def eager_baseline(config: RunConfig, device: torch.device) -> RunConfig:
    """The configuration without any of what makes it fast here: TF32 where there is a GPU, as the published loops."""
    plain = replace(
        config.compute,
        precision="tf32" if device.type == "cuda" else "fp32",
        compile="none",
        activation_checkpointing="none",
        channels_last="off",
    )
    return replace(config, compute=plain, evaluation=replace(config.evaluation, precision="fp32"))


def noise(config: RunConfig, device: torch.device, count: int = 4) -> Any:
    """Batches (x0, t, eps, labels) without end, on the CPU as the loader gives them."""
    io, generator = presets.network_io(config), torch.Generator().manual_seed(0)
    shape, made = (config.recipe.batch, io.channels, io.size, io.size), []
    for _ in range(count):
        x, eps = (torch.randn(shape, generator=generator) for _ in range(2))
        labels = torch.randint(0, io.num_classes + 1, shape[:1], generator=generator)
        batch = (x, draw_timesteps(config.diffusion, shape[0], generator), eps, labels)
        made.append(tuple(z.pin_memory() for z in batch) if device.type == "cuda" else batch)
    return cycle(made)


def training_workload(config: RunConfig, device: torch.device) -> tuple[Call, Callable[[], int]]:
    """The trainer's own step, which does not wait for the device."""
    state, batches = new_training_state(config, presets.network_io(config), device), noise(config, device)
    diffusion = make_diffusion(config.diffusion, device)

    def call() -> None:
        with state.engine.running():
            train_step(state, config, diffusion, next(batches))

    return call, lambda: state.micro_batch


def published_training_workload(config: RunConfig, device: torch.device) -> tuple[Call, Callable[[], int]]:
    """The step of the published loops: AdamW that is not fused, an average parameter by parameter, the loss read."""
    config = eager_baseline(config, device)
    state, batches = new_training_state(config, presets.network_io(config), device), noise(config, device)
    diffusion, own = make_diffusion(config.diffusion, device), list(state.net.parameters())
    state.optimizer = torch.optim.AdamW(own, lr=config.recipe.lr, weight_decay=config.recipe.weight_decay)

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
            for kept, new in zip(state.ema.parameters(), own, strict=True):
                kept.mul_(config.recipe.ema).add_(new, alpha=1 - config.recipe.ema)
        loss.item()

    return call, lambda: state.micro_batch


def live_network(config: RunConfig, device: torch.device) -> torch.nn.Module:
    """A network whose every branch is alive, for sampling."""
    torch.manual_seed(derive_seed(config.seed, "init"))
    model = config.model
    net = architectures.build(model.arch, model.size or None, io=presets.network_io(config), args=model.network)
    return perturb_parameters(net).to(device).requires_grad_(False)


def forward_workload(config: RunConfig, device: torch.device, batch: int) -> tuple[Call, Callable[[], int]]:
    """One evaluation of the network as samplers make it."""
    call = execution.sampling_execution(config, device).sampler(live_network(config, device))
    inputs = timing.inputs_for(presets.network_io(config), batch, device)

    def once() -> Tensor:
        with torch.inference_mode():
            out: Tensor = call(*inputs)
            return out

    return once, lambda: 0


def sampling_workload(config: RunConfig, device: torch.device, batch: int) -> Callable[[int], Tensor]:
    """Images (B, C, H, W) of a guided sampler of so many steps; the same noise each time."""
    io, e = presets.network_io(config), config.evaluation
    net = execution.sampling_execution(config, device).sampler(live_network(config, device))
    guidance = (e.guidance if e.guidance != 1 else GUIDANCE) if io.num_classes else 1.0
    labels = torch.arange(batch, device=device) % io.num_classes if io.num_classes else None

    def images(steps: int) -> Tensor:
        own = dataclasses.replace(config, evaluation=replace(e, steps=steps, guidance=guidance))
        made = samplers.guide_from_config(net, own, io.num_classes)
        with torch.inference_mode():
            return samplers.sample_images(made, own, (io.channels, io.size, io.size), range(batch), labels, device)

    return images


def max_difference(ours: Tensor, theirs: Tensor) -> float:
    """Root mean square of the difference of images, relative to that of `theirs`."""
    return float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())
