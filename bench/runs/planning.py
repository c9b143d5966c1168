"""Plan runs: check that their files are there, count their cost, and estimate how long they take."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tabulate import tabulate

from architectures import IOSpec
from bench.config.schema import RunConfig
from bench.costs import counting, matching
from bench.data import sources
from bench.diffusion.gaussian_diffusion import make_diffusion
from bench.evaluation import image_io
from bench.evaluation.extractors import extractor_registry
from bench.experiments.resolve import ResolvedConfig, check_decoder
from bench.terminal.formatting import format_bytes, format_count, format_duration
from bench.training.trainer import device_of, new_training_state, train_step

MAX_PROBE_MACS = 200_000_000
"""Networks up to this cost are timed on the CPU; the time of larger ones follows from compute.tflops."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """One run with its counted and estimated cost."""

    config: RunConfig
    cost: counting.NetworkCost
    activation_bytes: int
    """Activations that the backward pass of one image needs."""
    seconds: float
    """Estimated, of training and sampling."""
    source: str
    """Source of the estimate, as the table names it."""
    error: float
    """Relative difference of a matched cost to the reference's."""


def make_plans(configs: Iterable[ResolvedConfig], here: bool = True) -> list[RunPlan]:
    """Count and estimate the cost of each run; `here` is whether it will run on this machine."""
    plans = []
    for resolved in configs:
        config, io = resolved.config, resolved.io
        cost, model = counting.cost_of_config(config, io), config.model
        seconds, source = estimate_seconds(config, io, cost, here)
        plans.append(
            RunPlan(
                config=config,
                cost=cost,
                activation_bytes=counting.activation_bytes(model.arch, model.size or None, io, model.network),
                seconds=seconds,
                source=source,
                error=cost_mismatch(config, io, cost),
            )
        )
    return plans


def cost_mismatch(config: RunConfig, io: IOSpec, cost: counting.NetworkCost) -> float:
    """Return the relative difference to the cost of the matched reference; 0 for a run that is not matched."""
    if not config.model.match:
        return 0.0
    match = matching.parse_match(config.model.match)
    return cost.by(match.by) / matching.target_cost(match, io) - 1


def estimate_seconds(config: RunConfig, io: IOSpec, cost: counting.NetworkCost, here: bool = True) -> tuple[float, str]:
    """Return (seconds, source): from a few steps on this CPU, or from FLOPs at compute.tflops.

    Training and sampling count; a forward pass is taken as a third of a training step.
    """
    e = config.evaluation
    passes = e.samples * e.steps * (1 if e.guidance == 1 else 2) * config.budget.points
    on_cpu = here and config.compute.device != "cuda" and not torch.cuda.is_available()
    if on_cpu and cost.macs <= MAX_PROBE_MACS:
        per_image = time_training_step(config, io)
        return per_image * (config.budget.images + passes / 3), "timed here"
    flops = cost.training_flops * config.budget.images + cost.flops * passes
    return flops / (config.compute.tflops * 1e12), f"at {config.compute.tflops:g} TFLOP/s"


def time_training_step(config: RunConfig, io: IOSpec) -> float:
    """Time training on this device: seconds an image, of the fastest of three steps on noise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.compute.threads or threads)
    try:
        device = device_of(config)
        state = new_training_state(config, io, device)
        diffusion = make_diffusion(config.diffusion, device)
        size = min(config.recipe.batch, 64)
        x = torch.randn(size, io.channels, io.size, io.size)
        batch = (x, torch.zeros(size, dtype=torch.long), x, torch.zeros(size, dtype=torch.long))
        times = []
        for _ in range(4):
            began = time.perf_counter()
            train_step(state, config, diffusion, batch)
            times.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return min(times[1:]) / size


def plan_table(plans: list[RunPlan]) -> str:
    """Format the plans as a table."""
    rows = []
    for p in plans:
        c, model = p.config, p.config.model
        trained = bool(c.budget.images)
        memory = p.cost.params * (counting.BYTES_PER_PARAMETER if trained else 4)
        rows.append(
            {
                "run": c.name,
                "network": " ".join(f"{k}={v}" for k, v in model.network.items() if v is not None) or model.size,
                "params": format_count(p.cost.params),
                "MACs": format_count(p.cost.macs) + (f" ({p.error:+.1%})" if model.match else ""),
                "training FLOPs": f"{p.cost.training_flops * c.budget.images:.2e}" if trained else "",
                "images": f"{c.budget.images:,}" if trained else "",
                "weights + optimiser": format_bytes(memory),
                "batch": c.recipe.batch if trained else "",
                "activations a batch": format_bytes(p.activation_bytes * c.recipe.batch) if trained else "",
                "time": f"{format_duration(p.seconds)} {p.source}",
            }
        )
    return tabulate(rows, headers="keys", maxcolwidths=[None, 46, *[None] * 8])


def total_seconds(plans: list[RunPlan], parallel: int, here: bool = True) -> float:
    """Estimate the seconds of all runs, `parallel` at a time; on this machine at most one a core."""
    at_once = max(1, min(parallel, len(plans), (os.cpu_count() or 1) if here else parallel))
    return max(sum(p.seconds for p in plans) / at_once, max(p.seconds for p in plans))


def check_prerequisites(configs: Iterable[ResolvedConfig], here: bool = True) -> None:
    """Raise ValueError where data, decoder, extractor weights or, for runs `here`, the device are missing."""
    for resolved in configs:
        config, source = resolved.config, resolved.source
        data = sources.open_dataset(config.data, source, trained=not config.model.weights)
        if source.latent:
            check_decoder(resolved, data.reference.shape[-1])
        if here:
            device_of(config)
        extractor_registry.check_extractor(config.evaluation.extractor, config.evaluation.weights)
        image_io.ArrayImages(data.reference, "the reference")
        check_guidance(config, source.num_classes)


def check_guidance(config: RunConfig, num_classes: int) -> None:
    """Raise ValueError for guidance without classes or without a trained null class."""
    if config.evaluation.guidance == 1:
        return
    if not num_classes:
        raise ValueError(f"{config.data.name} has no classes: set evaluation.guidance=1")
    if config.recipe.label_drop == 0 and not config.model.weights:
        raise ValueError("guidance needs a null class that was trained: set recipe.label_drop or evaluation.guidance=1")


def prepare_extractors(configs: Iterable[ResolvedConfig], results: Path) -> None:
    """Find or train the extractors' weights once, before several jobs would do it at the same time."""
    for name, weights in {(c.config.evaluation.extractor, c.config.evaluation.weights) for c in configs}:
        extractor_registry.prepare_weights(name, weights, results / "cache")
