"""The stages of a run in order: train, sample, evaluate, record."""

from __future__ import annotations

import resource
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

from bench.config.schema import RunConfig
from bench.runs.record_builder import publish_record
from bench.storage.run_folder import RunFolder

Stage = Literal["all", "train", "evaluate"]


def run_stages(
    run: RunFolder,
    config: RunConfig,
    stage: Stage,
    stop: Callable[[], bool],
    world: Any,
    check_lease: Callable[[], None],
) -> None:
    """The stages in order; each skips what is there already.  `check_lease` raises LeaseLost."""
    from bench.data import sources
    from bench.experiments import presets
    from bench.training import trainer

    trainer.set_threads(config)
    device = trainer.device_of(config, world)
    published = bool(config.model.weights)
    arrays = sources.open_dataset(config.data, trained=not published)
    if stage != "evaluate" and not published:
        trainer.train(run, config, arrays, presets.network_io(config), stop, world, check_lease)
    if world.first:
        log_peak(run, str(device))
    if stage == "train":
        return
    if not world.of_first(lambda: run.has_snapshots(config.budget.evaluation_points)):
        raise ValueError(f"{run.path} has no snapshots to sample from; its training is not finished")
    evaluated(run, config, arrays, device, stop, world, check_lease)


def evaluated(
    run: RunFolder,
    config: RunConfig,
    arrays: Any,
    device: Any,
    stop: Callable[[], bool],
    world: Any,
    check_lease: Callable[[], None],
) -> None:
    """Sample, in all processes; evaluate and record, in the first."""
    from bench.data import sources
    from bench.evaluation import generation, run_metrics
    from bench.evaluation.extractors import extractor_registry
    from bench.training.distributed import StopRequested

    def check() -> None:
        check_lease()
        if stop():
            raise StopRequested

    def measure() -> None:
        run_metrics.evaluate(run, config, evaluator, lambda: world.check(check))
        if not run.record_path.is_file():
            check_lease()
            publish_record(run, config, arrays, weights_hash, evaluator)

    e, latent = config.evaluation, sources.open_source(config.data.name, config.data.root).latent
    weights, weights_hash = extractor_registry.prepare_weights(e.extractor, e.weights, run.cache)
    generation.generate(run, config, latent, device, check, world)
    evaluator = cache(lambda: run_metrics.Evaluator(config, weights, arrays, cuda=device.type == "cuda"))
    world.alone(measure, check)


def log_peak(run: RunFolder, device: str) -> None:
    """Log the largest memory this process has used: the GPU's, or its own on a CPU."""
    import torch

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else own
    run.log("memory", peak_memory_bytes=peak)
