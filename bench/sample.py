"""Sampling: averaged weights of every evaluation point -> images in ADM's .npz layout."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import architectures

from . import checkpoint, samplers
from .codec import decoder, to_uint8
from .config import RunConfig
from .runfolder import RunFolder, atomic, evaluation_points


def load_network(path: Path, device: torch.device) -> nn.Module:
    """The network of a snapshot, built from the spec inside the file."""
    tensors, metadata = checkpoint.load(path)
    spec = architectures.NetSpec.from_dict(metadata["spec"])
    net = architectures.build(spec.arch, io=spec.io, args=dict(spec.args))
    net.load_state_dict(tensors)
    return net.to(device).eval().requires_grad_(False)


def labels_of(indices: np.ndarray, num_classes: int) -> np.ndarray | None:
    """Balanced labels: image i has class i modulo the number of classes."""
    return indices % num_classes if num_classes else None


@torch.inference_mode()
def images_of(
    net: nn.Module, config: RunConfig, latent: bool, device: torch.device, report: Callable[[int], Any]
) -> tuple[np.ndarray, np.ndarray | None]:
    """(N, C, H, W) uint8 and their labels; `report` is told how many images are done."""
    io: architectures.IOSpec = net.spec.io  # type: ignore[union-attr, assignment]
    e = config.evaluation
    decode = decoder(latent, e.decoder, device)
    made = samplers.with_guidance(net, config, io.num_classes)
    indices = np.arange(e.samples)
    labels = labels_of(indices, io.num_classes)
    parts = []
    for start in range(0, e.samples, e.batch):
        own = indices[start : start + e.batch]
        cond = None if labels is None else torch.from_numpy(labels[own]).to(device)
        x = samplers.sample(made, config, (io.channels, io.size, io.size), own.tolist(), cond, device)
        parts.append(to_uint8(decode(x)))
        report(start + len(own))
    return np.concatenate(parts), labels


def sample(run: RunFolder, config: RunConfig, latent: bool, device: torch.device, check: Callable[[], None]) -> None:
    """Sample from the snapshot of every evaluation point that has no samples yet.

    `check` is called after each batch and may raise to stop.
    """
    points = evaluation_points(config.budget.images, config.budget.points)
    for done, point in enumerate(points):
        target = run.file("samples", point, "npz")
        if target.is_file():
            continue
        net = load_network(run.file("snapshots", point, "safetensors"), device)
        began = time.monotonic()

        def report(count: int, done: int = done, began: float = began) -> None:
            total = config.evaluation.samples
            rate = count / max(1e-9, time.monotonic() - began)
            run.log("sample", images=done * total + count, of=len(points) * total, rate=rate)
            check()

        images, labels = images_of(net, config, latent, device, report)
        own = np.zeros(0, np.int64) if labels is None else labels
        with atomic(target) as partial, partial.open("wb") as f:
            np.savez_compressed(f, arr_0=images.transpose(0, 2, 3, 1), labels=own)
