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
from bench.data.autoencoder import decoder, to_uint8
from bench.diffusion import samplers
from bench.evaluation.export import export_of
from bench.evaluation.extractors import extractor_registry
from bench.evaluation.feature_extraction import in_pieces
from bench.evaluation.feature_store import Features, Made
from bench.experiments import presets
from bench.storage import tensor_files
from bench.storage.run_folder import RunFolder
from bench.storage.shards import Target, grid, labels_of
from bench.training import execution
from bench.training.distributed import ALONE, Stopped, World


def load_network(path: Path, device: torch.device) -> nn.Module:
    """The network of a snapshot, built from the spec inside the file."""
    tensors, metadata = tensor_files.load(path)
    spec = architectures.NetSpec.from_dict(metadata["spec"])
    net = architectures.build(spec.arch, io=spec.io, args=dict(spec.args))
    net.load_state_dict(tensors)
    return net.to(device).eval().requires_grad_(False)


@torch.inference_mode()
def images_of(
    net: nn.Module, config: RunConfig, latent: bool, device: torch.device, batches: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(indices, images (B, H, W, C) uint8) of each batch of image numbers."""
    io: architectures.IOSpec = net.spec.io  # type: ignore[union-attr, assignment]
    decode = decoder(latent, config.evaluation.decoder, device, config.evaluation.decoder_hash)
    made = samplers.with_guidance(execution.of_sampling(config, device).sampler(net), config, io.num_classes)
    for own in batches:
        labels = labels_of(own, io.num_classes)
        cond = None if labels is None else torch.from_numpy(labels).to(device)
        x = samplers.sample(made, config, (io.channels, io.size, io.size), own.tolist(), cond, device)
        yield own, to_uint8(decode(x)).transpose(0, 2, 3, 1)


def make_images(
    net: Callable[[], nn.Module],
    config: RunConfig,
    latent: bool,
    device: torch.device,
    targets: Mapping[Target, np.ndarray],
    report: Callable[[int, int], Any],
    rank: int = 0,
    world: int = 1,
) -> None:
    """Make what one evaluation point's targets lack, or this process's part of it.

    `targets` tells which images (N,) bool each has.  `report` is told after each batch how many images
    this call has made and how many there were before it, and may raise to stop.
    """
    have = np.logical_and.reduce(list(targets.values()))
    before, made = int(have.sum()), 0
    todo = grid(have, config.evaluation.batch, rank, world)
    for own, images in images_of(net(), config, latent, device, todo) if todo else ():
        for target, kept in targets.items():
            if not kept[own].all():
                target.add(own, images)
        made += len(own)
        report(made, before)


def sample(
    run: RunFolder,
    config: RunConfig,
    latent: bool,
    device: torch.device,
    check: Callable[[], None],
    world: World = ALONE,
) -> None:
    """Sample from the snapshot of every evaluation point whose features, or exported images, are not there yet.

    `check` is called after each batch and may raise Stopped, which all processes then do.  Each makes every
    world.size-th batch, so that networks see the same batches whatever the number of processes; process 0
    puts them together.
    """
    points = config.budget.evaluation_points
    targets = targets_of(run, config, device, world)
    for done, point in enumerate(points):
        there = missing(run, targets(point), world)
        net = partial(load_network, run.file("snapshots", point, "safetensors"), device)
        report = progress(run, config, done, world, check)
        stopped = False
        if there:
            try:
                make_images(net, config, latent, device, there, report, world.rank, world.size)
            except Stopped:
                stopped = True
        if world.agree(stopped)[0]:
            raise Stopped
        if world.first:
            for target in targets(point):
                target.finish()
        world.barrier()


def missing(run: RunFolder, targets: list[Target], world: World) -> dict[Target, np.ndarray]:
    """Which images (N,) bool each unfinished target has, as process 0 sees it.

    A file that cannot be read is logged, and its images are made again.
    """

    def seen() -> list[np.ndarray | None]:
        return [None if target.done else look(run, target) for target in targets]

    return {target: there for target, there in zip(targets, world.of_first(seen), strict=True) if there is not None}


def look(run: RunFolder, target: Target) -> np.ndarray:
    there = target.shards.look()
    for name in target.shards.damaged:
        run.log("damaged", file=f"{target.shards.folder.parent.name}/{target.shards.folder.name}/{name}")
    return there


def progress(
    run: RunFolder, config: RunConfig, done: int, world: World, check: Callable[[], None]
) -> Callable[[int, int], None]:
    """What logs the images of all processes, taken to be equally fast, once `done` points are done, and checks."""
    points, samples, began = config.budget.points, config.evaluation.samples, time.monotonic()

    def report(made: int, before: int) -> None:
        made = min(made * world.size, samples - before)
        if world.first:
            rate = made / max(1e-9, time.monotonic() - began)
            run.log("sample", images=done * samples + before + made, of=points * samples, rate=rate)
        world.check(check)

    return report


def targets_of(
    run: RunFolder, config: RunConfig, device: torch.device, world: World = ALONE
) -> Callable[[int], list[Target]]:
    """What an evaluation point's images are made into: features, and files where they are to be exported."""
    e, classes = config.evaluation, presets.io_of(config).num_classes
    found = extractor_registry.prepare(e.extractor, e.weights, run.cache) if world.first else None
    world.barrier()  # process 0 may have made them just now
    weights, sha256 = found or extractor_registry.prepare(e.extractor, e.weights, run.cache)
    made = Made(extractor=e.extractor, weights=weights.name, sha256=sha256)
    purposes = extractor_registry.EXTRACTORS[e.extractor].layers

    @cache
    def network() -> FeatureExtractorBase:
        return extractor_registry.network(e.extractor, weights, purposes.values(), device.type == "cuda")

    def extract(numbers: np.ndarray, images_BHWC: np.ndarray) -> dict[str, np.ndarray]:
        return in_pieces(network(), numbers, images_BHWC.transpose(0, 3, 1, 2))

    def targets(point: int) -> list[Target]:
        features = Features(run.features(point), e.samples, classes, made, purposes, extract)
        exports = [run.exported(point, config.compute.export)] if config.compute.export != "none" else []
        return [features, *(export_of(path, e.samples, classes) for path in exports)]

    return targets
