"""Measure images per second of training, forward passes and sampling: python -m bench.throughput

Each network is timed with our execution settings and, with --baseline eager, also as in the published loops: without
torch.compile, in float32 (TF32 in training on a GPU), with loss.item() at each step.  Both implementations alternate
in one process, so that their ratio holds when the machine's speed drifts.  The tables are written to
results/benchmark-{train,infer}-PRECISION-DEVICE.csv.
"""

from __future__ import annotations

import argparse
import csv
import gc
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tabulate import tabulate

from bench.benchmarks import loading, workloads
from bench.config.naming import dataset_title
from bench.config.schema import DataConfig, RunConfig
from bench.costs import counting, timing
from bench.data import sources
from bench.experiments import presets, resolve
from bench.storage.atomic import atomic_write
from bench.terminal.cli import parse_assignments
from bench.training import execution, hardware, micro_batching
from bench.training.distributed import device_of
from bench.training.trainer import loader_workers

log = logging.getLogger(__name__)

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
"""ADM-64 is ADM's network for 64x64 pixels, here with 32x32 latents of 256x256 images."""
COLUMNS = (
    "model", "mode", "way", "images_per_second", "relative", "latency_ms", "spread", "mfu", "tflops", "batch",
    "micro_batch", "steps", "difference", "compile_seconds", "peak_memory_gib", "params_millions", "gmacs",
    "img_size", "precision", "compile", "peak_tflops", "peak_source", "device", "torch", "note",
)  # fmt: skip
"""Columns of the CSV; results/README.md explains them."""
ROW_KEY = ("model", "mode", "way", "precision", "compile", "batch", "steps", "device")
"""Key columns; a new row replaces an earlier row with the same key."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class BenchmarkSession:
    """Device and settings that all rows share."""

    device: torch.device
    name: str
    peak: float
    """Peak dense TFLOP/s of the device."""
    source: str
    """Precision and origin of `peak`: a table or a measurement."""
    rounds: int
    seconds: float
    """Seconds of one timing window; each workload has `rounds` windows."""
    baseline: bool
    """Whether the eager implementation is timed too."""

    def row(self, label: str, mode: str, impl: str, config: RunConfig, **more: Any) -> Row:
        """Make a row with counted cost, TFLOP/s and MFU; `flops` are those of one image."""
        io, cost = presets.network_io(config), counting.cost_of_config(config, presets.network_io(config))
        settings = (execution.training_execution if mode == "train" else execution.sampling_execution)(
            config, self.device
        )
        throughput, flops = more.get("images_per_second"), more.pop("flops", 0)
        speed = {}
        if throughput:
            mfu = hardware.mfu(throughput, flops, self.peak)
            speed = {"tflops": throughput * flops / 1e12, "mfu": mfu}
        return {
            "model": label,
            "mode": mode,
            "way": impl,
            "img_size": io.size,
            "params_millions": cost.params / 1e6,
            "gmacs": cost.macs / 1e9,
            "precision": settings.precision,
            "compile": settings.compile,
            "peak_tflops": self.peak,
            "peak_source": self.source,
            "device": self.name,
            "torch": torch.__version__,
            **more,
            **speed,
        }


def open_session(device: torch.device, flags: argparse.Namespace) -> BenchmarkSession:
    """Open a session on a device; its peak comes from the bf16 table, or is measured (in float32 on a CPU)."""
    name = hardware.accelerator_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    peak, source = hardware.known_peak(name), "bf16, table"
    if peak is None:
        precision = "bf16" if device.type == "cuda" else "fp32"
        peak, source = hardware.measure_peak(device, precision), f"{precision}, measured"
    return BenchmarkSession(
        device=device,
        name=name,
        peak=peak,
        source=source,
        rounds=flags.rounds,
        seconds=flags.seconds,
        baseline=flags.baseline == "eager",
    )


def time_workloads(
    prepared: dict[str, workloads.NetworkWorkload], session: BenchmarkSession
) -> dict[str, dict[str, Any]]:
    """Time workloads alternately, in windows of about session.seconds; return throughput, latency and spread."""
    calls = {name: repeat_for_window(work.call, session) for name, work in prepared.items()}
    seconds = timing.time_alternately({name: call for name, (call, _) in calls.items()}, session.rounds)
    results = {}
    per_call = {name: [s / calls[name][1] for s in times] for name, times in seconds.items()}
    for name, work in prepared.items():
        each = per_call[name]
        results[name] = {
            "images_per_second": work.images / median(each),
            "latency_ms": 1e3 * median(each),
            "spread": (max(each) - min(each)) / median(each),
            "relative": 1 / timing.median_ratio(per_call, name, "eager") if "eager" in prepared else None,
            "compile_seconds": work.compile_seconds,
            "peak_memory_gib": work.peak_bytes / 2**30 if work.peak_bytes is not None else None,
            "micro_batch": work.micro_batch(),
            "batch": work.images,
        }
    return results


def repeat_for_window(call: workloads.Call, session: BenchmarkSession) -> tuple[workloads.Call, int]:
    """Return (a function that repeats `call` for one window, the number of repetitions).

    The function waits for the device only at its end.
    """
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
    """Time one network in each implementation; return one row for each, with a note if it does not fit into memory."""
    configs = {"ours": config, "eager": workloads.eager_baseline(config, s.device)}
    prepared, rows = {}, []
    for impl, maker in makers.items():
        before = workloads.reset_peak_memory(s.device)
        try:
            prepared[impl] = workloads.warm_up(maker(), batch, s.device, before)
        except (torch.OutOfMemoryError, micro_batching.MicroBatchTooLarge) as error:
            why = str(error).splitlines()[0]
            rows.append(s.row(label, mode, impl, configs[impl], batch=batch, note=f"out of memory: {why}"))
    results = time_workloads(prepared, s) if prepared else {}
    return [s.row(label, mode, impl, configs[impl], flops=flops, **results[impl]) for impl in results] + rows


def implementations(session: BenchmarkSession, ours: Any, eager: Any) -> Makers:
    """Return ours, and the eager implementation if the session has a baseline."""
    return {"ours": ours, "eager": eager} if session.baseline else {"ours": ours}


def train_rows(label: str, config: RunConfig, flags: argparse.Namespace, s: BenchmarkSession) -> list[Row]:
    """Time train steps at the recipe's batch; return the rows."""
    flops = counting.cost_of_config(config, presets.network_io(config)).training_flops
    makers = implementations(
        s,
        lambda: workloads.training_workload(config, s.device),
        lambda: workloads.published_training_workload(config, s.device),
    )
    return compare_implementations(label, "train", config, config.recipe.batch, flops, makers, s)


