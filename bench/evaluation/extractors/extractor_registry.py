"""Registry of the feature extractors: published networks, and small CNNs that are trained here.

B batch, C channels, H height, W width, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.config.metric_specs import FID_EXTRACTORS
from bench.evaluation.extractors import small_cnn
from bench.evaluation.extractors.weight_hashes import hash_weights

if TYPE_CHECKING:
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

INCEPTION, DINOV2 = "inception-v3-compat", "dinov2-vit-l-14"


# Importing torch-fidelity takes 1.5 s, so the functions below import it only when they are called.


def build_inception(*args: Any, **kwargs: Any) -> FeatureExtractorBase:
    """Build torch-fidelity's InceptionV3 with ADM's spatial features."""
    from bench.evaluation.extractors.inception_dinov2 import InceptionV3

    return InceptionV3(*args, **kwargs)


def build_dinov2(*args: Any, **kwargs: Any) -> FeatureExtractorBase:
    """Build DINOv2 ViT-L/14."""
    from bench.evaluation.extractors.inception_dinov2 import DinoV2

    return DinoV2(*args, **kwargs)


def build_small_cnn(*args: Any, **kwargs: Any) -> FeatureExtractorBase:
    """Build one of the small CNNs that are trained here."""
    from bench.evaluation.extractors.torch_fidelity_adapter import SmallCnnExtractor

    return SmallCnnExtractor(*args, **kwargs)


def find_inception_weights(path: str, cache: Path) -> Path:
    """Find the file of Inception's weights; ValueError says what is missing."""
    from bench.evaluation.extractors import inception_dinov2

    return inception_dinov2.find_inception_weights(path, cache)


def find_dinov2_weights(path: str, cache: Path) -> Path:
    """Find the file of DINOv2's weights; ValueError says what is missing."""
    from bench.evaluation.extractors import inception_dinov2

    return inception_dinov2.find_dinov2_weights(path, cache)


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """Feature extractor: its layers, the images it takes, and the source of its weights."""

    layers: dict[str, str]
    """Purpose (fid, sfid, fd_dinov2, is, kid, prc) -> name of the layer."""
    build: Callable[..., FeatureExtractorBase]
    """torch-fidelity's constructor: (name, layers, feature_extractor_weights_path=...)."""
    channels: tuple[int, ...] = (3,)
    """Numbers of image channels that it takes."""
    image_size: int = 0
    """Height and width that the images must have; 0: any."""
    find_weights: Callable[[str, Path], Path]
    """(path from the user or "", cache folder) -> file of weights; ValueError says what is missing."""
    trained_here: bool = False
    """Whether `find_weights` trains the weights if they are not in the cache."""
    suffix: str = ""
    """Suffix of the metrics' names, so that they are not taken for Inception metrics."""
    classifies: str = ""
    """Prefix of the titles of the data sets whose classes it predicts; "": none."""

    def predicts_classes_of(self, title: str) -> bool:
        """Return whether it predicts the classes of a data set, so that class accuracy is meaningful."""
        return bool(self.classifies) and title.startswith(self.classifies)

    def add_metric_suffix(self, metrics: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Append the suffix to the names of metrics."""
        return {name + self.suffix: value for name, value in metrics.items()}


EXTRACTORS: dict[str, Extractor] = {
    "inception-v3-compat": Extractor(
        layers={"fid": "2048", "sfid": "spatial", "is": "logits_unbiased", "kid": "2048", "prc": "2048"},
        build=build_inception,
        find_weights=find_inception_weights,
    ),
    "dinov2-vit-l-14": Extractor(
        layers={"fd_dinov2": "dinov2"},
        build=build_dinov2,
        find_weights=find_dinov2_weights,
    ),
    "digits-cnn": Extractor(
        layers={"fid": "64", "is": "logits", "prc": "64"},
        build=build_small_cnn,
        channels=(1, 3),
        image_size=8,
        find_weights=partial(small_cnn.prepare_small_cnn, "digits-cnn"),
        suffix="[digits-cnn]",
        classifies="digits",
        trained_here=True,
    ),
    "shapes-cnn": Extractor(
        layers={"fid": "64", "is": "logits", "prc": "64"},
        build=build_small_cnn,
        find_weights=partial(small_cnn.prepare_small_cnn, "shapes-cnn"),
        suffix="[shapes-cnn]",
        classifies="shapes",
        trained_here=True,
    ),
}


def check_extractor(name: str, path: str) -> None:
    """Check an extractor and its weights: a path, or "" for the default.

    ValueError if the extractor is unknown, or if its weights are missing and cannot be trained here.
    """
    if name not in FID_EXTRACTORS:
        raise ValueError(f"evaluation.extractor is {name!r}; choose one of {', '.join(FID_EXTRACTORS)}")
    if path or not EXTRACTORS[name].trained_here:
        EXTRACTORS[name].find_weights(path, Path())


def prepare_weights(name: str, path: str, cache: Path) -> tuple[Path, str]:
    """Find or train an extractor's weights; returns (file, SHA-256).  ValueError as `check_extractor`."""
    check_extractor(name, path)
    file = EXTRACTORS[name].find_weights(path, cache)
    return file, hash_weights(file)


def describe_weights(file: str, sha256: str) -> dict[str, Any]:
    """Return {file, sha256, published} for a result file."""
    from bench.evaluation.extractors.inception_dinov2 import is_published_hash

    return {"file": file, "sha256": sha256, "published": is_published_hash(sha256)}


def check_image_size(source: str, size: tuple[int, int, int], name: str) -> None:
    """ValueError if images (C, H, W) do not have the size that an extractor takes."""
    expected, (_, height, width) = EXTRACTORS[name].image_size, size
    if expected and (height, width) != (expected, expected):
        raise ValueError(f"{source} has images of {width}x{height}; {name} takes {expected}x{expected}")


def build_network(name: str, weights: Path, layers: Iterable[str], cuda: bool = False) -> FeatureExtractorBase:
    """Build an extractor that returns these layers, in evaluation mode."""
    net = EXTRACTORS[name].build(name, sorted(set(layers)), feature_extractor_weights_path=str(weights))
    net = net.requires_grad_(False).eval()
    return net.cuda() if cuda else net


def extract_features(net: FeatureExtractorBase, images_BCHW: np.ndarray) -> dict[str, np.ndarray]:
    """Extract {layer: (B, F) float32} from uint8 images with one channel or three."""
    batch = torch.from_numpy(np.ascontiguousarray(images_BCHW)).expand(-1, 3, -1, -1).to(next(net.parameters()).device)
    with torch.inference_mode():
        features = net.convert_features_tuple_to_dict(net(batch))
    return {layer: x.float().cpu().numpy() for layer, x in features.items()}
