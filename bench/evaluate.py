"""Evaluation: sampled images -> features -> metrics, one JSON file an evaluation point."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import metrics
from .config import RunConfig
from .data import Arrays, source
from .extractors import EXTRACTORS, features
from .runfolder import RunFolder, evaluation_points, write_json
from .tensorboard import Scalars

Metrics = dict[str, dict[str, Any]]


class Evaluator:
    """An extractor and the features of the reference, computed once."""

    def __init__(self, config: RunConfig, weights: Path, arrays: Arrays, cuda: bool = False) -> None:
        self.name, self.weights, self.cuda = config.evaluation.extractor, weights, cuda
        self.entry = EXTRACTORS[self.name]
        self.real = self.features(arrays.reference)

    def features(self, images: np.ndarray) -> dict[str, Tensor]:
        return features(self.name, self.weights, images, self.cuda)

    def __call__(self, images: np.ndarray, labels: np.ndarray | None, *, intervals: bool) -> Metrics:
        """Metrics of uint8 images (N, C, H, W), their names ending as the extractor's must.

        Class accuracy is only measured by an extractor whose classes are the data's.
        """
        known = labels is not None and self.entry.suffix != ""
        sides = metrics.Sides(
            features=self.features(images),
            real=self.real,
            layers=self.entry.layers,
            labels=torch.from_numpy(np.asarray(labels)) if known else None,
        )
        found = metrics.compute(sides, intervals=intervals)
        return {name + self.entry.suffix: value for name, value in found.items()}


def load_samples(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """(N, C, H, W) uint8 and labels, if any, of an .npz in ADM's layout (arr_0: N, H, W, C)."""
    with np.load(path, allow_pickle=False) as z:
        labels = z["labels"]
        return z["arr_0"].transpose(0, 3, 1, 2), labels if len(labels) else None


def evaluate(run: RunFolder, config: RunConfig, make: Callable[[], Evaluator], check: Callable[[], None]) -> None:
    """Measure every evaluation point that has no metrics yet; intervals at the last point only."""
    points = evaluation_points(config.budget.images, config.budget.points)
    evaluator = None
    for i, point in enumerate(points):
        target = run.file("evaluation", point, "json")
        if target.is_file():
            continue
        evaluator = evaluator or make()
        images, labels = load_samples(run.file("samples", point, "npz"))
        found = evaluator(images, labels, intervals=point == points[-1])
        write_json(target, {"images": point, "metrics": found})
        Scalars(run).add(point, {k: v["value"] for k, v in found.items()})
        run.log("evaluate", images=i + 1, of=len(points), **{k: v["value"] for k, v in found.items()})
        check()


def read_curve(run: RunFolder, config: RunConfig) -> list[dict[str, Any]]:
    """[{images, metrics}] of all evaluation points."""
    points = evaluation_points(config.budget.images, config.budget.points)
    return [json.loads(run.file("evaluation", p, "json").read_text()) for p in points]


def reference_rows(evaluator: Evaluator, arrays: Arrays, config: RunConfig) -> dict[str, tuple[Metrics, np.ndarray]]:
    """{"held-out": ..., "noise": ...}: metrics of real images never trained on, and of Gaussian noise.

    Noise is the ceiling, real images are the floor.
    """
    e = config.evaluation
    shape = arrays.reference.shape[1:]
    rng = np.random.RandomState(e.seed)
    noise = np.clip(rng.standard_normal((e.samples, *shape)) * 127.5 + 127.5, 0, 255).astype(np.uint8)
    count = max(1, source(config.data.name, config.data.root).num_classes)
    rows = {"noise": (evaluator(noise, np.arange(e.samples) % count, intervals=True), noise)}
    if arrays.held_out is not None:
        rows["held-out"] = (evaluator(arrays.held_out, arrays.held_out_labels, intervals=True), arrays.held_out)
    return rows
