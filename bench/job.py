"""One run from its folder to its record; what a local process or a cluster's node executes.

Every stage goes on where it stopped, so running a job again is always right.
"""

from __future__ import annotations

import atexit
import platform
import resource
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from bench.cluster import code_snapshot
from bench.cluster.signals import Notices
from bench.config.overrides import load_config
from bench.config.schema import RunConfig
from bench.records import failures
from bench.storage import lease as claims
from bench.storage import process_identity
from bench.storage.process_identity import on_slurm
from bench.storage.run_folder import RunFolder

Stage = Literal["all", "train", "evaluate"]
TURNS, PROGRESS = 5, ("train", "trained", "sample", "evaluate")
WORDS = {"fp32": "float32", "tf32": "tf32", "bf16": "bfloat16"}
PACKAGES = ("torch", "torchvision", "diffusers", "timm", "torch-fidelity", "numpy")


class Job:
    """The callable that submitit pickles: a folder's name, which part of the work, and what it may count on."""

    def __init__(self, folder: str, stage: Stage = "all", notice_seconds: float = 0.0, door: int | None = None) -> None:
        self.folder, self.stage, self.notice_seconds, self.door = folder, stage, notice_seconds, door

    def __call__(self) -> str:
        notices = Notices(self.notice_seconds)
        with notices.listening():
            work(RunFolder(Path(self.folder)), self.stage, notices, self.door)
        return self.folder

    def checkpoint(self) -> Any:
        """submitit calls this on preemption and time-out: the same job goes on from its files."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def work(run: RunFolder, stage: Stage = "all", notices: Notices | None = None, door: int | None = None) -> bool:
    """Train ("train"), or sample, evaluate and record ("evaluate"), or all of it; whether that is done now.

    A failure is logged, written to error.txt and to a record, and raised.  The work stops, saved, when a
    notice comes to any of its processes, or when the process `door` that started it is gone; a notice of
    SLURM then ends in another turn.
    """
    from bench.training import distributed, rendezvous
    from bench.training.checkpointing import Diverged

    notices, config, own = notices or Notices(), load_config(run.path), rendezvous.place()
    first = own is None or own.rank == 0
    try:
        with run.claim() if first else nullcontext() as claim, distributed.joined(config) as world:
            done = turn(run, config, stage, notices, door, world, claim.check if claim else lambda: None)
            requeue = not done and bool(world.agree(notices.requeue)[0])
    except (claims.Held, claims.TakenOver):
        raise
    except Exception as error:
        if first or type(error) not in (RuntimeError, Diverged):  # else it is the first process's to tell
            failures.leave(run, error, "diverged" if isinstance(error, Diverged) else "failed")
        raise
    if not done:
        notices.leave(requeue)
    elif own is not None:
        atexit.register(distributed.leave_early)
    return done


def turn(
    run: RunFolder,
    config: RunConfig,
    stage: Stage,
    notices: Notices,
    door: int | None,
    world: Any,
    owned: Callable[[], None],
) -> bool:
    """The work of one process, until it is done or told to stop; whether it is done."""
    from bench.training.distributed import Stopped

    def stop() -> bool:
        return notices.stop or (door is not None and not process_identity.exists(door))

    if world.of_first(
        lambda: run.record().is_file() and run.has_exports(config.budget.evaluation_points, config.compute.export)
    ):
        return True
    if world.first:
        (run.path / "error.txt").unlink(missing_ok=True)
        require_progress(run)
        run.log("start", stage=stage, **place())
    try:
        stages(run, config, stage, stop, world, owned)
    except Stopped:
        if world.first:
            run.log("requeued" if notices.requeue else "stopped")
        return False
    if world.first:
        if stage == "evaluate":
            rank_again(run.results)
        run.log("trained" if stage == "train" else "done")
    return True


def require_progress(run: RunFolder) -> None:
    """ValueError where SLURM has started a run TURNS times in a row and nothing came of it."""
    turns = 0
    for event in reversed(run.events()[0]):
        if event["event"] in (*PROGRESS, "failed"):
            break
        turns += event["event"] == "start"
    if on_slurm() and turns >= TURNS:
        raise ValueError(
            f"{turns} turns in a row ended before a step was reported; raise slurm.time or lower slurm.signal_seconds "
            "(the log says how far each came), then --retry-failed"
        )


def rank_again(results: Path) -> None:
    """Bring the leaderboard up to date; what keeps it from that is said, and is no failure of this run."""
    from bench.records import leaderboard_files

    try:
        leaderboard_files.write(results)
    except (ValueError, OSError) as error:
        print(f"the leaderboard is not up to date: {error}", file=sys.stderr, flush=True)


def place() -> dict[str, Any]:
    """Where this process runs: host, pid, and SLURM's job and how often it was requeued."""
    own = claims.me()
    return {"pid": own.pid, "host": own.host, "job": own.job if on_slurm() else None, "requeues": own.restarts}


def stages(
    run: RunFolder, config: RunConfig, stage: Stage, stop: Callable[[], bool], world: Any, owned: Callable[[], None]
) -> None:
    """The stages in order; each skips what is there already.  `owned` raises when the run is another process's."""
    from bench.data import sources
    from bench.experiments import presets
    from bench.training import trainer

    trainer.set_threads(config)
    device = trainer.device_of(config, world)
    published = bool(config.model.weights)
    arrays = sources.arrays_of(config.data, trained=not published)
    if stage != "evaluate" and not published:
        trainer.train(run, config, arrays, presets.io_of(config), stop, world, owned)
    if world.first:
        log_peak(run, str(device))
    if stage == "train":
        return
    if not world.of_first(lambda: run.has_snapshots(config.budget.evaluation_points)):
        raise ValueError(f"{run.path} has no snapshots to sample from; its training is not finished")
    evaluated(run, config, arrays, device, stop, world, owned)


