"""Small CNNs that classify digits and shapes, and whose features stand in for Inception's on a laptop.

They are trained when they are first needed, in float64 on one thread with smooth layers, and their weights are
rounded to 1/4096.  Differences of machine arithmetic (about 1e-16, grown a little by training) then
vanish in the rounding, so the same weights, and the same hash, come out on every machine of one
architecture.

B batch, C channels, F features.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.config.seeds import derive_seed
from bench.data import synthetic_shapes
from bench.data.dataset import normalise
from bench.data.sources import load_dataset

WEIGHT_RESOLUTION = 4096
FEATURE_WIDTH, NUM_CLASSES = 64, 10


@dataclass(frozen=True, kw_only=True)
class SmallCnnDesign:
    """One CNN: its layers, and what it is trained on."""

    channels: int
    side: int
    """Height and width that it sees."""
    convs: tuple[tuple[int, int], ...]
    """(channels, stride) of each convolution; after one of stride 1 comes a pool of 2."""
    examples: Callable[[], tuple[np.ndarray, np.ndarray]]
    """Images (N, C, H, W) uint8 and labels (N,)."""
    epochs: int
    rate: float


def digits_training_images() -> tuple[np.ndarray, np.ndarray]:
    arrays = load_dataset("digits")
    return arrays.images[:], arrays.labels[:]


def shapes_training_images(count: int = 16_000) -> tuple[np.ndarray, np.ndarray]:
    rows = synthetic_shapes.FIRST_EXTRACTOR_ROW + np.arange(count)
    return synthetic_shapes.draw_images(rows, 32), synthetic_shapes.class_labels(rows)


DESIGNS = {
    "digits-cnn": SmallCnnDesign(
        channels=1, side=8, convs=((16, 1), (32, 1)), examples=digits_training_images, epochs=30, rate=4e-3
    ),
    "shapes-cnn": SmallCnnDesign(
        channels=3, side=32, convs=((12, 2), (24, 1), (48, 1)), examples=shapes_training_images, epochs=2, rate=6e-3
    ),
}


class SmallCNN(nn.Module):
    """(B, C, side, side) in [-1, 1] -> 64 features and 10 logits."""

    def __init__(self, design: SmallCnnDesign) -> None:
        super().__init__()
        before, side = design.channels, design.side
        self.names = [f"conv{i}" for i in range(1, len(design.convs) + 1)]
        for name, (channels, stride) in zip(self.names, design.convs, strict=True):
            self.add_module(name, nn.Conv2d(before, channels, 3, padding=1, stride=stride))
            before, side = channels, side // 2
        self.hidden = nn.Linear(before * side * side, FEATURE_WIDTH)
        self.out = nn.Linear(FEATURE_WIDTH, NUM_CLASSES)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        h = x_BCHW
        for name in self.names:
            conv = self.get_submodule(name)
            h = F.silu(conv(h))
            h = F.avg_pool2d(h, 2) if conv.stride == (1, 1) else h
        features_BF = F.silu(self.hidden(h.flatten(1)))
        return features_BF, self.out(features_BF)


def train_small_cnn(name: str, epochs: int | None = None, batch: int = 64) -> dict[str, Tensor]:
    """Weights of a small CNN, float32 rounded to 1/4096, from images that no run is measured with."""
    design = DESIGNS[name]
    images, labels = design.examples()
    x, y = torch.from_numpy(normalise(images)).double(), torch.from_numpy(labels)
    net = SmallCNN(design).double()
    rng = np.random.RandomState(derive_seed(name) % 2**32)
    with torch.no_grad():
        for p in net.parameters():
            fan_in = p[0].numel() if p.dim() > 1 else 0
            values = rng.standard_normal(tuple(p.shape)) / max(fan_in, 1) ** 0.5
            p.copy_(torch.from_numpy(values) * (2**0.5 if fan_in else 0))
    optimizer = torch.optim.Adam(net.parameters(), lr=design.rate / 2)
    epochs = epochs or design.epochs
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=design.rate, total_steps=steps)
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
    return {k: ((v * WEIGHT_RESOLUTION).round() / WEIGHT_RESOLUTION).float() for k, v in net.state_dict().items()}


def prepare_small_cnn(name: str, given: str, cache: Path) -> Path:
    """The cached weights of a small CNN, trained now if they are not there."""
    path = Path(given) if given else cache / f"{name}.safetensors"
    if given and not path.is_file():
        raise ValueError(f"evaluation.weights is {given}, which is no file")
    if given:
        try:
            SmallCNN(DESIGNS[name]).load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError, OSError):
            raise ValueError(f"{given} holds no weights of {name}") from None
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        partial_ = path.with_suffix(f".{os.getpid()}.partial")
        save_file(train_small_cnn(name), partial_)
        partial_.replace(path)
    return path
