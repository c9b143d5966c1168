"""Feature extractors for the metrics: torch-fidelity's (bench/pretrained.py), and a small CNN for digits.

The digits CNN is trained on the training split when it is first needed, in float64 on one thread
with smooth layers, and its weights are rounded to 1/4096.  Differences of machine arithmetic
(about 1e-16, grown a little by training) then vanish in the rounding, so the same weights, and the
same hash, come out on every machine of one architecture.

B batch, C channels, F features.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from .data import Rows, load, normalise
from .pretrained import DinoV2, InceptionV3, prepare_dinov2, prepare_inception, sha256
from .seeds import fold

ROUNDING = 4096


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


class DigitsNet(nn.Module):
    """(B, 1, 8, 8) in [-1, 1] -> 64 features and 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(128, 64)
        self.out = nn.Linear(64, 10)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        h = F.avg_pool2d(F.silu(self.conv1(x_BCHW)), 2)
        h = F.avg_pool2d(F.silu(self.conv2(h)), 2)
        features_BF = F.silu(self.hidden(h.flatten(1)))
        return features_BF, self.out(features_BF)


class DigitsCNN(FeatureExtractorBase):
    """torch-fidelity's face of DigitsNet; takes uint8 images, one channel or three equal ones."""

    def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
        super().__init__(name, features_list)
        self.net = DigitsNet()
        self.net.load_state_dict(load_file(kwargs["feature_extractor_weights_path"]))

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("64", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "64"

    @staticmethod
    def can_be_compiled() -> bool:
        return True

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 1, 8, 8, dtype=torch.uint8)

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        features_BF, logits = self.net(input[:, :1].float() / 127.5 - 1)
        given = {"64": features_BF, "logits": logits}
        return tuple(given[name] for name in self.features_list)


if "digits-cnn" not in FEATURE_EXTRACTORS_REGISTRY:
    register_feature_extractor("digits-cnn", DigitsCNN)


def train_digits_cnn(epochs: int = 30, batch: int = 64) -> dict[str, Tensor]:
    """Weights of the digits CNN, float32 rounded to 1/4096, from the training split alone."""
    arrays = load("digits")
    x, y = torch.from_numpy(normalise(np.asarray(arrays.images))).double(), torch.from_numpy(arrays.labels)
    net = DigitsNet().double()
    rng = np.random.RandomState(fold("digits-cnn") % 2**32)
    with torch.no_grad():
        for p in net.parameters():
            fan_in = p[0].numel() if p.dim() > 1 else 0
            values = rng.standard_normal(tuple(p.shape)) / max(fan_in, 1) ** 0.5
            p.copy_(torch.from_numpy(values) * (2**0.5 if fan_in else 0))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(epochs):
            order = torch.from_numpy(rng.permutation(len(x)))
            for start in range(0, batch * (len(x) // batch), batch):
                rows = order[start : start + batch]
                loss = F.cross_entropy(net(x[rows])[1], y[rows], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    finally:
        torch.set_num_threads(threads)
    return {k: ((v * ROUNDING).round() / ROUNDING).float() for k, v in net.state_dict().items()}


def prepare_digits_cnn(given: str, cache: Path) -> Path:
    """The cached weights of the digits CNN, trained now if they are not there."""
    path = Path(given) if given else cache / "digits-cnn.safetensors"
    if given and not path.is_file():
        raise ValueError(f"evaluation.weights is {given}, which is no file")
    if given:
        try:
            DigitsNet().load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError, OSError):
            raise ValueError(f"{given} holds no weights of the digits CNN") from None
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        save_file(train_digits_cnn(), partial)
        partial.replace(path)
    return path


EXTRACTORS: dict[str, Extractor] = {
    "inception-v3-compat": Extractor(
        layers={"fid": "2048", "sfid": "spatial", "is": "logits_unbiased", "kid": "2048", "prc": "2048"},
        network=InceptionV3,
        prepare=prepare_inception,
    ),
    "dinov2-vit-l-14": Extractor(layers={"fd_dinov2": "dinov2"}, network=DinoV2, prepare=prepare_dinov2),
    "digits-cnn": Extractor(
        layers={"fid": "64", "is": "logits", "prc": "64"},
        network=DigitsCNN,
        channels=(1, 3),
        side=8,
        prepare=prepare_digits_cnn,
        suffix="[digits-cnn]",
        made_here=True,
    ),
}


def check(name: str, given: str) -> None:
    """ValueError when the extractor is unknown, or its weights are missing and cannot be made here."""
    known = [n for n, e in EXTRACTORS.items() if "fid" in e.layers]
    if name not in known:
        raise ValueError(f"evaluation.extractor is {name!r}; choose one of {', '.join(known)}")
    if given or not EXTRACTORS[name].made_here:
        EXTRACTORS[name].prepare(given, Path())


def prepare(name: str, given: str, cache: Path) -> tuple[Path, str]:
    """(file, SHA-256) of an extractor's weights, made or found; ValueError where that is impossible."""
    check(name, given)
    path = EXTRACTORS[name].prepare(given, cache)
    return path, weights_hash(path)


def weights_hash(path: Path) -> str:
    """SHA-256 of a file of weights; of the tensors alone for safetensors, whose headers may differ."""
    if path.suffix != ".safetensors":
        return sha256(path)
    h = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        h.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return h.hexdigest()


def check_side(what: str, size: tuple[int, int, int], name: str) -> None:
    """ValueError where images (C, H, W) are not of the size that an extractor takes."""
    side, (_, height, width) = EXTRACTORS[name].side, size
    if side and (height, width) != (side, side):
        raise ValueError(f"{what} has images of {width}x{height}; {name} takes {side}x{side}")


class Images(Dataset[Tensor]):
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


def network(name: str, weights: Path, layers: Iterable[str], cuda: bool = False) -> FeatureExtractorBase:
    """An extractor that gives these layers."""
    net = EXTRACTORS[name].network(name, sorted(set(layers)), feature_extractor_weights_path=str(weights))
    net = net.requires_grad_(False).eval()
    return net.cuda() if cuda else net


def extract(net: FeatureExtractorBase, images_BCHW: np.ndarray) -> dict[str, np.ndarray]:
    """{layer: (B, F) float32} of uint8 images, one channel or three."""
    batch = torch.from_numpy(np.ascontiguousarray(images_BCHW)).expand(-1, 3, -1, -1).to(next(net.parameters()).device)
    with torch.inference_mode():
        found = net.convert_features_tuple_to_dict(net(batch))
    return {layer: x.float().cpu().numpy() for layer, x in found.items()}


def features(name: str, weights: Path, images: Rows, cuda: bool = False, batch: int = 256) -> dict[str, Tensor]:
    """{layer: (N, F)} of uint8 images (N, 1 or 3, H, W) that are all there."""
    Images(images)
    net = network(name, weights, EXTRACTORS[name].layers.values(), cuda)
    parts = [extract(net, np.array(images[i : i + batch], order="C")) for i in range(0, len(images), batch)]
    return {layer: torch.from_numpy(np.concatenate([p[layer] for p in parts])) for layer in parts[0]}
