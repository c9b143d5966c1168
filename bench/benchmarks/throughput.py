"""Images a second of training, forward passes and sampling: python -m bench.throughput

Each network is timed as a run computes it and, with --baseline eager, as the published loops do: no compile,
float32 (TF32 in training on a GPU), the loss read at each step.  Both are in this process and take turns, so that
their ratio holds where the machine drifts.  Tables go to results/benchmark-{train,infer}-PRECISION-DEVICE.csv.
"""

from __future__ import annotations

import argparse
import csv
import gc
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.benchmarks import loading, workloads
from bench.config.naming import dataset_title
from bench.config.schema import DataConfig, RunConfig
from bench.costs import counting, timing
from bench.data import sources
from bench.experiments import presets, resolve
from bench.storage.atomic import atomic_write
from bench.terminal.cli import parse_assignments
from bench.training import execution, hardware, micro_batching
from bench.training.trainer import loader_workers

MODES = ("train", "forward", "sample", "loader")
SUITES: dict[str, tuple[str, ...]] = {
    "small": ("dit:nano/2", "uvit:nano/2", "unet:nano"),
    "h100": (
        "dit:S/2",
        "dit:B/2",
        "dit:L/2",
        "dit:XL/2",
        "uvit:L/2",
        "uvit:H/2",
        "unet:ADM-64@imagenet256-latents",
        "unet:LDM-8@imagenet256-latents",
    ),
}
"""ADM-64 is ADM's network for its smallest images, here at 32x32 latents of 256 pixels."""
COLUMNS = (
    "model",
    "mode",
    "way",
    "images_per_second",
    "relative",
    "latency_ms",
    "spread",
    "mfu",
    "tflops",
    "batch",
    "micro_batch",
    "steps",
    "difference",
    "compile_seconds",
    "peak_memory_gib",
    "params_millions",
    "gmacs",
    "img_size",
    "precision",
    "compile",
    "peak_tflops",
    "peak_source",
    "device",
    "torch",
    "note",
)
"""results/README.md says what each is."""
ROW_KEY = ("model", "mode", "way", "precision", "compile", "batch", "steps", "device")
"""What two rows share of which the later replaces the earlier."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class BenchmarkSession:
    """What all rows share."""

    device: torch.device
    name: str
    peak: float
    source: str
    rounds: int
    seconds: float
    baseline: bool

    def row(self, label: str, mode: str, way: str, config: RunConfig, **more: Any) -> Row:
        """A row, its network counted; `flops` are those of one image."""
        io, price = presets.network_io(config), counting.cost_of_config(config, presets.network_io(config))
        chosen = (execution.training_execution if mode == "train" else execution.sampling_execution)(
            config, self.device
        )
        rate, flops = more.get("images_per_second"), more.pop("flops", 0)
        speed = {"tflops": rate * flops / 1e12, "mfu": hardware.mfu(rate, flops, self.peak)} if rate else {}
        return {
            "model": label,
            "mode": mode,
            "way": way,
            "img_size": io.size,
            "params_millions": price.params / 1e6,
            "gmacs": price.macs / 1e9,
            "precision": chosen.precision,
            "compile": chosen.compile,
            "peak_tflops": self.peak,
            "peak_source": self.source,
            "device": self.name,
            "torch": torch.__version__,
            **more,
            **speed,
        }


def open_session(device: torch.device, flags: argparse.Namespace) -> BenchmarkSession:
    """The device, and its dense peak: bf16 from the table, or measured, on a CPU in float32."""
    name = hardware.accelerator_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    peak, source = hardware.known_peak(name), "bf16, table"
    if peak is None:
        kind = "bf16" if device.type == "cuda" else "fp32"
        peak, source = hardware.measure_peak(device, kind), f"{kind}, measured"
    return BenchmarkSession(
        device=device,
        name=name,
        peak=peak,
        source=source,
        rounds=flags.rounds,
        seconds=flags.seconds,
        baseline=flags.baseline == "eager",
    )


def timed(made: dict[str, workloads.NetworkWorkload], session: BenchmarkSession) -> dict[str, dict[str, Any]]:
    """Rate, latency and spread of works that take turns, in windows of about so many seconds."""
    calls = {name: window(work.call, session) for name, work in made.items()}
    seconds = timing.time_alternately({name: call for name, (call, _) in calls.items()}, session.rounds)
    found = {}
    for name, work in made.items():
        each = [s / calls[name][1] for s in seconds[name]]
        found[name] = {
            "images_per_second": work.images / median(each),
            "latency_ms": 1e3 * median(each),
            "spread": (max(each) - min(each)) / median(each),
            "relative": 1
            / timing.median_ratio({k: [s / calls[k][1] for s in v] for k, v in seconds.items()}, name, "eager")
            if "eager" in made
            else None,
            "compile_seconds": work.compile_seconds,
            "peak_memory_gib": work.peak_bytes / 2**30 if work.peak_bytes is not None else None,
            "micro_batch": work.micro_batch(),
            "batch": work.images,
        }
    return found


def window(call: workloads.Call, session: BenchmarkSession) -> tuple[workloads.Call, int]:
    """(so many calls that fill a window, how many); the device is waited for at its end only."""
    began = time.perf_counter()
    call()
    workloads.synchronize(session.device)
    count = max(1, math.ceil(session.seconds / max(1e-9, time.perf_counter() - began)))

    def calls() -> None:
        for _ in range(count):
            call()
        workloads.synchronize(session.device)

    return calls, count


Sampler = Callable[[int], torch.Tensor]
Makers = dict[str, Callable[[], tuple[workloads.Call, Callable[[], int]]]]


def compare_implementations(
    label: str, mode: str, config: RunConfig, batch: int, flops: int, makers: Makers, s: BenchmarkSession
) -> list[Row]:
    """Rows of one network, one a way; one that does not fit into memory says so."""
    configs = {"ours": config, "eager": workloads.eager_baseline(config, s.device)}
    made, rows = {}, []
    for way, maker in makers.items():
        before = workloads.allocated(s.device)
        try:
            made[way] = workloads.ready(maker(), batch, s.device, before)
        except (torch.OutOfMemoryError, micro_batching.MicroBatchTooLarge) as error:
            why = str(error).splitlines()[0]
            rows.append(s.row(label, mode, way, configs[way], batch=batch, note=f"out of memory: {why}"))
    found = timed(made, s) if made else {}
    return [s.row(label, mode, way, configs[way], flops=flops, **found[way]) for way in found] + rows


def implementations(session: BenchmarkSession, ours: Any, eager: Any) -> Makers:
    return {"ours": ours, "eager": eager} if session.baseline else {"ours": ours}


def train_rows(label: str, config: RunConfig, flags: argparse.Namespace, s: BenchmarkSession) -> list[Row]:
    flops = counting.cost_of_config(config, presets.network_io(config)).training_flops
    makers = implementations(
        s,
        lambda: workloads.training_workload(config, s.device),
        lambda: workloads.published_training_workload(config, s.device),
    )
    return compare_implementations(label, "train", config, config.recipe.batch, flops, makers, s)


def forward_rows(label: str, config: RunConfig, flags: argparse.Namespace, s: BenchmarkSession) -> list[Row]:
    flops, batch, plain = (
        counting.cost_of_config(config, presets.network_io(config)).flops,
        flags.batch,
        workloads.eager_baseline(config, s.device),
    )
    makers = implementations(
        s,
        lambda: workloads.forward_workload(config, s.device, batch),
        lambda: workloads.forward_workload(plain, s.device, batch),
    )
    return compare_implementations(label, "forward", config, batch, flops, makers, s)


def sample_rows(label: str, config: RunConfig, flags: argparse.Namespace, s: BenchmarkSession) -> list[Row]:
    """Whole guided sampling for each number of steps, in turns, after two steps to warm up."""
    configs = {"ours": config, "eager": workloads.eager_baseline(config, s.device)}
    io, rows = presets.network_io(config), []
    flops = counting.cost_of_config(config, io).flops * (2 if io.num_classes else 1)
    try:
        samplers = {
            w: workloads.sampling_workload(configs[w], s.device, flags.batch) for w in implementations(s, None, None)
        }
        first, again = ({way: clocked(sampler, 2, s)[1] for way, sampler in samplers.items()} for _ in range(2))
        for steps in flags.steps:
            for way, found in sampled(samplers, steps, s).items():
                more = {"batch": flags.batch, "steps": steps, "compile_seconds": max(0.0, first[way] - again[way])}
                found["images_per_second"] = flags.batch / found["latency_ms"] * 1e3
                rows.append(s.row(label, "sample", way, configs[way], flops=flops * steps, **found, **more))
    except torch.OutOfMemoryError as error:
        rows.append(s.row(label, "sample", "ours", config, batch=flags.batch, note=f"out of memory: {error}"))
    return rows


def sampled(samplers: dict[str, Sampler], steps: int, session: BenchmarkSession) -> dict[str, Row]:
    """Latency of samplers that take turns until the time of a row is over, once at least; how far images differ."""
    seconds: dict[str, list[float]] = {way: [] for way in samplers}
    images: dict[str, torch.Tensor] = {}
    began = time.perf_counter()
    while not images or time.perf_counter() - began < session.seconds * session.rounds:
        for way, sampler in samplers.items():
            images[way], spent = clocked(sampler, steps, session)
            seconds[way].append(spent)
    found: dict[str, Row] = {way: {"latency_ms": 1e3 * median(each)} for way, each in seconds.items()}
    if "eager" in samplers:
        for way in samplers:
            found[way]["relative"] = 1 / timing.median_ratio(seconds, way, "eager")
        found["ours"]["difference"] = workloads.max_difference(images["ours"], images["eager"])
    return found


def clocked(sampler: Sampler, steps: int, session: BenchmarkSession) -> tuple[torch.Tensor, float]:
    began = time.perf_counter()
    images = sampler(steps)
    workloads.synchronize(session.device)
    return images, time.perf_counter() - began


def loader_rows(flags: argparse.Namespace, config: RunConfig, fastest: float, s: BenchmarkSession) -> list[Row]:
    """Images a second of the loader alone, relative to what the fastest network trains on."""
    arrays, rows = sources.open_dataset(config.data), []
    for workers in flags.workers or [loader_workers(config, s.device)]:
        rate = loading.loader_throughput(config, arrays, s.seconds * s.rounds, workers)
        row = {
            "model": config.data.title,
            "mode": "loader",
            "way": f"{workers} workers",
            "images_per_second": rate,
            "batch": config.recipe.batch,
            "relative": rate / fastest if fastest else None,
            "device": s.name,
            "torch": torch.__version__,
            "note": "relative to the fastest network that was trained",
        }
        rows.append(row)
    return rows


ROW_MAKERS = {"train": train_rows, "forward": forward_rows, "sample": sample_rows}


def network_configs(flags: argparse.Namespace, device: torch.device) -> dict[str, RunConfig]:
    """The networks by the name they were asked for; ValueError for what is unknown."""
    settings = dict(parse_assignments(flags))
    if device.type == "cuda" and execution.has_bf16():
        settings.setdefault("evaluation.precision", "bf16")
    found = {}
    for word in flags.net or SUITES[flags.suite or ("h100" if device.type == "cuda" else "small")]:
        name, _, source = word.partition("@")
        label = f"{name}@{dataset_title(source)}" if source else name
        arch, _, size = name.partition(":")
        wish = presets.RunRequest(arch=arch, size=size, data=source, track=flags.track, settings=settings)
        found[label] = resolve.resolve(wish).config
    return found


def measure_rows(flags: argparse.Namespace, configs: dict[str, RunConfig], s: BenchmarkSession) -> Iterator[Row]:
    fastest = 0.0
    for label, config in configs.items():
        for mode in flags.mode:
            if mode not in ROW_MAKERS:
                continue
            print(f"{label}: {mode}", file=sys.stderr, flush=True)
            rows = ROW_MAKERS[mode](label, config, flags, s)
            fastest = max([fastest, *(r.get("images_per_second", 0) for r in rows if mode == "train")])
            yield from rows
            del rows
            release(s.device)
    if "loader" in flags.mode:
        first = next(iter(configs.values()))
        for source in flags.data or [first.data.name]:
            own = replace(first, data=sources.resolve_data(DataConfig(name=source, root=first.data.root)))
            yield from loader_rows(flags, own, fastest, s)


def release(device: torch.device) -> None:
    """Let go of a network's memory and compiled code."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """A table with every column, in full or not at all; rows of before stay, unless they were measured anew."""
    told = [{k: format_cell(v) for k, v in row.items()} for row in rows]
    new = {tuple(row.get(k, "") for k in ROW_KEY) for row in told}
    told = [row for row in read_csv(path) if tuple(row.get(k, "") for k in ROW_KEY) not in new] + told
    with atomic_write(path) as partial, partial.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(told)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none where there is none, or one of other columns."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        return list(table) if tuple(table.fieldnames or ()) == COLUMNS else []


def format_cell(value: Any) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def csv_files(rows: Sequence[Row], device: torch.device, out: Path) -> dict[Path, list[Row]]:
    """Which rows go into which table: training and the loader's, and forward passes and samples."""
    short, found = slug(hardware.accelerator_name(device)), {}
    for kind, modes in (("train", ("train", "loader")), ("infer", ("forward", "sample"))):
        own = [row for row in rows if row["mode"] in modes]
        precision = next((r["precision"] for r in own if r.get("way") == "ours"), "fp32")
        if own:
            found[out / f"benchmark-{kind}-{precision}-{short}.csv"] = own
    return found
