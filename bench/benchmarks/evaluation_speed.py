"""Measure time and peak memory of the evaluation at full size on random features: python -m bench.evalspeed

The parts "frechet" and "manifold" time our implementation and another one in the same process.  The features are
random, with the widths of Inception's layers, so no weights are needed.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from bench.evaluation import metrics
from bench.evaluation.feature_extraction import FeatureAccumulator, read_store
from bench.evaluation.feature_store import FeatureProvenance, FeatureStore, FeatureStoreWriter
from bench.evaluation.frechet import Gaussian, fit_gaussian, frechet_distance
from bench.evaluation.precision_recall import compute_precision_recall
from bench.evaluation.uncertainty import RESAMPLES
from bench.storage.shards import missing_batches

LAYERS = {"fid": "2048", "sfid": "spatial", "is": "logits_unbiased", "kid": "2048", "prc": "2048"}
WIDTHS = {"2048": 2048, "spatial": 2023, "logits_unbiased": 1008}
Result = TypeVar("Result")


@lru_cache
def mixing_matrix(width: int) -> torch.Tensor:
    """Make a (width, width) float32 matrix that gives features a spectrum over three decades."""
    noise = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    return noise * (torch.exp(-torch.arange(width) / (width / 7)) / width**0.25)[:, None]


def random_features(seed: int, count: int, width: int, scale: float = 1.0) -> np.ndarray:
    """Make non-negative features (count, width) in float32 from mixed and rectified Gaussian noise."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.empty(count, width)
    for part in out.split(2500):
        noise = scale * torch.randn(part.shape, generator=generator)
        part.copy_((noise @ mixing_matrix(width) + 0.1 * noise + 0.4).clamp(min=0))
    return out.numpy()


def time_call(function: Callable[[], Result]) -> tuple[Result, float]:
    """Call a function; return (result, seconds)."""
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began


def time_frechet(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Time the Frechet distance of two Gaussians with --width features, ours alternating with scipy's sqrtm."""
    from scipy.linalg import sqrtm

    a, b = (fit_gaussian(random_features(seed, flags.fit, flags.width, scale)) for seed, scale in ((1, 1.0), (2, 1.1)))
    difference = a.mu.astype(np.float64) - b.mu

    def theirs() -> float:
        root = np.trace(np.asarray(sqrtm(a.sigma @ b.sigma))).real
        return float(difference @ difference + np.trace(a.sigma) + np.trace(b.sigma) - 2 * root)

    runs = [(time_call(lambda: frechet_distance(*without_factors(a, b))), time_call(theirs)) for _ in range(3)]
    ours, other = (np.median([run[i] for run in runs], axis=0) for i in (0, 1))
    name = f"Frechet distance, {flags.width} features, median of 3"
    return [table_row(name, ours[0], other[0], ours[1], other[1], "scipy sqrtm")]


def without_factors(*gaussians: Gaussian) -> list[Gaussian]:
    """Copy Gaussians without their cached factors."""
    return [Gaussian(mu=g.mu, sigma=g.sigma) for g in gaussians]


def time_precision_recall(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Time precision and recall, ours and then torch-fidelity's function with bounded memory."""
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    device = "cuda" if flags.cuda else "cpu"
    sets = ((1, flags.samples, 0.9), (2, flags.reference, 1.0))
    fake, real = (torch.from_numpy(random_features(s, n, flags.width, scale)).to(device) for s, n, scale in sets)
    ours, seconds = time_call(lambda: compute_precision_recall(real, fake))
    rows = []
    if flags.intervals:
        again, longer = time_call(lambda: compute_precision_recall(real, fake, resamples=RESAMPLES))
        rows.append(
            table_row(f"the same with {RESAMPLES} resamples", again.recall, ours.recall, longer, seconds, "without")
        )
    other, other_seconds = time_call(lambda: calculate_precision_recall_part(fake, real))
    name = f"{{}} of {flags.samples:,} against {flags.reference:,}, {device}"
    pairs = zip(("precision", "recall"), (ours.precision, ours.recall), other, strict=True)
    both = [table_row(name.format(n), o, t, seconds, other_seconds, "torch-fidelity") for n, o, t in pairs]
    return both + rows


def table_row(name: str, ours: float, other: float, seconds: float, other_seconds: float, whose: str) -> dict[str, Any]:
    """Compare a value and its time with another implementation's."""
    return {
        "what": name,
        "ours": f"{ours:.8g}",
        "seconds": f"{seconds:.2f}",
        "other": f"{other:.8g}",
        "whose": whose,
        "its seconds": f"{other_seconds:.2f}",
        "times faster": f"{other_seconds / seconds:.2f}",
        "relative difference": f"{abs(ours - other) / max(abs(other), 1e-300):.1e}",
    }


def time_evaluation(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the seconds and peak memory of every metric on features in a feature store."""
    with tempfile.TemporaryDirectory() as folder:
        stored = stored_features(Path(folder) / "features", flags.samples)
        rows = [{"what": "features of the samples stored on disk", "peak GiB": peak_memory_gib()}]
        reference = FeatureAccumulator(flags.reference, {"2048"}, {"spatial"})
        for numbers in missing_batches(np.zeros(flags.reference, bool), 1000):
            reference.add(feature_batch(2 * 10**6, numbers))
        samples = read_store(stored, LAYERS)
        inputs = metrics.MetricInputs(samples=samples, reference=reference.sample_set(), layers=LAYERS)
        return rows + time_metrics(inputs, flags.intervals)


def feature_batch(seed: int, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Make random features {layer: (B, F) float32} for image numbers (B,)."""
    return {layer: random_features(seed + int(numbers[0]), len(numbers), width) for layer, width in WIDTHS.items()}


def stored_features(path: Path, count: int) -> FeatureStore:
    """Write a feature store as sampling does, with images of one pixel."""
    provenance = FeatureProvenance(extractor="generated", weights="", sha256="")
    target = FeatureStoreWriter(path, count, 0, provenance, LAYERS, lambda numbers, _: feature_batch(10**6, numbers))
    for numbers in missing_batches(target.shards.scan(), 250):
        target.add(numbers, np.zeros((len(numbers), 1, 1, 3), np.uint8))
    target.finish()
    return FeatureStore(path)


def time_metrics(comparison: metrics.MetricInputs, intervals: bool) -> list[dict[str, Any]]:
    """Time each metric; return one row of seconds and peak memory for each."""
    rows: list[dict[str, Any]] = [{"what": "features opened", "peak GiB": peak_memory_gib()}]
    for names in (["fid"], ["sfid"], ["is"], ["kid"], ["precision", "recall"]):
        for with_interval in (False, True) if intervals else (False,):
            _, seconds = time_call(partial(metrics.compute_metrics, comparison, intervals=with_interval, wanted=names))
            name = " and ".join(names) + (", with its interval" if with_interval else "")
            rows.append({"what": name, "seconds": f"{seconds:.1f}", "peak GiB": peak_memory_gib()})
    return rows


def peak_memory_gib() -> str:
    """Peak resident memory of this process in GiB, as text."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f}"


EVALUATION_PARTS: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "frechet": time_frechet,
    "manifold": time_precision_recall,
    "evaluation": time_evaluation,
}
