"""What a run keeps while it trains: checkpoints, averaged weights, and how often it went back to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.config.schema import RunConfig
from bench.storage import tensor_files
from bench.storage.run_folder import RunFolder
from bench.training import parallel
from bench.training.distributed import World, require_same
from bench.training.execution import ExecutionSettings
from bench.training.metrics_logger import LossDiverged

MAX_ROLLBACKS = 3
"""How often a run goes back before it counts as diverged."""


class Diverged(RuntimeError):
    """The loss was not finite, or exploded, and going back did not help."""


@dataclass
class TrainingState:
    """Everything that a step changes."""

    net: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    images: int = 0
    replicas: nn.Module | None = None
    """The network as it is called where every process has one."""
    engine: ExecutionSettings = field(default_factory=lambda: ExecutionSettings(device=torch.device("cpu")))
    micro_batch: int = 0
    """Most images at a time; 0 is a process's whole share."""

    @property
    def call(self) -> nn.Module:
        return self.net if self.replicas is None else self.replicas

    def tensors(self) -> dict[str, Tensor]:
        return tensor_files.training_tensors(self.net, self.ema, self.optimizer)


def has_snapshot(run: RunFolder, point: int, world: World) -> bool:
    """Whether averaged weights of an evaluation point are there, as process 0 sees it."""
    there: bool = world.of_first(lambda: run.snapshot_path(point).is_file())
    return there


def save_checkpoint(
    run: RunFolder,
    config: RunConfig,
    state: TrainingState,
    world: World,
    check_lease: Callable[[], None],
    snapshot: bool = False,
) -> None:
    """A checkpoint of the whole state, and averaged weights; Exploded where anything in it is not finite."""
    tensors = state.tensors()
    if not parallel.all_finite(tensors, world):
        raise LossDiverged(state.images, "the weights, their average or the optimizer's moments hold NaN or infinity")
    whole = parallel.gather_tensors(tensors, world)
    if not world.first:
        return
    check_lease()
    folder = run.path / "checkpoints"
    tensor_files.save_tensors(folder / f"{state.images:012d}.safetensors", whole, step=state.step, images=state.images)
    tensor_files.prune_checkpoints(folder, config.compute.keep)
    if snapshot:  # last, so that whoever sees it need not go on; with what it is a network of, and its process
        check_lease()
        notes = {"spec": state.ema.spec.to_dict(), "diffusion": dataclasses.asdict(config.diffusion)}  # type: ignore[union-attr, operator]
        path = run.snapshot_path(state.images)
        tensor_files.save_tensors(path, tensor_files.select_prefix(whole, "ema."), images=state.images, **notes)


def restore_newest_checkpoint(run: RunFolder, state: TrainingState, world: World) -> list[str] | None:
    """Put the newest whole checkpoint into the state of every process; its warnings, None where there is none."""
    folder = run.path / "checkpoints"
    found = tensor_files.load_newest_checkpoint(folder) if world.first else None
    told = world.of_first(lambda: found and (found[1]["images"], found[2]))
    if told is None:
        return None
    tensors, metadata = found[:2] if found else tensor_files.load_tensors(folder / f"{told[0]:012d}.safetensors")
    if world.size > 1:
        require_same(world, "the checkpoints that the processes read", content=tensor_files.tensors_crc32(tensors))
    tensor_files.restore_training_tensors(tensors, state.net, state.ema, state.optimizer)
    state.step, state.images = metadata["step"], metadata["images"]
    warnings: list[str] = told[1]
    return warnings


def logged_rollbacks(run: RunFolder) -> list[dict[str, Any]]:
    return [e for e in run.events()[0] if e["event"] == "rollback"]


def log_rollback(run: RunFolder, state: TrainingState, fault: LossDiverged, warnings: list[str] | None) -> None:
    nth = len(logged_rollbacks(run)) + 1
    more = {"warnings": warnings} if warnings else {}
    run.log("rollback", images=fault.images, to=state.images, why=fault.why, nth=nth, **more)


def raise_if_rollbacks_exhausted(
    run: RunFolder, world: World, fault: LossDiverged, check_lease: Callable[[], None]
) -> None:
    """Diverged where the run has gone back often enough.

    Where it failed again after going back to its newest checkpoint, that one may be at fault, finite as it is:
    it is removed, but not also the one before.
    """
    before = world.of_first(lambda: logged_rollbacks(run))
    if len(before) >= MAX_ROLLBACKS:
        times = f"after {len(before)} rollbacks"
        raise Diverged(f"{fault.why} at image {fault.images:,}, {times}; a lower recipe.lr may hold")
    removed = len(before) > 1 and before[-2]["to"] > before[-1]["to"]
    if world.first and before and not removed:
        newest = max((run.path / "checkpoints").glob("*.safetensors"), default=None)
        if newest and int(newest.stem) == before[-1]["to"]:
            check_lease()
            newest.unlink(missing_ok=True)
    world.barrier()
