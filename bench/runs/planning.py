"""The plan of some runs: what will be trained, what it costs, and about how long it takes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
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
from bench.experiments import presets
from bench.experiments.resolve import check_decoder
from bench.terminal.formatting import format_bytes, format_count, format_duration
from bench.training.trainer import device_of, new_training_state, train_step

MAX_PROBE_MACS = 200_000_000
"""Networks up to this cost are timed on the CPU; larger ones are priced at compute.tflops."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """One run with its price."""

    config: RunConfig
    io: IOSpec
    cost: counting.NetworkCost
    activation_bytes: int
    """Saved for the backward pass of one image."""
    seconds: float
    """Estimated: training, sampling and no evaluation."""
    source: str
    """Where the estimate comes from."""
    error: float
    """Relative difference of a matched cost to its reference's."""


def make_plans(configs: list[RunConfig], parallel: int, here: bool = True) -> list[RunPlan]:
    """Plan each run; CPU runs on this machine are given their share of the cores."""
    cores = os.cpu_count() or 1
    share = max(1, cores // max(1, min(parallel, len(configs))))
    plans = []
    for config in configs:
        if here and not config.compute.threads:
            config = replace(config, compute=replace(config.compute, threads=share))
        io = presets.network_io(config)
        price = counting.cost_of_config(config, io)
        model = config.model
        saved = counting.activation_bytes(model.arch, model.size or None, io, model.network)
        seconds, source = estimate_seconds(config, io, price, here)
        error = cost_mismatch(config, io, price)
        plans.append(
            RunPlan(
                config=config,
                io=io,
                cost=price,
                activation_bytes=saved,
                seconds=seconds,
                source=source,
                error=error,
            )
        )
    return plans


def cost_mismatch(config: RunConfig, io: IOSpec, price: counting.NetworkCost) -> float:
    """Relative difference to the cost of the reference; 0 for a run that is not matched."""
    if not config.model.match:
        return 0.0
    wanted = matching.parse_match(config.model.match)
    return price.by(wanted.by) / matching.target_cost(wanted, io) - 1


def estimate_seconds(
    config: RunConfig, io: IOSpec, price: counting.NetworkCost, here: bool = True
) -> tuple[float, str]:
    """(seconds, where from): a short probe on this CPU, if it is `here`, or FLOPs at the stated throughput."""
    e = config.evaluation
    passes = e.samples * e.steps * (1 if e.guidance == 1 else 2) * config.budget.points
    on_cpu = here and config.compute.device != "cuda" and not torch.cuda.is_available()
    if on_cpu and price.macs <= MAX_PROBE_MACS:
        per_image = time_training_step(config, io)
        return per_image * (config.budget.images + passes / 3), "timed here"
    flops = price.training_flops * config.budget.images + price.flops * passes
    return flops / (config.compute.tflops * 1e12), f"at {config.compute.tflops:g} TFLOP/s"


def time_training_step(config: RunConfig, io: IOSpec) -> float:
    """Seconds of training an image, from the fastest of three steps on noise."""
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
    """The plan as people read it."""
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
    """Seconds for all runs, `parallel` at a time; each core of this machine busy, if it is `here`."""
    at_once = max(1, min(parallel, len(plans), (os.cpu_count() or 1) if here else parallel))
    return max(sum(p.seconds for p in plans) / at_once, max(p.seconds for p in plans))


def check_prerequisites(configs: list[RunConfig], here: bool = True) -> None:
    """Everything that must be there before work starts (a device, if it is `here`); ValueError says what is missing."""
    for c in configs:
        arrays = sources.open_dataset(c.data, trained=not c.model.weights)
        what = sources.open_source(c.data.name, c.data.root)
        if what.latent:
            check_decoder(c, what, arrays.reference.shape[-1])
        if here:
            device_of(c)
        extractor_registry.check_extractor(c.evaluation.extractor, c.evaluation.weights)
        image_io.ArrayImages(arrays.reference, "the reference")
        if c.evaluation.guidance != 1 and not what.num_classes:
            raise ValueError(f"{c.data.name} has no classes: set evaluation.guidance=1")
        if c.evaluation.guidance != 1 and c.recipe.label_drop == 0 and not c.model.weights:
            raise ValueError(
                "guidance needs a null class that was trained: set recipe.label_drop or evaluation.guidance=1"
            )


def prepare_extractors(configs: list[RunConfig], results: Path) -> None:
    """Make what extractors need once, before several jobs would."""
    for name, given in {(c.evaluation.extractor, c.evaluation.weights) for c in configs}:
        extractor_registry.prepare_weights(name, given, results / "cache")
