"""The trainer's meter: mean loss and rate of all processes since the last report, and what is no sane loss."""

from __future__ import annotations

import math
import time
from typing import Protocol

import torch
from torch import Tensor

from .config import RunConfig
from .distributed import ALONE, World
from .runfolder import RunFolder
from .tensorboard import Scalars

EXPLODED = 100.0
"""A mean loss that no training recovers from.  Predicting nothing costs 1, and L_vlb, where it is trained,
at most 40 bits in its likelihood, which is clamped at 1e-12; a healthy run's spikes stay near these."""


class Exploded(Exception):
    """A state that must not be kept: at how many images, and why."""

    def __init__(self, images: int, why: str) -> None:
        super().__init__(images, why)
        self.images, self.why = images, why


class Progress(Protocol):
    images: int


class Meter:
    """The only place where a step's loss is fetched; process 0 logs it."""

    def __init__(
        self, run: RunFolder, config: RunConfig, state: Progress, world: World = ALONE, seconds: float = 1.0
    ) -> None:
        self.run, self.config, self.state, self.world, self.seconds = run, config, state, world, seconds
        self.saved = time.monotonic()
        self.scalars = Scalars(run, purge_after=state.images or None) if world.first else None
        self._start()

    def _start(self) -> None:
        self.losses: list[Tensor] = []
        self.images = 0
        self.since = time.monotonic()

    def add(self, loss: Tensor, size: int) -> None:
        """This process's part of the mean loss of a batch of `size`."""
        self.losses.append(loss * size)
        self.images += size

    def due(self) -> bool:
        return time.monotonic() - self.since >= self.seconds

    def checkpoint_due(self) -> bool:
        """Checkpoints are written at reports only, which have seen that the loss is sane."""
        return self.due() and time.monotonic() - self.saved >= self.config.compute.checkpoint_seconds

    def report(self) -> None:
        """Log the mean loss; Exploded, in every process, where it is not finite or above EXPLODED."""
        if not self.images:
            return
        loss = self.world.total(float(torch.stack(self.losses).sum())) / self.images
        if not math.isfinite(loss) or loss > EXPLODED:
            raise Exploded(self.state.images, f"the loss is {loss:.4g}")
        if self.scalars:
            seconds = max(1e-9, time.monotonic() - self.since)
            self.run.log(
                "train",
                images=self.state.images,
                of=self.config.budget.images,
                loss=loss,
                rate=self.images / seconds,
                seconds=round(seconds, 4),
                processes=self.world.size,
            )
            self.scalars.add(self.state.images, {"loss": loss, "images per second": self.images / seconds})
        self._start()
