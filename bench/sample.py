"""Sampling: averaged weights of every evaluation point -> images in ADM's .npz layout.

Batches are kept as they are made, in samples/IMAGES/, and put together at the end, so that a
killed run goes on where it stopped.  Batches lie on a fixed grid: what was killed ends with the same bytes.
"""

from __future__ import annotations

import fcntl
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
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

LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The date inside .npz files, so that equal samples are equal files."""


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
    net: nn.Module, config: RunConfig, latent: bool, device: torch.device, batches: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(indices, images (B, H, W, C) uint8) of each batch of image numbers."""
    io: architectures.IOSpec = net.spec.io  # type: ignore[union-attr, assignment]
    decode = decoder(latent, config.evaluation.decoder, device)
    made = samplers.with_guidance(net, config, io.num_classes)
    for own in batches:
        labels = labels_of(own, io.num_classes)
        cond = None if labels is None else torch.from_numpy(labels).to(device)
        x = samplers.sample(made, config, (io.channels, io.size, io.size), own.tolist(), cond, device)
        yield own, to_uint8(decode(x)).transpose(0, 2, 3, 1)


class Shards:
    """The batches of one set of samples that are there so far: samples/IMAGES/FIRST-LAST-STRIDE.npz."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.files: dict[Path, np.ndarray] = {}
        """File -> the image numbers in it, ascending."""
        self.damaged: list[str] = []

    def look(self) -> np.ndarray:
        """Which of the images are there, (N,) bool.  What cannot be read is removed and named in `damaged`."""
        self.files = {}
        there = np.zeros(self.count, bool)
        for path in sorted(self.folder.glob("[0-9]*.npz")):
            try:
                own = _read(path, self.count)
            except ValueError:
                self.damaged.append(path.name)
                path.unlink(missing_ok=True)
                continue
            self.files[path] = own
            there[own] = True
        return there

    def add(self, indices: np.ndarray, images: np.ndarray) -> None:
        stride = int(indices[1] - indices[0]) if len(indices) > 1 else 1
        path = self.folder / f"{indices[0]:08d}-{indices[-1]:08d}-{stride}.npz"
        with atomic(path) as partial, partial.open("wb") as f:
            np.savez(f, indices=indices, images=images)

    def rows(self, size: int = 1000) -> Iterator[np.ndarray]:
        """All images in order, some (B, H, W, C) at a time; `look` must have seen them all."""
        held: dict[Path, np.ndarray] = {}
        for start in range(0, self.count, size):
            stop = min(start + size, self.count)
            near = {p: own for p, own in self.files.items() if own[0] < stop and own[-1] >= start}
            held = {p: held[p] if p in held else _read(p, self.count, "images") for p in near}
            first = next(iter(held.values()))
            block = np.empty((stop - start, *first.shape[1:]), np.uint8)
            for path, own in near.items():
                here = (own >= start) & (own < stop)
                block[own[here] - start] = held[path][here]
            yield block


def _read(path: Path, count: int, what: str = "indices") -> np.ndarray:
    """An array of a shard; ValueError when it cannot be read or does not hold images below number `count`."""
    try:
        with np.load(path, allow_pickle=False) as z:
            indices, found = z["indices"], np.asarray(z[what])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and run again") from error
    if not len(indices) or indices[-1] >= count or len(found) != len(indices):
        raise ValueError(f"{path} holds other samples; remove it and run again")
    return found


def batches(there: np.ndarray, size: int, rank: int = 0, world: int = 1) -> list[np.ndarray]:
    """Image numbers still to make by process `rank` of `world`, image i being that of process i % world.

    The grid does not depend on what is there, so that a network sees the same batches again.
    """
    own = np.arange(rank, len(there), world)
    grid = [own[i : i + size] for i in range(0, len(own), size)]
    return [block for block in grid if not there[block].all()]


def assemble(shards: Shards, target: Path, num_classes: int) -> None:
    """One .npz in ADM's layout (arr_0: N, H, W, C uint8; labels), written batch by batch."""
    own = labels_of(np.arange(shards.count), num_classes)
    with atomic(target) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as z:
        started = None
        with _member(z, "arr_0.npy") as f:
            for block in shards.rows():
                if started is None:
                    started = dict(descr="|u1", fortran_order=False, shape=(shards.count, *block.shape[1:]))
                    np.lib.format.write_array_header_1_0(f, started)
                f.write(block.tobytes())
        with _member(z, "labels.npy") as f:
            np.lib.format.write_array(f, np.zeros(0, np.int64) if own is None else own)


def _member(z: zipfile.ZipFile, name: str) -> Any:
    info = zipfile.ZipInfo(name, LONG_AGO)
    info.compress_type = zipfile.ZIP_DEFLATED
    return z.open(info, "w", force_zip64=True)


def sample_point(
    net: Callable[[], nn.Module],
    config: RunConfig,
    latent: bool,
    device: torch.device,
    target: Path,
    report: Callable[[int, int], Any],
    *,
    damaged: Callable[[str], Any] = print,
    rank: int = 0,
    world: int = 1,
) -> bool:
    """Make the samples at `target`, or this process's part; whether they are all there.

    `report` is told after each batch how many images this call has made and how many there were
    before it, and may raise to stop; `damaged` is told the name of a file that could not be read,
    whose images are made again.  Whichever process finds all images there puts them together.
    """
    if target.is_file():
        return True
    e = config.evaluation
    shards = Shards(target.with_suffix(""), e.samples)
    there = shards.look()
    for name in shards.damaged:
        damaged(name)
    before, made = int(there.sum()), 0
    todo = batches(there, e.batch, rank, world)
    built = net()
    for own, images in images_of(built, config, latent, device, todo):
        shards.add(own, images)
        made += len(own)
        report(made, before)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two that finish together, one puts them together
        if not target.is_file() and shards.look().all():
            assemble(shards, target, built.spec.io.num_classes)  # type: ignore[union-attr, arg-type]
            shutil.rmtree(shards.folder)
            target.with_suffix(".lock").unlink()
    return target.is_file()


def sample(run: RunFolder, config: RunConfig, latent: bool, device: torch.device, check: Callable[[], None]) -> None:
    """Sample from the snapshot of every evaluation point that has no samples yet.

    `check` is called after each batch and may raise to stop.
    """
    points = evaluation_points(config.budget.images, config.budget.points)
    total = config.evaluation.samples
    for done, point in enumerate(points):
        began = time.monotonic()

        def report(made: int, before: int, done: int = done, began: float = began) -> None:
            rate = made / max(1e-9, time.monotonic() - began)
            run.log("sample", images=done * total + before + made, of=len(points) * total, rate=rate)
            check()

        def net(point: int = point) -> nn.Module:
            return load_network(run.file("snapshots", point, "safetensors"), device)

        def damaged(name: str, point: int = point) -> None:
            run.log("damaged", file=f"samples/{point:012d}/{name}")

        sample_point(net, config, latent, device, run.file("samples", point, "npz"), report, damaged=damaged)
