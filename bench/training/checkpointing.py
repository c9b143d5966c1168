"""Training checkpoints (model, EMA and optimizer state), EMA snapshots and the count of rollbacks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.storage import tensor_files
from bench.storage.run_folder import RunFolder
from bench.training import parallel
from bench.training.distributed import World, require_same
from bench.training.execution import ExecutionSettings
from bench.training.metrics_logger import LossDiverged
from bench.training.run_context import RunContext

MAX_ROLLBACKS = 3
"""Rollbacks after which a run counts as diverged."""


class Diverged(RuntimeError):
    """The loss diverged again after MAX_ROLLBACKS rollbacks."""


@dataclass
class TrainingState:
    """Network, EMA and optimizer of a run, its progress, and its execution settings."""

    net: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    images: int = 0
    replicas: nn.Module | None = None
    """The network wrapped in DDP, if there are several ranks."""
    engine: ExecutionSettings = field(default_factory=lambda: ExecutionSettings(device=torch.device("cpu")))
    micro_batch: int = 0
    """Maximum images per forward pass; 0 means the rank's whole share of the batch."""

    @property
    def call(self) -> nn.Module:
        """The network to call in training: the DDP wrapper or the network itself."""
        return self.net if self.replicas is None else self.replicas

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors of network, EMA and optimizer."""
        return tensor_files.training_tensors(self.net, self.ema, self.optimizer)


def has_snapshot(run: RunFolder, point: int, world: World) -> bool:
    """Whether the EMA snapshot of an evaluation point exists, as rank 0 sees it; a collective call."""
    exists: bool = world.of_first(lambda: run.snapshot_path(point).is_file())
    return exists


def save_checkpoint(context: RunContext, state: TrainingState, snapshot: bool = False) -> None:
    """Write a checkpoint and, with `snapshot`, the EMA weights; a collective call.

    Raises LossDiverged, before it writes, if any tensor is not finite.
    """
    run, config, world = context.run, context.config, context.world
    tensors = state.tensors()
    if not parallel.all_finite(tensors, world):
        raise LossDiverged(state.images, "the weights, the EMA or the optimizer's moments hold NaN or infinity")
    whole = parallel.gather_tensors(tensors, world)
    if not world.first:
        return
    context.check_lease()
    folder = run.path / "checkpoints"
    tensor_files.save_tensors(folder / f"{state.images:012d}.safetensors", whole, step=state.step, images=state.images)
    tensor_files.prune_checkpoints(folder, config.compute.keep)
    if snapshot:  # written last, so that a snapshot implies a complete checkpoint
        context.check_lease()
        metadata = {"spec": state.ema.spec.to_dict(), "diffusion": dataclasses.asdict(config.diffusion)}  # type: ignore[union-attr, operator]
        path = run.snapshot_path(state.images)
        tensor_files.save_tensors(path, tensor_files.select_prefix(whole, "ema."), images=state.images, **metadata)


def restore_newest_checkpoint(run: RunFolder, state: TrainingState, world: World) -> list[str] | None:
    """Load the newest complete checkpoint on every rank; a collective call.

    Returns one warning for each damaged newer checkpoint, or None if there is no checkpoint.
    """
    folder = run.path / "checkpoints"
    newest = tensor_files.load_newest_checkpoint(folder) if world.first else None
    images_and_warnings = world.of_first(lambda: newest and (newest[1]["images"], newest[2]))
    if images_and_warnings is None:
        return None
    images, warnings = images_and_warnings
    tensors, metadata = newest[:2] if newest else tensor_files.load_tensors(folder / f"{images:012d}.safetensors")
    if world.size > 1:
        require_same(world, "the checkpoints that the ranks read", content=tensor_files.tensors_crc32(tensors))
    tensor_files.restore_training_tensors(tensors, state.net, state.ema, state.optimizer)
    state.step, state.images = metadata["step"], metadata["images"]
    return list(warnings)


def logged_rollbacks(run: RunFolder) -> list[dict[str, Any]]:
    """Rollback events in the run's log."""
    return [e for e in run.events()[0] if e["event"] == "rollback"]


def log_rollback(run: RunFolder, state: TrainingState, fault: LossDiverged, warnings: list[str] | None) -> None:
    """Log a rollback to the state's number of images."""
    nth = len(logged_rollbacks(run)) + 1
    more = {"warnings": warnings} if warnings else {}
    run.log("rollback", images=fault.images, to=state.images, why=fault.why, nth=nth, **more)


def raise_if_rollbacks_exhausted(context: RunContext, fault: LossDiverged) -> None:
    """Raise Diverged after MAX_ROLLBACKS rollbacks.

    A finite checkpoint may itself be the cause.  If the loss diverges again after a rollback to the newest checkpoint,
    that checkpoint is removed.  The next older one is not removed.
    """
    run, world = context.run, context.world
    earlier = world.of_first(lambda: logged_rollbacks(run))
    if len(earlier) >= MAX_ROLLBACKS:
        count = f"after {len(earlier)} rollbacks"
        raise Diverged(f"{fault.why} at image {fault.images:,}, {count}; a lower recipe.lr may help")
    is_removed = len(earlier) > 1 and earlier[-2]["to"] > earlier[-1]["to"]
    if world.first and earlier and not is_removed:
        newest = max((run.path / "checkpoints").glob("*.safetensors"), default=None)
        if newest and int(newest.stem) == earlier[-1]["to"]:
            context.check_lease()
            newest.unlink(missing_ok=True)
    world.barrier()
