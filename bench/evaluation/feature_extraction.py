"""Extract the features of a sample set, batch by batch.

Layers are kept as rows (N, F) float32, or only as the running sums that their mean and covariance need.  The memory
for 50,000 images is therefore little more than the rows that the metrics need.

N images, B images of a batch, C channels, H height, W width, F features.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext

import numpy as np
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from bench.evaluation.extractors.extractor_registry import extract_features
from bench.evaluation.feature_store import FeatureStore
from bench.evaluation.frechet import RunningMoments
from bench.evaluation.image_io import ImageSource
from bench.evaluation.metrics import FRECHET_PURPOSES, SampleSet
from bench.terminal.progress_bar import ProgressBar

NOT_FINITE = "has features with NaN or infinity"


class FeatureAccumulator:
    """Rows of some layers, and running mean and covariance of others."""

    def __init__(self, capacity: int, row_layers: Collection[str], moment_layers: Collection[str]) -> None:
        self.capacity, self.row_layers, self.count = capacity, row_layers, 0
        self.rows: dict[str, np.ndarray] = {}
        self.moments = {layer: RunningMoments() for layer in moment_layers if layer not in row_layers}

    def add(self, features: Mapping[str, np.ndarray]) -> None:
        """Add a batch, {layer: (B, F)}."""
        size = len(next(iter(features.values())))
        for layer in self.row_layers:
            if layer not in self.rows:
                self.rows[layer] = np.empty((self.capacity, features[layer].shape[1]), np.float32)
            self.rows[layer][self.count : self.count + size] = features[layer]
        for layer, moments in self.moments.items():
            moments.add(features[layer])
        self.count += size

    def sample_set(self, name: str = "this sample set") -> SampleSet:
        """Return the features and statistics so far; ValueError below two images."""
        if self.count < 2:
            raise ValueError(f"{name} has {self.count} usable image(s); at least 2 are needed")
        features = {layer: x[: self.count] for layer, x in self.rows.items()}
        statistics = {layer: moments.gaussian() for layer, moments in self.moments.items()}
        return SampleSet(features=features, statistics=statistics, count=self.count)


def required_layers(
    layers: Mapping[str, str], purposes: Collection[str], *, sampled: bool, intervals: bool
) -> tuple[set[str], set[str]]:
    """Return (layers needed as rows, layers needed as statistics) for some purposes of {purpose: layer}.

    `sampled` is True for the generated samples and False for the reference.  Frechet distances need rows only of the
    samples, and only for their intervals.
    """
    row_purposes = {"kid", "prc", "is"} if sampled else {"kid", "prc"}
    if sampled and intervals:
        row_purposes |= set(FRECHET_PURPOSES)
    available = set(purposes) & set(layers)
    row_layers = {layers[p] for p in available & row_purposes}
    moment_layers = {layers[p] for p in available & set(FRECHET_PURPOSES)}
    return row_layers, moment_layers - row_layers


def collect_features(
    net: FeatureExtractorBase,
    images: ImageSource,
    *,
    row_layers: Collection[str],
    moment_layers: Collection[str],
    batch: int = 64,
    skip_bad: bool = False,
    progress: ProgressBar | None = None,
) -> SampleSet:
    """Extract the features of all images.

    ValueError names the first image whose features are not finite; with `skip_bad`, such images are appended to
    `images.left_out` instead.
    """
    accumulator = FeatureAccumulator(images.count, row_layers, moment_layers)
    with progress or nullcontext():
        for names, pixels in images.batches(batch):
            features = extract_features(net, pixels)
            finite_B = finite_rows(features)
            for name in (n for n, ok in zip(names, finite_B, strict=True) if not ok):
                if not skip_bad:
                    raise ValueError(f"{name} {NOT_FINITE}; the weights or the image are damaged")
                images.left_out.append({"file": name, "reason": NOT_FINITE})
            if finite_B.any():
                accumulator.add({layer: x[finite_B] for layer, x in features.items()})
            if progress:
                progress.add(len(names))
    return accumulator.sample_set(images.name)


def read_store(store: FeatureStore, layers: Mapping[str, str]) -> SampleSet:
    """Read a feature store written by the extractor of {purpose: layer}."""
    return SampleSet(features=store.features(), statistics=store.statistics(layers), count=store.count)


def finite_rows(features: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return (B,) bool: the images whose features are finite in every layer of {layer: (B, F)}."""
    finite_B: np.ndarray = np.logical_and.reduce([np.isfinite(x).all(1) for x in features.values()])
    return finite_B


def extract_in_batches(
    net: FeatureExtractorBase, numbers: np.ndarray, images_BCHW: np.ndarray, size: int = 64
) -> dict[str, np.ndarray]:
    """Extract {layer: (B, F) float32} of the samples with these numbers, `size` images at a time to limit memory.

    ValueError names the first sample whose features are not finite.
    """
    parts = [extract_features(net, images_BCHW[i : i + size]) for i in range(0, len(images_BCHW), size)]
    features = {layer: np.concatenate([part[layer] for part in parts]) for layer in parts[0]}
    if not (finite_B := finite_rows(features)).all():
        raise ValueError(
            f"sample {numbers[~finite_B][0]} {NOT_FINITE}; the extractor's weights or the image are damaged"
        )
    return features


def feature_widths(net: FeatureExtractorBase, size: tuple[int, int, int]) -> dict[str, int]:
    """Return {layer: F}, from one black image of size (C, H, W)."""
    features = extract_features(net, np.zeros((1, *size), np.uint8))
    return {layer: x.shape[1] for layer, x in features.items()}
