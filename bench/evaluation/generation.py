"""Sampling: averaged weights of every evaluation point -> images -> features, batch by batch.

Images go straight from the sampler through the extractor into a feature store (bench/evaluation/feature_store.py); they
stay on disk only where compute.export asks.  Batches are kept as they are made and lie on a fixed grid,
so that a killed run goes on where it stopped, and ends with the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

import architectures
from bench.config.schema import RunConfig
from bench.data.autoencoder import make_decoder, to_uint8
from bench.diffusion import samplers
from bench.evaluation.evaluator import EvaluationContext
from bench.evaluation.export import export_target
from bench.evaluation.extractors import extractor_registry
from bench.evaluation.feature_extraction import extract_in_batches
from bench.evaluation.feature_store import FeatureStoreWriter
from bench.storage import tensor_files
from bench.storage.run_folder import RunFolder
from bench.storage.shards import ShardedOutput, balanced_labels, missing_batches
from bench.storage.stage_results import GenerationResult, write_result
from bench.training import execution
from bench.training.distributed import StopRequested, World
from bench.training.hardware import accelerator_name
from bench.training.run_context import RunContext


def load_snapshot(path: Path, device: torch.device) -> nn.Module:
    """The network of a snapshot, built from the spec inside the file."""
    tensors, metadata = tensor_files.load_tensors(path)
    spec = architectures.NetSpec.from_dict(metadata["spec"])
    net = architectures.build(spec.arch, io=spec.io, args=dict(spec.args))
    net.load_state_dict(tensors)
    return net.to(device).eval().requires_grad_(False)


@torch.inference_mode()
def sample_images(
    net: nn.Module, config: RunConfig, latent: bool, device: torch.device, batches: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(indices, images (B, H, W, C) uint8) of each batch of image numbers."""
    io: architectures.IOSpec = net.spec.io  # type: ignore[union-attr, assignment]
    decode = make_decoder(latent, config.evaluation.decoder, device, config.evaluation.decoder_hash)
    made = samplers.guide_from_config(execution.sampling_execution(config, device).sampler(net), config, io.num_classes)
    for own in batches:
        labels = balanced_labels(own, io.num_classes)
        cond = None if labels is None else torch.from_numpy(labels).to(device)
        x = samplers.sample_images(made, config, (io.channels, io.size, io.size), own.tolist(), cond, device)
        yield own, to_uint8(decode(x)).transpose(0, 2, 3, 1)


def make_missing_images(
    context: RunContext,
    net: Callable[[], nn.Module],
    targets: Mapping[ShardedOutput, np.ndarray],
    report: Callable[[int, int], Any],
) -> None:
    """Make what one evaluation point's targets lack, or this process's part of it.

    `targets` tells which images (N,) bool each has.  `report` is told after each batch how many images
    this call has made and how many there were before it, and may raise to stop.
    """
    config, world = context.config, context.world
    have = np.logical_and.reduce(list(targets.values()))
    before, made = int(have.sum()), 0
    todo = missing_batches(have, config.evaluation.batch, world.rank, world.size)
    for own, images in sample_images(net(), config, context.source.latent, context.device, todo) if todo else ():
        for target, kept in targets.items():
            if not kept[own].all():
                target.add(own, images)
        made += len(own)
        report(made, before)


def generate(context: EvaluationContext) -> GenerationResult:
    """Sample from the snapshot of every evaluation point whose features, or exported images, are not there yet.

    After each batch a process may be stopped, which all processes then are.  Each makes every
    world.size-th batch, so that networks see the same batches whatever the number of processes; process 0
    puts them together, and writes generate.json.
    """
    run, config, world = context.run, context.config, context.world
    points = config.budget.evaluation_points
    peak = context.log_peak_memory() if world.first else 0
    targets = target_factory(context)
    for done, point in enumerate(points):
        there = missing_images(run, targets(point), world)
        net = partial(load_snapshot, run.snapshot_path(point), context.device)
        stopped = False
        if there:
            try:
                make_missing_images(context, net, there, progress_reporter(context, done))
            except StopRequested:
                stopped = True
        if world.agree(stopped)[0]:
            raise StopRequested
        if world.first:
            for target in targets(point):
                target.finish()
        world.barrier()
    result = GenerationResult(
        images=len(points) * config.evaluation.samples,
        device=accelerator_name(context.device),
        precision=config.evaluation.precision,
        processes=world.size,
        peak_memory_bytes=peak,
    )
    if world.first:
        context.check_lease()
        write_result(run, result)
    return result


def missing_images(run: RunFolder, targets: list[ShardedOutput], world: World) -> dict[ShardedOutput, np.ndarray]:
    """Which images (N,) bool each unfinished target has, as process 0 sees it.

    A file that cannot be read is logged, and its images are made again.
    """

    def seen() -> list[np.ndarray | None]:
        return [None if target.done else scan_target(run, target) for target in targets]

    return {target: there for target, there in zip(targets, world.of_first(seen), strict=True) if there is not None}


def scan_target(run: RunFolder, target: ShardedOutput) -> np.ndarray:
    there = target.shards.scan()
    for name in target.shards.damaged:
        run.log("damaged", file=f"{target.shards.folder.parent.name}/{target.shards.folder.name}/{name}")
    return there


def progress_reporter(context: RunContext, done: int) -> Callable[[int, int], None]:
    """What logs the images of all processes, taken to be equally fast, once `done` points are done, and checks."""
    run, world, samples = context.run, context.world, context.config.evaluation.samples
    points, began = context.config.budget.points, time.monotonic()

    def report(made: int, before: int) -> None:
        made = min(made * world.size, samples - before)
        if world.first:
            rate = made / max(1e-9, time.monotonic() - began)
            run.log("sample", images=done * samples + before + made, of=points * samples, rate=rate)
        context.raise_if_any_stopped()

    return report


def target_factory(context: EvaluationContext) -> Callable[[int], list[ShardedOutput]]:
    """What an evaluation point's images are made into: features, and files where they are to be exported."""
    run, config, extractor = context.run, context.config, context.extractor
    e, classes = config.evaluation, context.io.num_classes
    purposes = extractor_registry.EXTRACTORS[extractor.name].layers

    @cache
    def network() -> FeatureExtractorBase:
        return extractor_registry.build_network(
            extractor.name, extractor.path, purposes.values(), context.device.type == "cuda"
        )

    def extract(numbers: np.ndarray, images_BHWC: np.ndarray) -> dict[str, np.ndarray]:
        return extract_in_batches(network(), numbers, images_BHWC.transpose(0, 3, 1, 2))

    def targets(point: int) -> list[ShardedOutput]:
        features = FeatureStoreWriter(
            run.features_path(point), e.samples, classes, extractor.provenance, purposes, extract
        )
        exports = [run.export_path(point, config.compute.export)] if config.compute.export != "none" else []
        return [features, *(export_target(path, e.samples, classes) for path in exports)]

    return targets
