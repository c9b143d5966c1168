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
from bench.evaluation.extractors.extractor_registry import EXTRACTORS, build_network, prepare_weights
from bench.evaluation.feature_extraction import collect_features, read_store, required_layers
from bench.evaluation.feature_store import FeatureProvenance, FeatureStore
from bench.evaluation.image_io import ArrayImages, ImageSource
from bench.training.run_context import RunContext

MetricValues = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class PreparedExtractor:
    """Feature extractor with the file and the hash of its weights."""

    name: str
    path: Path
    sha256: str

    @classmethod
    def prepare(cls, name: str, weights: str, cache: Path) -> PreparedExtractor:
        """Find the weights, or train them in `cache`; ValueError if neither is possible."""
        path, sha256 = prepare_weights(name, weights, cache)
        return cls(name=name, path=path, sha256=sha256)

    @property
    def provenance(self) -> FeatureProvenance:
        """Identity of the extractor, as feature stores hold it."""
        return FeatureProvenance(extractor=self.name, weights=self.path.name, sha256=self.sha256)


@dataclass(frozen=True, kw_only=True)
class EvaluationContext(RunContext):
    """Context of a run with its extractor, which is prepared and loaded once."""

    extractor: PreparedExtractor

    @classmethod
    def prepare(cls, context: RunContext) -> EvaluationContext:
        """Prepare the extractor; every process calls this.  Rank 0 is first, since it may have to train the weights."""
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
    """Extractor, protocol and reference features of a run; they are loaded and computed once."""

    def __init__(self, config: RunConfig, prepared: PreparedExtractor, dataset: Dataset, cuda: bool = False) -> None:
        self.protocol = config.evaluation.protocol
        self.extractor, self.device = EXTRACTORS[prepared.name], "cuda" if cuda else "cpu"
        self.predicts_classes = self.extractor.predicts_classes_of(config.data.title)
        self.net = build_network(prepared.name, prepared.path, self.extractor.layers.values(), cuda)
        self.provenance = prepared.provenance
        reference = ArrayImages(dataset.reference, "the reference")
        self.reference = self._extract(reference, sampled=False, intervals=False)

    def _extract(self, images: ImageSource, *, sampled: bool, intervals: bool) -> metrics.SampleSet:
        layers = self.extractor.layers
        row_layers, moment_layers = required_layers(layers, set(layers), sampled=sampled, intervals=intervals)
        return collect_features(self.net, images, row_layers=row_layers, moment_layers=moment_layers)

    def measure(self, images: ImageSource | np.ndarray, labels: np.ndarray | None, *, intervals: bool) -> MetricValues:
        """Compute the metrics of images (N, C, H, W) uint8; labels (N,) are the classes they were conditioned on.

        Class accuracy is only computed if the extractor predicts the data's classes.
        """
        source = ArrayImages(images, "the samples") if isinstance(images, np.ndarray) else images
        return self._compare(self._extract(source, sampled=True, intervals=intervals), labels, intervals=intervals)

    def measure_stored(self, store: FeatureStore, *, intervals: bool) -> MetricValues:
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
