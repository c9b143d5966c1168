"""Build a run's record from its files."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cluster import code_snapshot
from bench.records import failures

if TYPE_CHECKING:
    from bench.evaluation.evaluator import EvaluationContext
    from bench.evaluation.run_metrics import EvaluationResult
    from bench.records.protocol import Protocol, TrainingProtocol
    from bench.storage.stage_results import GenerationResult, TrainingResult
    from bench.training.run_context import RunContext

PRECISION_NAMES = {"fp32": "float32", "tf32": "tf32", "bf16": "bfloat16"}
RECORDED_PACKAGES = ("torch", "torchvision", "diffusers", "timm", "torch-fidelity", "numpy")


def write_run_record(
    context: EvaluationContext,
    training: TrainingResult | None,
    generation: GenerationResult,
    evaluation: EvaluationResult,
) -> None:
    """Write a run's record from the results of its stages, its pictures, and the reference rows.

    `training` is None for published weights.
    """
    from bench.evaluation import feature_store
    from bench.records import record as records
    from bench.reports import run_pictures

    run, config = context.run, context.config
    evaluation_protocol = make_evaluation_protocol(context)
    record = make_record(
        label=config.model.label,
        kind="model",
        config=config.identity(),
        protocol={**evaluation_protocol, "training": make_training_protocol(context)},
        processes=training.processes if training else 1,
        precision=training.precision if training and training.precision else generation.precision,
        metrics=evaluation.metrics,
        cost=make_cost(context, training, generation),
        curve=evaluation.curve,
        losses=run_pictures.thin_losses(run),
        incidents=failures.list_incidents(run),
        checkpoint=describe_checkpoint(context),
    )
    images, labels = feature_store.FeatureStore(run.features_path(config.budget.images)).grid_images()
    run_pictures.save_sample_grid(images, labels, run.path / "samples.png")
    if config.budget.images:
        run_pictures.save_curves({config.model.label: (run, record.curve)}, run.path / "curves.png")
    publish_references(context, evaluation_protocol)
    run_pictures.save_sample_grid(images, labels, records.sample_grid_path(run.results, record.id), per_class=5)
    records.publish_record(run.results, record)
    records.write_record(run.record_path, record)


def make_evaluation_protocol(context: EvaluationContext) -> Protocol:
    """The evaluation half of a run's protocol."""
    from bench.records import protocol

    dataset = context.dataset
    return {
        "evaluation": protocol.evaluation_protocol(
            context.config,
            extractor_hash=context.extractor.sha256,
            reference_hash=dataset.reference_hash(),
            reference_count=len(dataset.reference),
        )
    }


def make_training_protocol(context: RunContext) -> TrainingProtocol:
    """The training half of a run's protocol."""
    from bench.costs import matching
    from bench.experiments import presets
    from bench.records import protocol

    config, match = context.config, context.config.model.match
    target = matching.target_cost(matching.parse_match(match), context.io) if match else None
    return protocol.training_protocol(config, native=presets.native_preset(config), match_target=target)


def describe_checkpoint(context: RunContext) -> dict[str, Any]:
    """CRC-32 of the weights that were evaluated last, and at how many images they were saved."""
    from bench.storage import tensor_files

    images = context.config.budget.images
    tensors, _ = tensor_files.load_tensors(context.run.snapshot_path(images))
    return {
        "crc32": tensor_files.tensors_crc32(tensors),
        "images": images,
        "weights": context.config.model.weights or "ema",
    }


def publish_references(context: EvaluationContext, evaluation_protocol: Protocol) -> None:
    """Publish the rows of held-out images and noise, unless the ledger has them for this evaluation."""
    from bench.evaluation import run_metrics
    from bench.records import record as records
    from bench.records.protocol import fingerprint
    from bench.reports import run_pictures

    run = context.run
    published = {
        r.label
        for r in records.read_records(run.results)
        if r.kind == "reference" and r.fingerprint == fingerprint(evaluation_protocol)
    }
    if {"held-out", "noise"} <= published:
        return
    for label, (metrics, images) in run_metrics.measure_reference_rows(context).items():
        record = make_record(label=label, kind="reference", config={}, protocol=evaluation_protocol, metrics=metrics)
        records.publish_record(run.results, record)
        run_pictures.save_sample_grid(images, None, run.cache / f"{label}.png")


def make_record(
    *,
    label: str,
    kind: Any,
    config: Mapping[str, Any],
    protocol: Mapping[str, Any],
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


def make_cost(context: RunContext, training: TrainingResult | None, generation: GenerationResult) -> dict[str, Any]:
    """Counted and measured cost of a run."""
    from bench.costs import counting

    counted = counting.cost_of_config(context.config, context.io)
    if training:
        measured = measured_cost(training, counted.training_flops)
    else:
        measured = {"images_per_second": None, "mfu": None, "accelerator_hours": 0.0}
        measured["peak_memory_bytes"] = generation.peak_memory_bytes
    return {**counting.cost_summary(context.config, counted), **measured}


def measured_cost(training: TrainingResult, flops: int) -> dict[str, Any]:
    """Measured cost of training: every second of it counts, repeated ones too.

    `flops` are those of training on one image.  MFU is against the dense bf16 peak of the GPUs, where it is known.
    """
    from bench.training import hardware

    hours, peak = training.accelerator_seconds / 3600, hardware.known_peak(training.device)
    return {
        "images_per_second": training.images_per_second,
        "mfu": hardware.mfu(training.images_processed / (3600 * hours), flops, peak) if peak and hours else None,
        "peak_memory_bytes": training.peak_memory_bytes,
        "accelerator_hours": hours,
    }


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
