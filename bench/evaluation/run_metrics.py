"""Compute the metrics of a run at its evaluation points, and of the reference rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.config.schema import RunConfig
from bench.data.dataset import Dataset
from bench.data.sources import open_source
from bench.evaluation import metrics
from bench.evaluation.comparison import add_metric_suffix, required_layers
from bench.evaluation.extractors.extractor_registry import EXTRACTORS, build_network, hash_weights
from bench.evaluation.feature_extraction import collect_features
from bench.evaluation.feature_store import FeatureProvenance, FeatureStore
from bench.evaluation.image_io import ArrayImages, ImageSource
from bench.storage.atomic import write_json
from bench.storage.run_folder import RunFolder
from bench.training.tensorboard import TensorBoardWriter

MetricValues = dict[str, dict[str, Any]]
REFERENCE_GRID_IMAGES = 100
"""Images of a reference row that its picture shows."""


class Evaluator:
    """An extractor and the features of the reference, computed once."""

    def __init__(self, config: RunConfig, weights: Path, arrays: Dataset, cuda: bool = False) -> None:
        name, self.protocol = config.evaluation.extractor, config.evaluation.protocol
        self.entry, self.device = EXTRACTORS[name], "cuda" if cuda else "cpu"
        self.classifies = self.entry.knows(config.data.title)
        self.net = build_network(name, weights, self.entry.layers.values(), cuda)
        self.made = FeatureProvenance(extractor=name, weights=weights.name, sha256=hash_weights(weights))
        self.real = self.collect(ArrayImages(arrays.reference, "the reference"), sampled=False, intervals=False)

    def collect(self, images: ImageSource, *, sampled: bool, intervals: bool) -> metrics.SampleSet:
        layers = self.entry.layers
        keep, fit = required_layers(layers, set(layers), sampled=sampled, intervals=intervals)
        return collect_features(self.net, images, keep=keep, fit=fit)

    def __call__(self, images: ImageSource | np.ndarray, labels: np.ndarray | None, *, intervals: bool) -> MetricValues:
        """Metrics of uint8 images (N, C, H, W), their names ending as the extractor's must.

        Class accuracy is only measured by an extractor whose classes are the data's.
        """
        source = ArrayImages(images, "the samples") if isinstance(images, np.ndarray) else images
        return self.compare(self.collect(source, sampled=True, intervals=intervals), labels, intervals=intervals)

    def stored(self, store: FeatureStore, *, intervals: bool) -> MetricValues:
        """Metrics of samples whose features are stored; ValueError where they are another extractor's."""
        store.check(self.made)
        side = metrics.SampleSet(rows=store.rows(), fitted=store.fitted(self.entry.layers), count=store.count)
        return self.compare(side, store.labels, intervals=intervals)

    def compare(self, samples: metrics.SampleSet, labels: np.ndarray | None, *, intervals: bool) -> MetricValues:
        """Metrics of the samples' features against the reference's."""
        sides = metrics.MetricInputs(
            samples=samples,
            reference=self.real,
            layers=self.entry.layers,
            labels=np.asarray(labels) if labels is not None and self.classifies else None,
            protocol=self.protocol,
            device=self.device,
        )
        return add_metric_suffix(metrics.compute_metrics(sides, intervals=intervals), self.entry)


def evaluate(run: RunFolder, config: RunConfig, make: Callable[[], Evaluator], check: Callable[[], None]) -> None:
    """Measure every evaluation point that has no metrics yet; intervals at the last point only."""
    points = config.budget.evaluation_points
    evaluator = None
    for i, point in enumerate(points):
        target = run.evaluation_path(point)
        if target.is_file():
            continue
        evaluator = evaluator or make()
        found = evaluator.stored(FeatureStore(run.features_path(point)), intervals=point == points[-1])
        write_json(target, {"images": point, "metrics": found})
        TensorBoardWriter(run).add(point, {k: v["value"] for k, v in found.items()})
        run.log("evaluate", images=i + 1, of=len(points), point=point, **{k: v["value"] for k, v in found.items()})
        check()


def read_curve(run: RunFolder, config: RunConfig) -> list[dict[str, Any]]:
    """[{images, metrics}] of all evaluation points."""
    points = config.budget.evaluation_points
    return [json.loads(run.evaluation_path(p).read_text()) for p in points]


class NoiseImages:
    """Gaussian pixels (N, C, H, W) uint8, made batch by batch in their order."""

    def __init__(self, count: int, size: tuple[int, int, int], seed: int) -> None:
        self.name, self.count, self.size, self.seed = "noise", count, size, seed
        self.left_out: list[dict[str, str]] = []

    def batches(self, size: int) -> Iterator[tuple[list[str], np.ndarray]]:
        rng = np.random.RandomState(self.seed)
        for start in range(0, self.count, size):
            n = min(size, self.count - start)
            values = rng.standard_normal((n, *self.size)) * 127.5 + 127.5
            yield [f"noise {start + i}" for i in range(n)], np.clip(values, 0, 255).astype(np.uint8)


def measure_reference_rows(
    evaluator: Evaluator, arrays: Dataset, config: RunConfig
) -> dict[str, tuple[MetricValues, np.ndarray]]:
    """{"held-out": ..., "noise": ...}: metrics of real images never trained on, and of Gaussian noise; some images.

    Noise is the ceiling, real images are the floor.
    """
    e, (channels, height, width) = config.evaluation, arrays.reference.shape[1:]
    noise = NoiseImages(e.samples, (channels, height, width), e.seed)
    classes = max(1, open_source(config.data.name, config.data.root).num_classes)
    found = evaluator(noise, np.arange(e.samples) % classes, intervals=True)
    rows = {"noise": (found, next(noise.batches(REFERENCE_GRID_IMAGES))[1])}
    if arrays.held_out is not None:
        found = evaluator(ArrayImages(arrays.held_out, "held-out"), arrays.held_out_labels, intervals=True)
        rows["held-out"] = (found, np.asarray(arrays.held_out[:REFERENCE_GRID_IMAGES]))
    return rows
