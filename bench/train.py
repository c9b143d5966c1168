"""The trainer: one loop for every architecture and data set.

Each step is a pure function of (state, seed, step), so a run that was killed anywhere ends with the
weights of one that was not.

B batch, C channels, H W image size.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import architectures

from . import checkpoint
from .config import RunConfig
from .data import Arrays, indices_at, normalise
from .diffusion import Diffusion, draw_times, process_of
from .runfolder import RunFolder, evaluation_points
from .seeds import fold
from .tensorboard import Scalars


class Stopped(Exception):
    """Training was asked to stop; the state is saved."""


class Diverged(RuntimeError):
    """The loss is no longer finite."""


@dataclass
class State:
    """Everything that a step changes."""

    net: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    images: int = 0


def device_of(config: RunConfig) -> torch.device:
    """The device of a run; ValueError for CUDA where there is none."""
    wanted = config.compute.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("compute.device is cuda, and torch finds no CUDA device; use cpu or auto")
    return torch.device(wanted)


def set_threads(config: RunConfig) -> None:
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)


def new_state(config: RunConfig, io: architectures.IOSpec, device: torch.device) -> State:
    """A network from the seed, its average, and the optimizer."""
    torch.manual_seed(fold(config.seed, "init"))
    model = config.model
    net = architectures.build(model.arch, model.size or None, io=io, args=model.network).to(device).train()
    ema = copy.deepcopy(net).eval().requires_grad_(False)
    r = config.recipe
    optimizer = torch.optim.AdamW(
        [p for p in net.parameters() if p.requires_grad],
        lr=r.lr,
        betas=(r.beta1, r.beta2),
        weight_decay=r.weight_decay,
        fused=True,
    )
    return State(net, ema, optimizer)


def draw(config: RunConfig, arrays: Arrays, state: State, size: int, null: int) -> tuple[Tensor, ...]:
    """(x0, t, eps, labels) of the next step, on the CPU, from (seed, step) alone."""
    rows = indices_at(config.seed, state.images, len(arrays.images), size)
    x0 = torch.from_numpy(normalise(arrays.images[rows]))
    labels = torch.from_numpy(arrays.labels[rows])
    generator = torch.Generator().manual_seed(fold(config.seed, "step", state.step))
    t = draw_times(config.diffusion, size, generator)
    eps = torch.randn(x0.shape, generator=generator)
    drop = torch.rand(size, generator=generator) < config.recipe.label_drop
    return x0, t, eps, torch.where(drop, null, labels)


def step(state: State, config: RunConfig, diffusion: Diffusion, batch: tuple[Tensor, ...]) -> Tensor:
    """One optimiser step; the batch's mean loss, still on the device."""
    r = config.recipe
    x0, t, eps, labels = (z.to(diffusion.device, non_blocking=True) for z in batch)
    xt = diffusion.noisy(x0, t, eps)
    cond = labels if state.net.spec.io.num_classes else None  # type: ignore[union-attr]
    loss = diffusion.loss(state.net(xt, diffusion.time(t), cond), x0, xt, t, eps).mean()
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if r.clip:
        nn.utils.clip_grad_norm_(state.net.parameters(), r.clip)
    for group in state.optimizer.param_groups:
        group["lr"] = r.lr * min(1.0, (state.step + 1) / max(1, r.warmup))
    state.optimizer.step()
    decay = min(r.ema, (1 + state.step) / (10 + state.step)) if r.ema_ramp else r.ema
    update_average(state, decay)
    state.step += 1
    state.images += len(x0)
    return loss.detach()


@torch.no_grad()
def update_average(state: State, decay: float) -> None:
    """ema <- decay ema + (1 - decay) weights; buffers are copied."""
    torch._foreach_lerp_(list(state.ema.parameters()), list(state.net.parameters()), 1 - decay)
    for own, new in zip(state.ema.buffers(), state.net.buffers(), strict=True):
        own.copy_(new)