def forward_rows(label: str, config: RunConfig, flags: argparse.Namespace, s: BenchmarkSession) -> list[Row]:
    """Time forward passes at --batch; return the rows."""
    flops, batch = counting.cost_of_config(config, presets.network_io(config)).flops, flags.batch
    baseline = workloads.eager_baseline(config, s.device)
    makers = implementations(
        s,
        lambda: workloads.forward_workload(config, s.device, batch),
        lambda: workloads.forward_workload(baseline, s.device, batch),
    )
    return compare_implementations(label, "forward", config, batch, flops, makers, s)


def sample_rows(label: str, config: RunConfig, flags: argparse.Namespace, s: BenchmarkSession) -> list[Row]:
    """Time guided sampling at each number of steps, the implementations alternating; return the rows.

    Two samplings of two steps are the warm-up.
    """
    configs = {"ours": config, "eager": workloads.eager_baseline(config, s.device)}
    io, rows = presets.network_io(config), []
    flops = counting.cost_of_config(config, io).flops * (2 if io.num_classes else 1)
    try:
        samplers = {
            w: workloads.sampling_workload(configs[w], s.device, flags.batch) for w in implementations(s, None, None)
        }
        first, again = ({impl: time_sampler(sampler, 2, s)[1] for impl, sampler in samplers.items()} for _ in range(2))
        for steps in flags.steps:
            for impl, result in time_samplers(samplers, steps, s).items():
                more = {
                    "batch": flags.batch,
                    "steps": steps,
                    "compile_seconds": max(0.0, first[impl] - again[impl]),
                }
                result["images_per_second"] = flags.batch / result["latency_ms"] * 1e3
                rows.append(s.row(label, "sample", impl, configs[impl], flops=flops * steps, **result, **more))
    except torch.OutOfMemoryError as error:
        rows.append(s.row(label, "sample", "ours", config, batch=flags.batch, note=f"out of memory: {error}"))
    return rows


def time_samplers(samplers: dict[str, Sampler], steps: int, session: BenchmarkSession) -> dict[str, Row]:
    """Time samplers alternately for session.rounds * session.seconds; return latency and difference of their images.

    Each sampler runs at least once.
    """
    seconds: dict[str, list[float]] = {impl: [] for impl in samplers}
    images: dict[str, torch.Tensor] = {}
    began = time.perf_counter()
    while not images or time.perf_counter() - began < session.seconds * session.rounds:
        for impl, sampler in samplers.items():
            images[impl], elapsed = time_sampler(sampler, steps, session)
            seconds[impl].append(elapsed)
    results: dict[str, Row] = {impl: {"latency_ms": 1e3 * median(each)} for impl, each in seconds.items()}
    if "eager" in samplers:
        for impl in samplers:
            results[impl]["relative"] = 1 / timing.median_ratio(seconds, impl, "eager")
        results["ours"]["difference"] = workloads.relative_rms_difference(images["ours"], images["eager"])
    return results


def time_sampler(sampler: Sampler, steps: int, session: BenchmarkSession) -> tuple[torch.Tensor, float]:
    """Sample once; return (images, seconds)."""
    began = time.perf_counter()
    images = sampler(steps)
    workloads.synchronize(session.device)
    return images, time.perf_counter() - began


