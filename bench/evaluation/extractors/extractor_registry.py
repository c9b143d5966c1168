"""Feature extractors for the metrics: torch-fidelity's (inception_dinov2.py), and those trained here (small_cnn.py).

B batch, C channels, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset

from bench.config.metric_specs import FID_EXTRACTORS
from bench.data.dataset import Rows
from bench.evaluation.extractors import small_cnn
from bench.storage.atomic import file_sha256
from bench.storage.tensor_files import tensors_sha256

if TYPE_CHECKING:
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase


def build_inception(*args: Any, **kwargs: Any) -> FeatureExtractorBase:
    """Build torch-fidelity's InceptionV3; importing it takes 1.5 s, so that is left until it is needed."""
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
    """File of Inception's weights; ValueError says what is missing."""
    from bench.evaluation.extractors import inception_dinov2

    return inception_dinov2.find_inception_weights(path, cache)


def find_dinov2_weights(path: str, cache: Path) -> Path:
    """File of DINOv2's weights; ValueError says what is missing."""
    from bench.evaluation.extractors import inception_dinov2

    return inception_dinov2.find_dinov2_weights(path, cache)


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """One extractor: its layers, and how its weights come to be on this machine."""

    layers: dict[str, str]
    """Purpose (fid, sfid, fd_dinov2, is, kid, prc) -> name of the layer."""
    network: Callable[..., FeatureExtractorBase]
    """torch-fidelity's constructor: (name, layers, feature_extractor_weights_path=...)."""
    channels: tuple[int, ...] = (3,)
    """Image channels it takes."""
    side: int = 0
    """Height and width of the images it takes; 0: any."""
    prepare: Callable[[str, Path], Path]
    """(path given by the user or "", cache folder) -> file of weights; ValueError says what is missing."""
    made_here: bool = False
    """Whether `prepare` can make the weights."""
    suffix: str = ""
    """Ends every metric's name, so that nobody takes it for an Inception metric."""
    classifies: str = ""
    """The data sets whose classes it knows begin with this; "" is none."""

    def knows(self, title: str) -> bool:
        """Whether its classes are those of a data set, so that class accuracy means something."""
        return bool(self.classifies) and title.startswith(self.classifies)


EXTRACTORS: dict[str, Extractor] = {
    "inception-v3-compat": Extractor(
        layers={"fid": "2048", "sfid": "spatial", "is": "logits_unbiased", "kid": "2048", "prc": "2048"},
        network=build_inception,
        prepare=find_inception_weights,
    ),
    "dinov2-vit-l-14": Extractor(
        layers={"fd_dinov2": "dinov2"},
        network=build_dinov2,
        prepare=find_dinov2_weights,
    ),
    "digits-cnn": Extractor(
        layers={"fid": "64", "is": "logits", "prc": "64"},
        network=build_small_cnn,
        channels=(1, 3),
        side=8,
        prepare=partial(small_cnn.prepare_small_cnn, "digits-cnn"),
        suffix="[digits-cnn]",
        classifies="digits",
        made_here=True,
    ),
    "shapes-cnn": Extractor(
        layers={"fid": "64", "is": "logits", "prc": "64"},
        network=build_small_cnn,
        prepare=partial(small_cnn.prepare_small_cnn, "shapes-cnn"),
        suffix="[shapes-cnn]",
        classifies="shapes",
        made_here=True,
    ),
}


def check_extractor(name: str, given: str) -> None:
    """ValueError when the extractor is unknown, or its weights are missing and cannot be made here."""
    if name not in FID_EXTRACTORS:
        raise ValueError(f"evaluation.extractor is {name!r}; choose one of {', '.join(FID_EXTRACTORS)}")
    if given or not EXTRACTORS[name].made_here:
        EXTRACTORS[name].prepare(given, Path())


def prepare_weights(name: str, given: str, cache: Path) -> tuple[Path, str]:
    """(file, SHA-256) of an extractor's weights, made or found; ValueError where that is impossible."""
    check_extractor(name, given)
    path = EXTRACTORS[name].prepare(given, cache)
    return path, hash_weights(path)


def hash_weights(path: Path) -> str:
    """SHA-256 of a file of weights; of the tensors alone for safetensors, whose headers may differ."""
    if path.suffix != ".safetensors":
        return file_sha256(path)
    return tensors_sha256(load_file(path), dtypes=False)


def check_image_size(what: str, size: tuple[int, int, int], name: str) -> None:
    """ValueError where images (C, H, W) are not of the size that an extractor takes."""
    side, (_, height, width) = EXTRACTORS[name].side, size
    if side and (height, width) != (side, side):
        raise ValueError(f"{what} has images of {width}x{height}; {name} takes {side}x{side}")


class ImageDataset(Dataset[Tensor]):
    """uint8 images (N, C, H, W) as torch-fidelity wants them: three channels, one by one."""

    def __init__(self, images: Rows) -> None:
        if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images are {images.dtype} {images.shape}; they must be uint8 (N, 1 or 3, H, W)")
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image = torch.from_numpy(np.array(self.images[index : index + 1][0]))
        return image.expand(3, -1, -1)


def build_network(name: str, weights: Path, layers: Iterable[str], cuda: bool = False) -> FeatureExtractorBase:
    """An extractor that gives these layers."""
    net = EXTRACTORS[name].network(name, sorted(set(layers)), feature_extractor_weights_path=str(weights))
    net = net.requires_grad_(False).eval()
    return net.cuda() if cuda else net


def extract_features(net: FeatureExtractorBase, images_BCHW: np.ndarray) -> dict[str, np.ndarray]:
    """{layer: (B, F) float32} of uint8 images, one channel or three."""
    batch = torch.from_numpy(np.ascontiguousarray(images_BCHW)).expand(-1, 3, -1, -1).to(next(net.parameters()).device)
    with torch.inference_mode():
        found = net.convert_features_tuple_to_dict(net(batch))
    return {layer: x.float().cpu().numpy() for layer, x in found.items()}


def features_of_images(
    name: str, weights: Path, images: Rows, cuda: bool = False, batch: int = 256
) -> dict[str, Tensor]:
    """{layer: (N, F)} of uint8 images (N, 1 or 3, H, W) that are all there."""
    ImageDataset(images)
    net = build_network(name, weights, EXTRACTORS[name].layers.values(), cuda)
    parts = [extract_features(net, np.array(images[i : i + batch], order="C")) for i in range(0, len(images), batch)]
    return {layer: torch.from_numpy(np.concatenate([p[layer] for p in parts])) for layer in parts[0]}
