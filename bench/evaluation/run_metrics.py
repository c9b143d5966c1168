"""Metrics of a run at its evaluation points, and of the reference rows (held-out images and noise).

N images, P images of a picture, C channels, H height, W width.
"""

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
from bench.evaluation.extractors.extractor_registry import EXTRACTORS, build_network
from bench.evaluation.extractors.weight_hashes import hash_weights
from bench.evaluation.feature_extraction import collect_features, read_store, required_layers
from bench.evaluation.feature_store import FeatureProvenance, FeatureStore
from bench.evaluation.image_io import ArrayImages, ImageSource
from bench.storage.atomic import write_json
from bench.storage.run_folder import RunFolder
from bench.training.tensorboard import TensorBoardWriter

MetricValues = dict[str, dict[str, Any]]
REFERENCE_GRID_IMAGES = 100
"""Images in the picture of a reference row."""


class Evaluator:
    """Extractor, protocol and reference features of a run; they are loaded and computed once."""

    def __init__(self, config: RunConfig, weights: Path, dataset: Dataset, cuda: bool = False) -> None:
        name, self.protocol = config.evaluation.extractor, config.evaluation.protocol
        self.extractor, self.device = EXTRACTORS[name], "cuda" if cuda else "cpu"
        self.predicts_classes = self.extractor.predicts_classes_of(config.data.title)
        self.net = build_network(name, weights, self.extractor.layers.values(), cuda)
        self.provenance = FeatureProvenance(extractor=name, weights=weights.name, sha256=hash_weights(weights))
        reference = ArrayImages(dataset.reference, "the reference")
        self.reference = self._extract(reference, sampled=False, intervals=False)

    def _extract(self, images: ImageSource, *, sampled: bool, intervals: bool) -> metrics.SampleSet:
        layers = self.extractor.layers
        row_layers, moment_layers = required_layers(layers, set(layers), sampled=sampled, intervals=intervals)
        return collect_features(self.net, images, row_layers=row_layers, moment_layers=moment_layers)

    def measure_images(
        self, images: ImageSource | np.ndarray, labels: np.ndarray | None, *, intervals: bool
    ) -> MetricValues:
        """Compute the metrics of images (N, C, H, W) uint8; labels (N,) are the classes they were conditioned on.

        Class accuracy is only computed if the extractor predicts the data's classes.
        """
        source = ArrayImages(images, "the samples") if isinstance(images, np.ndarray) else images
        return self._compare(self._extract(source, sampled=True, intervals=intervals), labels, intervals=intervals)

    def measure_store(self, store: FeatureStore, *, intervals: bool) -> MetricValues:
        """Compute the metrics of stored features; ValueError if another extractor or other weights wrote them."""
        store.check(self.provenance)
        return self._compare(read_store(store, self.extractor.layers), store.labels, intervals=intervals)

    def _compare(self, samples: metrics.SampleSet, labels: np.ndarray | None, *, intervals: bool) -> MetricValues:
        inputs = metrics.MetricInputs(
            samples=samples,
            reference=self.reference,
            layers=self.extractor.layers,
            labels=np.asarray(labels) if labels is not None and self.predicts_classes else None,
            protocol=self.protocol,
            device=self.device,
        )
        return self.extractor.add_metric_suffix(metrics.compute_metrics(inputs, intervals=intervals))


def evaluate(run: RunFolder, config: RunConfig, make: Callable[[], Evaluator], check: Callable[[], None]) -> None:
    """Measure every evaluation point that has no metrics yet; intervals at the last point only."""
    points = config.budget.evaluation_points
    evaluator = None
    for i, point in enumerate(points):
        target = run.evaluation_path(point)
        if target.is_file():
            continue
        evaluator = evaluator or make()
        found = evaluator.measure_store(FeatureStore(run.features_path(point)), intervals=point == points[-1])
        write_json(target, {"images": point, "metrics": found})
        TensorBoardWriter(run).add(point, {k: v["value"] for k, v in found.items()})
        run.log("evaluate", images=i + 1, of=len(points), point=point, **{k: v["value"] for k, v in found.items()})
        check()


def read_curve(run: RunFolder, config: RunConfig) -> list[dict[str, Any]]:
    """Read [{images, metrics}] of all evaluation points; every point must have been evaluated."""
    points = config.budget.evaluation_points
    return [json.loads(run.evaluation_path(p).read_text()) for p in points]


class NoiseImages:
    """Images (N, C, H, W) uint8 of Gaussian pixels, drawn batch by batch in their order."""

    def __init__(self, count: int, size: tuple[int, int, int], seed: int) -> None:
        self.name, self.count, self.size, self.seed = "noise", count, size, seed
        self.left_out: list[dict[str, str]] = []

    def batches(self, size: int) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield (names, images (B, C, H, W) uint8), at most `size` images at a time."""
        rng = np.random.RandomState(self.seed)
        for start in range(0, self.count, size):
            n = min(size, self.count - start)
            values = rng.standard_normal((n, *self.size)) * 127.5 + 127.5
            yield [f"noise {start + i}" for i in range(n)], np.clip(values, 0, 255).astype(np.uint8)


def measure_reference_rows(
    evaluator: Evaluator, dataset: Dataset, config: RunConfig
) -> dict[str, tuple[MetricValues, np.ndarray]]:
    """Measure real images that are never trained on, and Gaussian noise: the best and the worst case of a metric.

    Returns {"held-out" or "noise": (metrics, images (P, C, H, W) uint8 for a picture)}; held-out only if the data set
    has such images.
    """
    e, (channels, height, width) = config.evaluation, dataset.reference.shape[1:]
    noise = NoiseImages(e.samples, (channels, height, width), e.seed)
    classes = max(1, open_source(config.data.name, config.data.root).num_classes)
    values = evaluator.measure_images(noise, np.arange(e.samples) % classes, intervals=True)
    rows = {"noise": (values, next(noise.batches(REFERENCE_GRID_IMAGES))[1])}
    if dataset.held_out is not None:
        images = ArrayImages(dataset.held_out, "held-out")
        values = evaluator.measure_images(images, dataset.held_out_labels, intervals=True)
        rows["held-out"] = (values, np.asarray(dataset.held_out[:REFERENCE_GRID_IMAGES]))
    return rows