def evaluated(
    run: RunFolder,
    config: RunConfig,
    arrays: Any,
    device: Any,
    stop: Callable[[], bool],
    world: Any,
    owned: Callable[[], None],
) -> None:
    """Sample, in all processes; evaluate and record, in the first."""
    from bench.data import sources
    from bench.evaluation import generation, run_metrics
    from bench.evaluation.extractors import extractor_registry
    from bench.training.distributed import Stopped

    def check() -> None:
        owned()
        if stop():
            raise Stopped

    def measure() -> None:
        run_metrics.evaluate(run, config, evaluator, lambda: world.check(check))
        if not run.record().is_file():
            owned()
            record(run, config, arrays, weights_hash, evaluator)

    e, latent = config.evaluation, sources.source(config.data.name, config.data.root).latent
    weights, weights_hash = extractor_registry.prepare(e.extractor, e.weights, run.cache)
    generation.sample(run, config, latent, device, check, world)
    evaluator = cache(lambda: run_metrics.Evaluator(config, weights, arrays, cuda=device.type == "cuda"))
    world.alone(measure, check)


def log_peak(run: RunFolder, device: str) -> None:
    """Log the largest memory this process has used: the GPU's, or its own on a CPU."""
    import torch

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else own
    run.log("memory", peak_memory_bytes=peak)


def record(run: RunFolder, config: RunConfig, arrays: Any, weights_hash: str, evaluator: Callable[[], Any]) -> None:
    """Write the run's record, its pictures, and the reference rows of its evaluation."""
    from bench.costs import counting, matching
    from bench.evaluation import feature_store, run_metrics
    from bench.experiments import presets
    from bench.records import protocol
    from bench.records import record as records
    from bench.reports import run_pictures
    from bench.storage import tensor_files

    io = presets.io_of(config)
    target = matching.target_of(matching.parse(config.model.match), io) if config.model.match else None
    shared = {
        "evaluation": protocol.evaluation_of(
            config,
            extractor_hash=weights_hash,
            reference_hash=arrays.reference_hash(),
            reference_count=len(arrays.reference),
        )
    }
    native = presets.native_preset(config)
    whole = {**shared, "training": protocol.training_of(config, native=native, match_target=target)}
    curve = run_metrics.read_curve(run, config)
    last = run.file("snapshots", config.budget.images, "safetensors")
    tensors, _ = tensor_files.load(last)
    counted = counting.of(config, io)
    made = make_record(
        label=config.model.label,
        kind="model",
        config=config.identity(),
        protocol=whole,
        processes=processes_of(run),
        precision=precision_of(run, config),
        metrics=curve[-1]["metrics"],
        cost={**counting.summary(config, counted), **measured(run, counted.training_flops)},
        curve=[{"images": p["images"], "metrics": {k: v["value"] for k, v in p["metrics"].items()}} for p in curve],
        losses=run_pictures.thinned(run),
        incidents=failures.incidents(run),
        checkpoint={
            "crc32": tensor_files.checksum(tensors),
            "images": config.budget.images,
            "weights": config.model.weights or "ema",
        },
    )
    images, labels = feature_store.FeatureStore(run.features(config.budget.images)).pictures()
    run_pictures.grid(images, labels, run.path / "samples.png")
    if config.budget.images:
        run_pictures.curves({config.model.label: (run, made.curve)}, run.path / "curves.png")
    references(run, config, arrays, shared, evaluator)
    run_pictures.grid(images, labels, records.picture(run.results, made.id), per_class=5)
    records.publish(run.results, made)
    records.write(run.record(), made)


def references(
    run: RunFolder, config: RunConfig, arrays: Any, evaluation: dict[str, Any], evaluator: Callable[[], Any]
) -> None:
    """Publish the rows of held-out images and noise, unless their evaluation has them already."""
    from bench.evaluation import run_metrics
    from bench.records import record as records
    from bench.records.protocol import fingerprint
    from bench.reports import run_pictures

    have = {
        r.label
        for r in records.read_all(run.results)
        if r.kind == "reference" and r.fingerprint == fingerprint(evaluation)
    }
    if {"held-out", "noise"} <= have:
        return
    for label, (metrics, images) in run_metrics.reference_rows(evaluator(), arrays, config).items():
        made = make_record(label=label, kind="reference", config={}, protocol=evaluation, metrics=metrics)
        records.publish(run.results, made)
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
        "id": records.identity(label, config, whole),
        "kind": kind,
        "label": label,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config,
        "protocol": protocol,
        "fingerprint": whole,
        "evaluation_fingerprint": fingerprint(protocol["evaluation"]),
        "metrics": metrics,
        "environment": environment(processes, precision),
        **more,
    }
    return records.parse(data, label)


def measured(run: RunFolder, flops: int) -> dict[str, Any]:
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
    peak = hardware.known(device)
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


def environment(processes: int = 1, precision: str = "fp32") -> dict[str, Any]:
    """What the run ran on: versions, commit, device, processes; no host or user names."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        **code_snapshot.about(),
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if cuda else cpu_name(),
        "threads": torch.get_num_threads(),
        "world_size": processes,
        "precision": WORDS[precision],
    }


def installed(package: str) -> str | None:
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
