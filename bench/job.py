"""One run from its folder to its record; what a local process or a cluster's node executes.

Every stage goes on where it stopped, so running a job again is always right.
"""

from __future__ import annotations

import os
import platform
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import failures
from .claim import TakenOver
from .config import RunConfig
from .runfolder import RunFolder

PACKAGES = ("torch", "torchvision", "diffusers", "timm", "torch-fidelity", "numpy")


class Job:
    """The callable that submitit pickles: a folder's name and nothing more."""

    def __init__(self, folder: str, door: int | None = None) -> None:
        self.folder, self.door = folder, door

    def __call__(self) -> str:
        work(RunFolder(Path(self.folder)), self.door)
        return self.folder

    def checkpoint(self) -> Any:
        """submitit calls this on preemption and time-out: the same job goes on from its files."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def work(run: RunFolder, door: int | None = None) -> None:
    """Train, sample, evaluate and record one run.

    A failure is logged, written to error.txt and raised.  The work stops, saved, on SIGINT, SIGTERM
    or when the process `door` that started it is gone.
    """
    from .train import Diverged, Stopped

    asked: list[int] = []

    def stop() -> bool:
        return bool(asked) or (door is not None and not alive(door))

    with listening(asked), run.claim() as claim:
        if run.record().is_file() and run.has_exports(run.config()):
            return
        (run.path / "error.txt").unlink(missing_ok=True)
        run.log("start", pid=os.getpid())
        try:
            stages(run, run.config(), stop, claim.check)
            run.log("done")
        except Stopped:
            run.log("stopped")
        except TakenOver:
            raise
        except Exception as error:
            failures.leave(run, error, "diverged" if isinstance(error, Diverged) else "failed")
            raise
        except BaseException as error:
            run.keep_error(error)
            raise


@contextmanager
def listening(asked: list[int]) -> Iterator[None]:
    """SIGINT and SIGTERM are noted in `asked` instead of ending the process."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda signum, _: asked.append(signum)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def stages(run: RunFolder, config: RunConfig, stop: Callable[[], bool], owned: Callable[[], None]) -> None:
    """The stages in order; each skips what is there already.  `owned` raises when the run is another process's."""
    from . import data, evaluate, extractors, presets, sample, train

    def check() -> None:
        owned()
        if stop():
            raise train.Stopped

    def stop_training() -> bool:
        owned()
        return stop()

    train.set_threads(config)
    device = train.device_of(config)
    what = data.source(config.data.name, config.data.root)
    published = bool(config.model.weights)
    arrays = (data.load_reference if published else data.load)(config.data.name, config.data.root)
    e = config.evaluation
    weights, weights_hash = extractors.prepare(e.extractor, e.weights, run.cache)
    if not published:
        train.train(run, config, arrays, presets.io_of(config), stop_training)
    log_peak(run, str(device))
    sample.sample(run, config, what.latent, device, check)
    evaluators: list[evaluate.Evaluator] = []

    def evaluator() -> evaluate.Evaluator:
        if not evaluators:
            evaluators.append(evaluate.Evaluator(config, weights, arrays, cuda=device.type == "cuda"))
        return evaluators[0]

    evaluate.evaluate(run, config, evaluator, check)
    if not run.record().is_file():
        owned()
        record(run, config, arrays, weights_hash, evaluator)


def log_peak(run: RunFolder, device: str) -> None:
    """Log the largest memory this process has used: the GPU's, or its own on a CPU."""
    import torch

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else own
    run.log("memory", peak_memory_bytes=peak)


def record(run: RunFolder, config: RunConfig, arrays: Any, weights_hash: str, evaluator: Callable[[], Any]) -> None:
    """Write the run's record, its pictures, and the reference rows of its evaluation."""
    from . import checkpoint, cost, evaluate, match, plots, presets, protocol, store
    from . import record as records

    io = presets.io_of(config)
    target = match.target_of(match.parse(config.model.match), io) if config.model.match else None
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
    curve = evaluate.read_curve(run, config)
    last = run.file("snapshots", config.budget.images, "safetensors")
    tensors, _ = checkpoint.load(last)
    made = make_record(
        label=config.model.label,
        kind="model",
        config=config.identity(),
        protocol=whole,
        metrics=curve[-1]["metrics"],
        cost={**cost.summary(config, cost.of(config, io)), **measured(run)},
        curve=[{"images": p["images"], "metrics": {k: v["value"] for k, v in p["metrics"].items()}} for p in curve],
        incidents=failures.incidents(run),
        checkpoint={
            "crc32": checkpoint.checksum(tensors),
            "images": config.budget.images,
            "weights": config.model.weights or "ema",
        },
    )
    images, labels = store.FeatureStore(run.features(config.budget.images)).pictures()
    plots.grid(images, labels, run.path / "samples.png")
    if config.budget.images:
        plots.curves({config.model.label: (run, made.curve)}, run.path / "curves.png")
    references(run, config, arrays, shared, evaluator)
    records.publish(run.results, made)
    records.write(run.record(), made)


def references(
    run: RunFolder, config: RunConfig, arrays: Any, evaluation: dict[str, Any], evaluator: Callable[[], Any]
) -> None:
    """Publish the rows of held-out images and noise, unless their evaluation has them already."""
    from . import evaluate, plots
    from . import record as records
    from .protocol import fingerprint

    have = {
        r.label
        for r in records.read_all(run.results)
        if r.kind == "reference" and r.fingerprint == fingerprint(evaluation)
    }
    if {"held-out", "noise"} <= have:
        return
    for label, (metrics, images) in evaluate.reference_rows(evaluator(), arrays, config).items():
        made = make_record(label=label, kind="reference", config={}, protocol=evaluation, metrics=metrics)
        records.publish(run.results, made)
        plots.grid(images, None, run.cache / f"{label}.png")


def make_record(
    *, label: str, kind: Any, config: dict[str, Any], protocol: dict[str, Any], metrics: dict[str, Any], **more: Any
) -> Any:
    """A validated record, with its id, fingerprints, date and environment."""
    from . import record as records
    from .protocol import fingerprint

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
        "environment": environment(),
        **more,
    }
    return records.parse(data, label)


def measured(run: RunFolder) -> dict[str, Any]:
    """Measured cost from the log: every second of training counts, repeated ones too."""
    events, _ = run.events()
    training = [e for e in events if e["event"] == "train"]
    seconds = sum(e["seconds"] for e in training)
    images = sum(e["rate"] * e["seconds"] for e in training)
    peaks = [e["peak_memory_bytes"] for e in events if e["event"] == "memory"]
    return {
        "images_per_second": images / max(seconds, 1e-9) if training else None,
        "mfu": None,
        "peak_memory_bytes": max(peaks, default=0),
        "accelerator_hours": seconds / 3600,
    }


def environment() -> dict[str, Any]:
    """What the run ran on: versions, commit, device; no host or user names."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "commit": git("rev-parse", "--short=12", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--", "architectures", "bench", "pyproject.toml")),
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if cuda else cpu_name(),
        "threads": torch.get_num_threads(),
        "world_size": 1,
        "precision": "float32",
    }


def git(*words: str) -> str | None:
    """Output of a git command about the source of this package; None outside a repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent.parent), *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


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


def alive(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