def train(
    run: RunFolder, config: RunConfig, arrays: Arrays, io: architectures.IOSpec, stop: Callable[[], bool]
) -> None:
    """Train to the budget, leaving averaged weights at each evaluation point.

    Goes on from the newest whole checkpoint.  Raises Stopped when `stop` says so, after saving, and
    Diverged when the loss is not finite.
    """
    points = evaluation_points(config.budget.images, config.budget.points)
    if all(has_snapshot(run, p) for p in points):
        return
    device = device_of(config)
    state = new_state(config, io, device)
    resume(run, state)
    diffusion = process_of(config.diffusion, device)
    meter = Meter(run, config, state)
    for point in (p for p in points if p > state.images or (p == state.images and not has_snapshot(run, p))):
        while state.images < point:
            size = min(config.recipe.batch, point - state.images)
            batch = draw(config, arrays, state, size, io.num_classes)
            meter.add(step(state, config, diffusion, batch), size)
            if meter.due():
                meter.report()
                if stop():
                    save(run, config, state)
                    raise Stopped
                if meter.checkpoint_due():
                    save(run, config, state)
        meter.report()
        snapshot(run, config, state)
        save(run, config, state)


class Meter:
    """Mean loss and rate since the last report; the only place where a step's loss is fetched."""

    def __init__(self, run: RunFolder, config: RunConfig, state: State, seconds: float = 1.0) -> None:
        self.run, self.config, self.state, self.seconds = run, config, state, seconds
        self.saved = time.monotonic()
        self.scalars = Scalars(run, purge_after=state.images or None)
        self._start()

    def _start(self) -> None:
        self.losses: list[Tensor] = []
        self.images = 0
        self.since = time.monotonic()

    def add(self, loss: Tensor, size: int) -> None:
        self.losses.append(loss * size)
        self.images += size

    def due(self) -> bool:
        return time.monotonic() - self.since >= self.seconds

    def checkpoint_due(self) -> bool:
        if time.monotonic() - self.saved < self.config.compute.checkpoint_seconds:
            return False
        self.saved = time.monotonic()
        return True

    def report(self) -> None:
        if not self.images:
            return
        loss = float(torch.stack(self.losses).sum()) / self.images
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} at image {self.state.images:,}; a lower recipe.lr may hold")
        rate = self.images / max(1e-9, time.monotonic() - self.since)
        total = self.config.budget.images
        seconds = round(time.monotonic() - self.since, 4)
        self.run.log("train", images=self.state.images, of=total, loss=loss, rate=rate, seconds=seconds)
        self.scalars.add(self.state.images, {"loss": loss, "images per second": rate})
        self._start()


def save(run: RunFolder, config: RunConfig, state: State) -> None:
    """A checkpoint of the whole state."""
    folder = run.path / "checkpoints"
    tensors = checkpoint.training_tensors(state.net, state.ema, state.optimizer)
    checkpoint.save(folder / f"{state.images:012d}.safetensors", tensors, step=state.step, images=state.images)
    checkpoint.prune(folder, config.compute.keep)


def resume(run: RunFolder, state: State) -> None:
    """Put the newest whole checkpoint, if any, into the state, and log that."""
    found = checkpoint.newest(run.path / "checkpoints")
    if found is None:
        return
    tensors, metadata, warnings = found
    checkpoint.restore(tensors, state.net, state.ema, state.optimizer)
    state.step, state.images = metadata["step"], metadata["images"]
    run.log("resume", images=state.images, warnings=warnings)


def has_snapshot(run: RunFolder, point: int) -> bool:
    return run.file("snapshots", point, "safetensors").is_file()


def snapshot(run: RunFolder, config: RunConfig, state: State) -> None:
    """Averaged weights with what they are a network of and the process it was trained with."""
    spec = state.ema.spec.to_dict()  # type: ignore[union-attr, operator]
    path = run.file("snapshots", state.images, "safetensors")
    process = dataclasses.asdict(config.diffusion)
    checkpoint.save(path, state.ema.state_dict(), spec=spec, images=state.images, diffusion=process)