def loader_rows(flags: argparse.Namespace, config: RunConfig, fastest: float, s: BenchmarkSession) -> list[Row]:
    """Time the loader alone; return rows relative to the fastest network in training."""
    dataset, rows = sources.open_dataset(config.data), []
    for workers in flags.workers or [loader_workers(config, s.device)]:
        throughput = loading.loader_throughput(config, dataset, s.seconds * s.rounds, workers)
        row = {
            "model": config.data.title,
            "mode": "loader",
            "way": f"{workers} workers",
            "images_per_second": throughput,
            "batch": config.recipe.batch,
            "relative": throughput / fastest if fastest else None,
            "device": s.name,
            "torch": torch.__version__,
            "note": "relative to the fastest network that was trained",
        }
        rows.append(row)
    return rows


ROW_MAKERS = {"train": train_rows, "forward": forward_rows, "sample": sample_rows}


def network_configs(flags: argparse.Namespace, device: torch.device) -> dict[str, RunConfig]:
    """Configs of the networks by the name on the command line; ValueError for an unknown name."""
    settings = dict(parse_assignments(flags))
    if device.type == "cuda" and execution.has_bf16():
        settings.setdefault("evaluation.precision", "bf16")
    configs = {}
    for word in flags.net or SUITES[flags.suite or ("h100" if device.type == "cuda" else "small")]:
        name, _, source = word.partition("@")
        label = f"{name}@{dataset_title(source)}" if source else name
        arch, _, size = name.partition(":")
        request = presets.RunRequest(arch=arch, size=size, data=source, track=flags.track, settings=settings)
        configs[label] = resolve.resolve(request).config
    return configs


def measure_rows(flags: argparse.Namespace, configs: dict[str, RunConfig], s: BenchmarkSession) -> Iterator[Row]:
    """Yield the rows of all networks and modes, then the loader's."""
    fastest = 0.0
    for label, config in configs.items():
        for mode in flags.mode:
            if mode not in ROW_MAKERS:
                continue
            log.info("%s: %s", label, mode)
            rows = ROW_MAKERS[mode](label, config, flags, s)
            fastest = max([fastest, *(r.get("images_per_second", 0) for r in rows if mode == "train")])
            yield from rows
            del rows
            release_memory(s.device)
    if "loader" in flags.mode:
        first = next(iter(configs.values()))
        for source in flags.data or [first.data.name]:
            config = replace(first, data=sources.resolve_data(DataConfig(name=source, root=first.data.root)))
            yield from loader_rows(flags, config, fastest, s)


def release_memory(device: torch.device) -> None:
    """Free a network's memory and compiled code."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write a table atomically; earlier rows stay unless they were measured again."""
    cells = [{k: format_cell(v) for k, v in row.items()} for row in rows]
    new = {tuple(row.get(k, "") for k in ROW_KEY) for row in cells}
    earlier = [row for row in read_csv(path) if tuple(row.get(k, "") for k in ROW_KEY) not in new]
    with atomic_write(path) as partial, partial.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(earlier + cells)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a table; none if the file is missing or has other columns."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        return list(table) if tuple(table.fieldnames or ()) == COLUMNS else []


def format_cell(value: Any) -> str:
    """Format floats with five significant digits and None as ""."""
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def slug(name: str) -> str:
    """Lower-case name with hyphens, for file names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def csv_files(rows: Sequence[Row], device: torch.device, out: Path) -> dict[Path, list[Row]]:
    """Group the rows by file: training and loader in one, forward passes and sampling in the other."""
    device_slug, files = slug(hardware.accelerator_name(device)), {}
    for kind, modes in (("train", ("train", "loader")), ("infer", ("forward", "sample"))):
        selected = [row for row in rows if row["mode"] in modes]
        precision = next((r["precision"] for r in selected if r.get("way") == "ours"), "fp32")
        if selected:
            files[out / f"benchmark-{kind}-{precision}-{device_slug}.csv"] = selected
    return files


def measure_and_write(flags: argparse.Namespace) -> str:
    """Measure all rows and write the CSV files after each; return the table, the device and the paths as text."""
    device = device_of(RunConfig())
    flags.out.mkdir(parents=True, exist_ok=True)
    flags.batch = flags.batch or (64 if device.type == "cuda" else 16)
    configs = network_configs(flags, device)
    rows: list[Row] = []
    session = open_session(device, flags)
    for row in measure_rows(flags, configs, session):
        rows.append(row)
        for path, file_rows in csv_files(rows, device, flags.out).items():
            write_csv(path, file_rows)
    narrow = [{k: format_cell(row.get(k)) for k in COLUMNS[:13]} for row in rows]
    peak = f"{session.name}, peak {session.peak:.4g} TFLOP/s ({session.source}), torch {torch.__version__}"
    paths = map(str, csv_files(rows, device, flags.out))
    return "\n".join([tabulate(narrow, headers="keys", disable_numparse=True), peak, *paths])
