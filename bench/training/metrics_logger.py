"""Training metrics averaged over all ranks since the last log line; raises on a diverged loss."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bench.config.schema import RunConfig
from bench.storage.run_folder import RunFolder
from bench.training.distributed import SINGLE_PROCESS, World
from bench.training.tensorboard import TensorBoardWriter

MAX_LOSS = 100.0
"""A mean loss above this counts as diverged.  Predicting zero noise costs 1.  L_vlb, if it is trained, costs at most
40 bits, because its likelihood is clamped at 1e-12.  Spikes of a healthy run stay near these values."""


class LossDiverged(Exception):
    """The loss or the training state diverged after `images` training images, for the reason `why`."""

    def __init__(self, images: int, why: str) -> None:
        super().__init__(images, why)
        self.images, self.why = images, why


class HasImages(Protocol):
    """A state that counts the images it was trained on."""

    images: int


@dataclass(frozen=True, kw_only=True)
class PendingLoss:
    """A sum of losses that is being copied from the device."""

    total: Tensor
    copied: torch.cuda.Event | None
    """Event of the copy; None if the sum is on the host."""
    count: int
    """Images that the sum covers."""
    images: int
    """Images trained on when the copy was requested."""
    seconds: float
    """Seconds of training that the sum covers."""


class MetricsLogger:
    """Fetches the loss from the device, averages it over the ranks, and logs it on rank 0.

    It waits for a GPU only before a checkpoint is written.  `seconds` is the interval between log lines.
    """

    def __init__(
        self, run: RunFolder, config: RunConfig, state: HasImages, world: World = SINGLE_PROCESS, seconds: float = 1.0
    ) -> None:
        self.run, self.config, self.state, self.world, self.seconds = run, config, state, world, seconds
        self.saved = time.monotonic()
        self.scalars = TensorBoardWriter(run, purge_after=state.images or None) if world.first else None
        self.pending: PendingLoss | None = None
        self._start()

    def _start(self) -> None:
        self.total: Tensor | None = None
        self.images = 0
        self.since = time.monotonic()

    def add(self, loss: Tensor, size: int) -> None:
        """Add this rank's part of the mean loss of a batch of `size` images."""
        self.total = loss * size if self.total is None else self.total + loss * size
        self.images += size

    def due(self) -> bool:
        """Whether the next log line is due."""
        return time.monotonic() - self.since >= self.seconds

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is due; only together with a log line, which has checked the loss."""
        return self.due() and time.monotonic() - self.saved >= self.config.compute.checkpoint_seconds

    def is_copying(self) -> bool:
        """Whether a requested loss is still being copied from the device."""
        return self.pending is not None and self.pending.copied is not None and not self.pending.copied.query()

    def report(self, wait: bool = True) -> None:
        """Start to copy the mean loss since the last log line to the host; log it at once on a CPU or with `wait`.

        A collective call.  Raises LossDiverged on every rank if the loss is not finite or above MAX_LOSS.  On a GPU
        without `wait`, `settle` logs and raises instead.
        """
        self.settle()
        if self.total is None:
            return
        total, copied = copy_to_host(self.total)
        if wait and copied is not None:
            copied.synchronize()
        self.pending = PendingLoss(
            total=total,
            copied=copied,
            count=self.images,
            images=self.state.images,
            seconds=max(1e-9, time.monotonic() - self.since),
        )
        self._start()
        if wait or copied is None:
            self.settle()

    def settle(self) -> None:
        """Wait for the pending loss and log it; a collective call that raises like `report`."""
        pending, self.pending = self.pending, None
        if pending is None:
            return
        if pending.copied is not None:
            pending.copied.synchronize()
        loss = self.world.total(float(pending.total)) / pending.count
        if not math.isfinite(loss) or loss > MAX_LOSS:
            raise LossDiverged(pending.images, f"the loss is {loss:.4g}")
        if self.scalars:
            throughput = pending.count / pending.seconds
            self.run.log(
                "train",
                images=pending.images,
                of=self.config.budget.images,
                loss=loss,
                rate=throughput,
                seconds=round(pending.seconds, 4),
                processes=self.world.size,
            )
            self.scalars.add(pending.images, {"loss": loss, "images per second": throughput})


def copy_to_host(value: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start to copy a scalar from a GPU into pinned host memory.

    Returns the copy and the CUDA event of its completion; on a CPU, the value itself and None.
    """
    if value.device.type != "cuda":
        return value, None
    host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
    host.copy_(value, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return host, copied
