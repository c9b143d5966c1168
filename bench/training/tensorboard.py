"""Scalars for TensorBoard where it is installed; the JSON lines of the run are the log that counts."""

from __future__ import annotations

from typing import Any

from bench.storage.run_folder import RunFolder


class TensorBoardWriter:
    """Writes to RUN/tensorboard, or nowhere when TensorBoard is not installed."""

    def __init__(self, run: RunFolder, purge_after: int | None = None) -> None:
        self.writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=purge_after)

    def add(self, images: int, values: dict[str, float]) -> None:
        """Scalars at a count of training images."""
        if self.writer is None:
            return
        for name, value in values.items():
            self.writer.add_scalar(name, value, images)
        self.writer.flush()
