"""Metrics of a run at its evaluation points, and of the reference rows (held-out images and noise).

N images, P images of a picture, C channels, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.config.schema import RunConfig
from bench.evaluation.evaluator import EvaluationContext, MetricValues
from bench.evaluation.feature_store import FeatureStore
from bench.evaluation.image_io import ArrayImages
from bench.storage.atomic import write_json
from bench.storage.run_folder import RunFolder
from bench.training.tensorboard import TensorBoardWriter

REFERENCE_GRID_IMAGES = 100
"""Images in the picture of a reference row."""


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Metrics of a run's evaluation points."""

    points: list[dict[str, Any]]
    """[{images, metrics}] in order of images, as evaluation/IMAGES.json holds them."""

    @property
    def metrics(self) -> MetricValues:
        """Metrics at the last evaluation point."""
        metrics: MetricValues = self.points[-1]["metrics"]
        return metrics

    @property
    def curve(self) -> list[dict[str, Any]]:
        """[{images, metrics: {name: value}}] in order of images."""
        return [
            {"images": p["images"], "metrics": {name: metric["value"] for name, metric in p["metrics"].items()}}
            for p in self.points
        ]


def evaluate(context: EvaluationContext) -> EvaluationResult:
    """Measure every evaluation point that has no metrics yet; intervals at the last point only."""
    run, points = context.run, context.config.budget.evaluation_points
    for i, point in enumerate(points):
        target = run.evaluation_path(point)
        if target.is_file():
            continue
        store = FeatureStore(run.features_path(point))
        measured = context.evaluator.measure_stored(store, intervals=point == points[-1])
        write_json(target, {"images": point, "metrics": measured})
        values = {name: metric["value"] for name, metric in measured.items()}
        TensorBoardWriter(run).add(point, values)
        run.log("evaluate", images=i + 1, of=len(points), point=point, **values)
        context.raise_if_any_stopped()
    return read_evaluation_result(run, context.config)


def read_evaluation_result(run: RunFolder, config: RunConfig) -> EvaluationResult:
    """Read the metrics of all evaluation points; each has a file of its own in the run folder."""
    points = config.budget.evaluation_points
    return EvaluationResult(points=[json.loads(run.evaluation_path(p).read_text()) for p in points])


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


def measure_reference_rows(context: EvaluationContext) -> dict[str, tuple[MetricValues, np.ndarray]]:
    """Measure real images that are never trained on, and Gaussian noise: the best and the worst case of a metric.

    Returns {"held-out" or "noise": (metrics, images (P, C, H, W) uint8 for a picture)}; held-out only if the data set
    has such images.
    """
    e, dataset, evaluator = context.config.evaluation, context.dataset, context.evaluator
    _, channels, height, width = dataset.reference.shape
    noise = NoiseImages(e.samples, (channels, height, width), e.seed)
    labels = np.arange(e.samples) % max(1, context.source.num_classes)
    measured = evaluator.measure(noise, labels, intervals=True)
    rows = {"noise": (measured, next(noise.batches(REFERENCE_GRID_IMAGES))[1])}
    if dataset.held_out is not None:
        held_out = ArrayImages(dataset.held_out, "held-out")
        measured = evaluator.measure(held_out, dataset.held_out_labels, intervals=True)
        rows["held-out"] = (measured, np.asarray(dataset.held_out[:REFERENCE_GRID_IMAGES]))
    return rows
