"""Write scalars for TensorBoard if it is installed; log.jsonl remains the complete log of a run."""

from __future__ import annotations

from typing import Any

from bench.storage.run_folder import RunFolder


class TensorBoardWriter:
    """Writes to RUN/tensorboard; does nothing if TensorBoard is not installed."""

    def __init__(self, run: RunFolder, purge_after: int | None = None) -> None:
        self.writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=purge_after)

    def add(self, images: int, values: dict[str, float]) -> None:
        """Write scalars at a number of training images."""
        if self.writer is None:
            return
        for name, value in values.items():
            self.writer.add_scalar(name, value, images)
        self.writer.flush()
