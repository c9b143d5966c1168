"""Generate samples with the EMA weights of each evaluation point, and store their features.

Each batch goes from the sampler through the extractor into a feature store (feature_store.py).  The images are only
stored if compute.export says so.  Batches form a fixed grid and are stored one by one, so a run that was killed
resumes after the last batch and ends with the same bytes.

N images of an evaluation point, B images of a batch, C channels, H height, W width.
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
from bench.evaluation.extractors import extractor_registry
from bench.evaluation.feature_extraction import extract_in_batches
from bench.evaluation.feature_store import FeatureStoreWriter
from bench.evaluation.image_io import export_target
from bench.storage import tensor_files
from bench.storage.run_folder import RunFolder
from bench.storage.shards import ShardedOutput, balanced_labels, missing_batches
from bench.storage.stage_results import GenerationResult, write_result
from bench.training import execution
from bench.training.distributed import StopRequested, World
from bench.training.hardware import accelerator_name
from bench.training.run_context import RunContext


def load_snapshot(path: Path, device: torch.device) -> nn.Module:
    """Load the network of a snapshot, in evaluation mode; the file contains its NetSpec."""
    tensors, metadata = tensor_files.load_tensors(path)
    spec = architectures.NetSpec.from_dict(metadata["spec"])
    net = architectures.build(spec.arch, io=spec.io, args=dict(spec.args))
    net.load_state_dict(tensors)
    return net.to(device).eval().requires_grad_(False)


@torch.inference_mode()
def generate_batches(
    net: nn.Module, config: RunConfig, latent: bool, device: torch.device, batches: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (image numbers (B,), images (B, H, W, C) uint8) for each batch of image numbers.

    An image depends on the configuration and its number alone, apart from rounding in a batch of another size.
    """
    io: architectures.IOSpec = net.spec.io  # type: ignore[union-attr, assignment]
    decode = make_decoder(latent, config.evaluation.decoder, device, config.evaluation.decoder_hash)
    model = samplers.guide_from_config(
        execution.sampling_execution(config, device).sampler(net), config, io.num_classes
    )
    for numbers in batches:
        labels = balanced_labels(numbers, io.num_classes)
        cond = None if labels is None else torch.from_numpy(labels).to(device)
        x = samplers.sample_images(model, config, (io.channels, io.size, io.size), numbers.tolist(), cond, device)
        yield numbers, to_uint8(decode(x)).transpose(0, 2, 3, 1)


def make_missing_images(
    context: RunContext,
    net: Callable[[], nn.Module],
    targets: Mapping[ShardedOutput, np.ndarray],
    report: Callable[[int, int], Any],
) -> None:
    """Generate the images that an evaluation point's targets lack, or this process's share of them.

    `net` loads the network; it is only called if images are missing.  `targets` maps each target to the images that it
    has, (N,) bool.  `report` is called after each batch with the number of images that this call has generated and
    the number that existed before; it may raise to stop.
    """
    config, world = context.config, context.world
    complete = np.logical_and.reduce(list(targets.values()))
    before, generated = int(complete.sum()), 0
    batches = missing_batches(complete, config.evaluation.batch, world.rank, world.size)
    if not batches:
        return
    for numbers, images in generate_batches(net(), config, context.source.latent, context.device, batches):
        for target, present in targets.items():
            if not present[numbers].all():
                target.add(numbers, images)
        generated += len(numbers)
        report(generated, before)


def generate(context: EvaluationContext) -> GenerationResult:
    """Generate the samples of every evaluation point whose features or exported images are missing.

    Each process generates every world.size-th batch, so the networks see the same batches for any number of
    processes.  A stop request is checked after each batch and stops all processes.  Rank 0 assembles the shards and
    writes generate.json.
    """
    run, config, world = context.run, context.config, context.world
    points = config.budget.evaluation_points
    peak = context.log_peak_memory() if world.first else 0
    targets = target_factory(context)
    for done, point in enumerate(points):
        unfinished = scan_targets(run, targets(point), world)
        net = partial(load_snapshot, run.snapshot_path(point), context.device)
        stopped = False
        if unfinished:
            try:
                make_missing_images(context, net, unfinished, progress_reporter(context, done))
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


def scan_targets(run: RunFolder, targets: list[ShardedOutput], world: World) -> dict[ShardedOutput, np.ndarray]:
    """Map each unfinished target to the images that it has, (N,) bool, as rank 0 sees them."""

    def scan() -> list[np.ndarray | None]:
        return [None if target.done else scan_target(run, target) for target in targets]

    results = zip(targets, world.of_first(scan), strict=True)
    return {target: present for target, present in results if present is not None}


def scan_target(run: RunFolder, target: ShardedOutput) -> np.ndarray:
    """Return the images that a target has, (N,) bool; shards that cannot be read are logged and removed."""
    present = target.shards.scan()
    for name in target.shards.damaged:
        run.log("damaged", file=f"{target.shards.folder.parent.name}/{target.shards.folder.name}/{name}")
    return present


def progress_reporter(context: RunContext, done: int) -> Callable[[int, int], None]:
    """Return a `report` function for `make_missing_images` after `done` evaluation points: it logs, then checks.

    Rank 0 logs an estimate for all processes, which assumes that they are equally fast.
    """
    run, world, samples = context.run, context.world, context.config.evaluation.samples
    points, start = context.config.budget.points, time.monotonic()

    def report(generated: int, before: int) -> None:
        everywhere = min(generated * world.size, samples - before)
        if world.first:
            throughput = everywhere / max(1e-9, time.monotonic() - start)
            run.log("sample", images=done * samples + before + everywhere, of=points * samples, rate=throughput)
        context.raise_if_any_stopped()

    return report


def target_factory(context: EvaluationContext) -> Callable[[int], list[ShardedOutput]]:
    """Return a function from an evaluation point to its targets: a feature store, and an export if there is one."""
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
