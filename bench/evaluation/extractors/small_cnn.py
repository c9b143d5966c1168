"""Small CNNs that classify digits and shapes; their features replace Inception's on a laptop.

They are trained when they are first needed: in float64, on one thread, with smooth layers.  The weights are rounded
to 1/4096.  The rounding removes differences of machine arithmetic (about 1e-16, slightly amplified by training), so
all machines of one architecture get the same weights and the same hash.

B batch, C channels, H height, W width, N images, F features.
"""

from __future__ import annotations

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
from bench.storage.atomic import atomic_write

WEIGHT_RESOLUTION = 4096
FEATURE_WIDTH, NUM_CLASSES = 64, 10


@dataclass(frozen=True, kw_only=True)
class SmallCnnDesign:
    """Layers and training of one CNN."""

    channels: int
    image_size: int
    """Height and width of its input."""
    convs: tuple[tuple[int, int], ...]
    """(channels, stride) of each convolution; average pooling by 2 follows a convolution of stride 1."""
    examples: Callable[[], tuple[np.ndarray, np.ndarray]]
    """Function that returns training images (N, C, H, W) uint8 and labels (N,)."""
    epochs: int
    learning_rate: float
    """Maximum of the one-cycle schedule."""


def digits_training_images() -> tuple[np.ndarray, np.ndarray]:
    """Return the training images of digits (N, 1, 8, 8) uint8, and their labels (N,)."""
    arrays = load_dataset("digits")
    return arrays.images[:], arrays.labels[:]


def shapes_training_images(count: int = 16_000) -> tuple[np.ndarray, np.ndarray]:
    """Draw shapes (N, 3, 32, 32) uint8 that no run trains on, and their labels (N,)."""
    rows = synthetic_shapes.FIRST_EXTRACTOR_ROW + np.arange(count)
    return synthetic_shapes.draw_images(rows, 32), synthetic_shapes.class_labels(rows)


DESIGNS = {
    "digits-cnn": SmallCnnDesign(
        channels=1,
        image_size=8,
        convs=((16, 1), (32, 1)),
        examples=digits_training_images,
        epochs=30,
        learning_rate=4e-3,
    ),
    "shapes-cnn": SmallCnnDesign(
        channels=3,
        image_size=32,
        convs=((12, 2), (24, 1), (48, 1)),
        examples=shapes_training_images,
        epochs=2,
        learning_rate=6e-3,
    ),
}


class SmallCNN(nn.Module):
    """Classifier of images (B, C, H, W) in [-1, 1]: returns 64 features and 10 logits, (B, F) and (B, 10)."""

    def __init__(self, design: SmallCnnDesign) -> None:
        super().__init__()
        before, size = design.channels, design.image_size
        self.names = [f"conv{i}" for i in range(1, len(design.convs) + 1)]
        for name, (channels, stride) in zip(self.names, design.convs, strict=True):
            self.add_module(name, nn.Conv2d(before, channels, 3, padding=1, stride=stride))
            before, size = channels, size // 2
        self.hidden = nn.Linear(before * size * size, FEATURE_WIDTH)
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
    """Train a small CNN on its design's examples; returns float32 weights rounded to 1/4096.

    `epochs` None means the design's number.
    """
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
    optimizer = torch.optim.Adam(net.parameters(), lr=design.learning_rate / 2)
    epochs = epochs or design.epochs
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=design.learning_rate, total_steps=steps)
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


def prepare_small_cnn(name: str, file: str, cache: Path) -> Path:
    """Return a small CNN's weights: the file, or ("") those in the cache folder, trained now if they are missing.

    ValueError if the file does not exist or holds other tensors.
    """
    path = Path(file) if file else cache / f"{name}.safetensors"
    if file and not path.is_file():
        raise ValueError(f"evaluation.weights is {file}, which is no file")
    if file:
        try:
            SmallCNN(DESIGNS[name]).load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError, OSError):
            raise ValueError(f"{file} holds no weights of {name}") from None
    if not path.is_file():
        weights = train_small_cnn(name)
        with atomic_write(path) as partial:
            save_file(weights, partial)
    return path
