"""The trainer's meter: mean loss and rate of all processes since the last report, and what is no sane loss."""

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
"""A mean loss that no training recovers from.  Predicting nothing costs 1, and L_vlb, where it is trained,
at most 40 bits in its likelihood, which is clamped at 1e-12; a healthy run's spikes stay near these."""


class LossDiverged(Exception):
    """A state that must not be kept: at how many images, and why."""

    def __init__(self, images: int, why: str) -> None:
        super().__init__(images, why)
        self.images, self.why = images, why


class HasImages(Protocol):
    images: int


@dataclass(frozen=True, kw_only=True)
class PendingLoss:
    """A sum of losses on its way from the device."""

    total: Tensor
    arrived: torch.cuda.Event | None
    """None where it is there."""
    count: int
    """Images it is of."""
    images: int
    """Seen when it was asked for."""
    seconds: float


class MetricsLogger:
    """The only place where a step's loss is fetched; process 0 logs it.

    What a GPU has not computed yet is waited for only where something is about to be saved.
    """

    def __init__(
        self, run: RunFolder, config: RunConfig, state: HasImages, world: World = SINGLE_PROCESS, seconds: float = 1.0
    ) -> None:
        self.run, self.config, self.state, self.world, self.seconds = run, config, state, world, seconds
        self.saved = time.monotonic()
        self.scalars = TensorBoardWriter(run, purge_after=state.images or None) if world.first else None
        self.asked: PendingLoss | None = None
        self._start()

    def _start(self) -> None:
        self.total: Tensor | None = None
        self.images = 0
        self.since = time.monotonic()

    def add(self, loss: Tensor, size: int) -> None:
        """This process's part of the mean loss of a batch of `size`."""
        self.total = loss * size if self.total is None else self.total + loss * size
        self.images += size

    def due(self) -> bool:
        return time.monotonic() - self.since >= self.seconds

    def checkpoint_due(self) -> bool:
        """Checkpoints are written at reports only, which have seen that the loss is sane."""
        return self.due() and time.monotonic() - self.saved >= self.config.compute.checkpoint_seconds

    def late(self) -> bool:
        """Whether a loss that was asked for is still on its way."""
        return self.asked is not None and self.asked.arrived is not None and not self.asked.arrived.query()

    def report(self, wait: bool = True) -> None:
        """Ask for the loss since the last report, and log it where it can be waited for or is there.

        Exploded, in every process, where it is not finite or above EXPLODED; without `wait` that is for `settle`.
        """
        self.settle()
        if self.total is None:
            return
        total, arrived = copy_to_host(self.total)
        if wait and arrived is not None:
            arrived.synchronize()
        self.asked = PendingLoss(
            total=total,
            arrived=arrived,
            count=self.images,
            images=self.state.images,
            seconds=max(1e-9, time.monotonic() - self.since),
        )
        self._start()
        if wait or arrived is None:
            self.settle()

    def settle(self) -> None:
        """Log what was asked for, waiting for it if need be; raises as `report`.  All processes must call it."""
        asked, self.asked = self.asked, None
        if asked is None:
            return
        if asked.arrived is not None:
            asked.arrived.synchronize()
        loss = self.world.total(float(asked.total)) / asked.count
        if not math.isfinite(loss) or loss > MAX_LOSS:
            raise LossDiverged(asked.images, f"the loss is {loss:.4g}")
        if self.scalars:
            rate = asked.count / asked.seconds
            self.run.log(
                "train",
                images=asked.images,
                of=self.config.budget.images,
                loss=loss,
                rate=rate,
                seconds=round(asked.seconds, 4),
                processes=self.world.size,
            )
            self.scalars.add(asked.images, {"loss": loss, "images per second": rate})


def copy_to_host(value: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A number on its way from a GPU into page-locked memory, and what tells when it is there."""
    if value.device.type != "cuda":
        return value, None
    there = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
    there.copy_(value, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return there, arrived
