"""Build a run's record from its files."""

from __future__ import annotations

import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.cluster import code_snapshot
from bench.config.schema import RunConfig
from bench.records import failures
from bench.storage.run_folder import RunFolder

PRECISION_NAMES = {"fp32": "float32", "tf32": "tf32", "bf16": "bfloat16"}
RECORDED_PACKAGES = ("torch", "torchvision", "diffusers", "timm", "torch-fidelity", "numpy")


def publish_record(
    run: RunFolder, config: RunConfig, arrays: Any, weights_hash: str, evaluator: Callable[[], Any]
) -> None:
    """Write the run's record, its pictures, and the reference rows of its evaluation."""
    from bench.costs import counting, matching
    from bench.evaluation import feature_store, run_metrics
    from bench.experiments import presets
    from bench.records import protocol
    from bench.records import record as records
    from bench.reports import run_pictures
    from bench.storage import tensor_files

    io = presets.network_io(config)
    target = matching.target_cost(matching.parse_match(config.model.match), io) if config.model.match else None
    shared = {
        "evaluation": protocol.evaluation_protocol(
            config,
            extractor_hash=weights_hash,
            reference_hash=arrays.reference_hash(),
            reference_count=len(arrays.reference),
        )
    }
    native = presets.native_preset(config)
    whole = {**shared, "training": protocol.training_protocol(config, native=native, match_target=target)}
    curve = run_metrics.read_curve(run, config)
    last = run.snapshot_path(config.budget.images)
    tensors, _ = tensor_files.load_tensors(last)
    counted = counting.cost_of_config(config, io)
    made = make_record(
        label=config.model.label,
        kind="model",
        config=config.identity(),
        protocol=whole,
        processes=processes_of(run),
        precision=precision_of(run, config),
        metrics=curve[-1]["metrics"],
        cost={**counting.cost_summary(config, counted), **measured_cost(run, counted.training_flops)},
        curve=[{"images": p["images"], "metrics": {k: v["value"] for k, v in p["metrics"].items()}} for p in curve],
        losses=run_pictures.thinned(run),
        incidents=failures.list_incidents(run),
        checkpoint={
            "crc32": tensor_files.tensors_crc32(tensors),
            "images": config.budget.images,
            "weights": config.model.weights or "ema",
        },
    )
    images, labels = feature_store.FeatureStore(run.features_path(config.budget.images)).grid_images()
    run_pictures.grid(images, labels, run.path / "samples.png")
    if config.budget.images:
        run_pictures.curves({config.model.label: (run, made.curve)}, run.path / "curves.png")
    publish_references(run, config, arrays, shared, evaluator)
    run_pictures.grid(images, labels, records.sample_grid_path(run.results, made.id), per_class=5)
    records.publish_record(run.results, made)
    records.write_record(run.record_path, made)


def publish_references(
    run: RunFolder, config: RunConfig, arrays: Any, evaluation: dict[str, Any], evaluator: Callable[[], Any]
) -> None:
    """Publish the rows of held-out images and noise, unless their evaluation has them already."""
    from bench.evaluation import run_metrics
    from bench.records import record as records
    from bench.records.protocol import fingerprint
    from bench.reports import run_pictures

    have = {
        r.label
        for r in records.read_records(run.results)
        if r.kind == "reference" and r.fingerprint == fingerprint(evaluation)
    }
    if {"held-out", "noise"} <= have:
        return
    for label, (metrics, images) in run_metrics.measure_reference_rows(evaluator(), arrays, config).items():
        made = make_record(label=label, kind="reference", config={}, protocol=evaluation, metrics=metrics)
        records.publish_record(run.results, made)
        run_pictures.grid(images, None, run.cache / f"{label}.png")


def make_record(
    *,
    label: str,
    kind: Any,
    config: dict[str, Any],
    protocol: dict[str, Any],
    metrics: dict[str, Any],
    processes: int = 1,
    precision: str = "fp32",
    **more: Any,
) -> Any:
    """A validated record, with its id, fingerprints, date and environment."""
    from bench.records import record as records
    from bench.records.protocol import fingerprint

    whole = fingerprint(protocol)
    data = {
        "id": records.record_id(label, config, whole),
        "kind": kind,
        "label": label,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config,
        "protocol": protocol,
        "fingerprint": whole,
        "evaluation_fingerprint": fingerprint(protocol["evaluation"]),
        "metrics": metrics,
        "environment": describe_environment(processes, precision),
        **more,
    }
    return records.parse_record(data, label)


def measured_cost(run: RunFolder, flops: int) -> dict[str, Any]:
    """Measured cost from the log: every second of training counts, repeated ones too.

    `flops` are those of training on one image.  MFU is against the dense bf16 peak of the GPUs, where it is known.
    """
    from bench.training import hardware

    events, _ = run.events()
    training = [e for e in events if e["event"] == "train"]
    seconds = sum(e["seconds"] for e in training)
    hours = sum(e["seconds"] * e.get("processes", 1) for e in training) / 3600
    images = sum(e["rate"] * e["seconds"] for e in training)
    memory = [e["peak_memory_bytes"] for e in events if e["event"] == "memory"]
    device = next((e["device"] for e in reversed(events) if e["event"] == "compute"), "")
    peak = hardware.known_peak(device)
    return {
        "images_per_second": images / max(seconds, 1e-9) if training else None,
        "mfu": hardware.mfu(images / (3600 * hours), flops, peak) if peak and hours else None,
        "peak_memory_bytes": max(memory, default=0),
        "accelerator_hours": hours,
    }


def precision_of(run: RunFolder, config: RunConfig) -> str:
    """What a run was trained in, or, of published weights, sampled."""
    found = [e["precision"] for e in run.events()[0] if e["event"] == "compute"]
    return found[-1] if found else config.evaluation.precision


def processes_of(run: RunFolder) -> int:
    """How many processes trained a run, at most."""
    return max((e.get("processes", 1) for e in run.events()[0] if e["event"] == "train"), default=1)


def describe_environment(processes: int = 1, precision: str = "fp32") -> dict[str, Any]:
    """What the run ran on: versions, commit, device, processes; no host or user names."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        **code_snapshot.code_version(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in RECORDED_PACKAGES},
        "device": torch.cuda.get_device_name() if cuda else cpu_name(),
        "threads": torch.get_num_threads(),
        "world_size": processes,
        "precision": PRECISION_NAMES[precision],
    }


def package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.machine())
