"""Metrics of images against a run's reference, and the context that the sampling and evaluation stages share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench.config.schema import RunConfig
from bench.data.dataset import Dataset
from bench.evaluation import metrics
from bench.evaluation.comparison import add_metric_suffix, required_layers
from bench.evaluation.extractors.extractor_registry import EXTRACTORS, build_network, prepare_weights
from bench.evaluation.feature_extraction import collect_features
from bench.evaluation.feature_store import FeatureProvenance, FeatureStore
from bench.evaluation.image_io import ArrayImages, ImageSource
from bench.training.run_context import RunContext

MetricValues = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class PreparedExtractor:
    """A feature extractor whose weights are on this machine, and were hashed."""

    name: str
    path: Path
    sha256: str

    @classmethod
    def prepare(cls, name: str, weights: str, cache: Path) -> PreparedExtractor:
        """Find the weights, or make them in `cache`; ValueError where neither is possible."""
        path, sha256 = prepare_weights(name, weights, cache)
        return cls(name=name, path=path, sha256=sha256)

    @property
    def provenance(self) -> FeatureProvenance:
        """Identity of the extractor, as feature stores hold it."""
        return FeatureProvenance(extractor=self.name, weights=self.path.name, sha256=self.sha256)


@dataclass(frozen=True, kw_only=True)
class EvaluationContext(RunContext):
    """A run's context with its extractor, which is prepared, hashed and loaded once."""

    extractor: PreparedExtractor

    @classmethod
    def prepare(cls, context: RunContext) -> EvaluationContext:
        """Prepare the extractor, first on rank 0, which may have to make its weights; every process calls this."""
        e, cache = context.config.evaluation, context.run.cache
        extractor = PreparedExtractor.prepare(e.extractor, e.weights, cache) if context.world.first else None
        context.world.barrier()
        extractor = extractor or PreparedExtractor.prepare(e.extractor, e.weights, cache)
        return cls(**{f.name: getattr(context, f.name) for f in fields(context)}, extractor=extractor)

    @cached_property
    def evaluator(self) -> Evaluator:
        """The extractor's network and the features of the reference, computed at first use."""
        return Evaluator(self.config, self.extractor, self.dataset, cuda=self.device.type == "cuda")


class Evaluator:
    """An extractor and the features of the reference, computed once."""

    def __init__(self, config: RunConfig, extractor: PreparedExtractor, dataset: Dataset, cuda: bool = False) -> None:
        self.protocol = config.evaluation.protocol
        self.entry, self.device = EXTRACTORS[extractor.name], "cuda" if cuda else "cpu"
        self.classifies = self.entry.knows(config.data.title)
        self.net = build_network(extractor.name, extractor.path, self.entry.layers.values(), cuda)
        self.provenance = extractor.provenance
        self.real = self.collect(ArrayImages(dataset.reference, "the reference"), sampled=False, intervals=False)

    def collect(self, images: ImageSource, *, sampled: bool, intervals: bool) -> metrics.SampleSet:
        layers = self.entry.layers
        keep, fit = required_layers(layers, set(layers), sampled=sampled, intervals=intervals)
        return collect_features(self.net, images, keep=keep, fit=fit)

    def measure(self, images: ImageSource | np.ndarray, labels: np.ndarray | None, *, intervals: bool) -> MetricValues:
        """Metrics of uint8 images (N, C, H, W), their names ending as the extractor's must.

        Class accuracy is only measured by an extractor whose classes are the data's.
        """
        source = ArrayImages(images, "the samples") if isinstance(images, np.ndarray) else images
        return self.compare(self.collect(source, sampled=True, intervals=intervals), labels, intervals=intervals)

    def measure_stored(self, store: FeatureStore, *, intervals: bool) -> MetricValues:
        """Metrics of samples whose features are stored; ValueError where they are another extractor's."""
        store.check(self.provenance)
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
