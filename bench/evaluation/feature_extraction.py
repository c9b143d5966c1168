"""Features of one side, streamed: images -> extractor -> feature store and running statistics.

Only the layers asked for are kept as rows, (N, F) float32; of others just the sums, so that 50,000
images need little more than their features.

N images, F features.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import Any

import numpy as np
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from bench.evaluation.extractors.extractor_registry import extract_features
from bench.evaluation.frechet import RunningMoments
from bench.evaluation.image_io import ImageSource
from bench.evaluation.metrics import SampleSet
from bench.terminal.progress_bar import ProgressBar

NOT_FINITE = "has features with NaN or infinity"


class FeatureAccumulator:
    """Rows of some layers and sums of others."""

    def __init__(self, capacity: int, keep: Collection[str], fit: Collection[str]) -> None:
        self.capacity, self.keep, self.count = capacity, keep, 0
        self.rows: dict[str, np.ndarray] = {}
        self.moments = {layer: RunningMoments() for layer in fit if layer not in keep}

    def add(self, features: dict[str, np.ndarray]) -> None:
        """One batch, {layer: (B, F)}."""
        size = len(next(iter(features.values())))
        for layer in self.keep:
            if layer not in self.rows:
                self.rows[layer] = np.empty((self.capacity, features[layer].shape[1]), np.float32)
            self.rows[layer][self.count : self.count + size] = features[layer]
        for layer, moments in self.moments.items():
            moments.add(features[layer])
        self.count += size

    def side(self, name: str = "this side") -> SampleSet:
        """What was stored; ValueError below two images."""
        if self.count < 2:
            raise ValueError(f"{name} has {self.count} usable image(s); at least 2 are needed")
        rows = {layer: x[: self.count] for layer, x in self.rows.items()}
        return SampleSet(rows=rows, fitted={k: m.gaussian() for k, m in self.moments.items()}, count=self.count)


def collect_features(
    net: FeatureExtractorBase,
    images: ImageSource,
    *,
    keep: Collection[str],
    fit: Collection[str],
    batch: int = 64,
    skip_bad: bool = False,
    progress: ProgressBar | None = None,
) -> SampleSet:
    """Features of all images.

    An image whose features are not finite is a ValueError that names it, or with `skip_bad` left out.
    """
    store = FeatureAccumulator(images.count, keep, fit)
    with progress or nullcontext():
        for names, pixels in images.batches(batch):
            found = extract_features(net, pixels)
            good = finite_rows(found)
            for name in (n for n, ok in zip(names, good, strict=True) if not ok):
                if not skip_bad:
                    raise ValueError(f"{name} {NOT_FINITE}; the weights or the image are damaged")
                images.left_out.append({"file": name, "reason": NOT_FINITE})
            if good.any():
                store.add({layer: x[good] for layer, x in found.items()})
            if progress:
                progress.add(len(names))
    return store.side(images.name)


def finite_rows(features: dict[str, np.ndarray]) -> np.ndarray:
    """(B,) bool: images all of whose features are numbers."""
    good: np.ndarray = np.logical_and.reduce([np.isfinite(x).all(1) for x in features.values()])
    return good


def extract_in_batches(
    net: FeatureExtractorBase, numbers: np.ndarray, images_BCHW: np.ndarray, size: int = 64
) -> dict[str, np.ndarray]:
    """{layer: (B, F) float32} of samples with these numbers, `size` at a time, as memory allows.

    ValueError for one whose features are not finite.
    """
    parts = [extract_features(net, images_BCHW[i : i + size]) for i in range(0, len(images_BCHW), size)]
    found = {layer: np.concatenate([part[layer] for part in parts]) for layer in parts[0]}
    if not (good := finite_rows(found)).all():
        raise ValueError(f"sample {numbers[~good][0]} {NOT_FINITE}; the extractor's weights or the image are damaged")
    return found


def feature_widths(net: FeatureExtractorBase, size: tuple[int, int, int]) -> dict[str, int]:
    """Layer -> F, from one black image."""
    found: dict[str, Any] = extract_features(net, np.zeros((1, *size), np.uint8))
    return {layer: x.shape[1] for layer, x in found.items()}
