"""How many images a process takes at a time: as many as its GPU's memory holds, found by halving.

The batch of a step stays what the recipe says: gradients are summed.  What was found is in the run's log, so that
a run goes on with the sums it began with.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor

from bench.config.schema import RunConfig
from bench.storage.run_folder import RunFolder
from bench.training import hardware, parallel
from bench.training.checkpointing import TrainingState
from bench.training.distributed import World

SEARCH_LARGEST = -1
MEMORY_MARGIN = 0.8
"""Share of the free memory that an estimate may fill; the rest is for fragments and kernels' own."""


class MicroBatchTooLarge(ValueError):
    """Not even one image fits."""


def accumulate_with_retry(accumulate: Callable[[], Tensor], state: TrainingState, share: int, search: bool) -> Tensor:
    """What `accumulate` gives, which starts over with half the images at a time where memory does not suffice.

    It ends before the optimizer's step, so nothing that it leaves is kept.  TooLarge where one image is too many.
    """
    while True:
        try:
            return accumulate()
        except torch.OutOfMemoryError as error:
            if not search:
                raise
            if not halve_micro_batch(state, share):
                raise MicroBatchTooLarge(
                    "one training image at a time does not fit into the GPU's memory; try "
                    "compute.activation_checkpointing=blocks, or compute.sharding=fsdp on more GPUs"
                ) from error
        release_failed_step(state)


def halve_micro_batch(state: TrainingState, share: int) -> bool:
    """Take half as many images at a time; False where it was one."""
    now = min(state.micro_batch or share, share)
    state.micro_batch = max(1, -(-now // 2))
    return now > 1


def release_failed_step(state: TrainingState) -> None:
    """Let go of what a step that failed has left."""
    state.optimizer.zero_grad(set_to_none=state.engine.compile != "graphs")
    gc.collect()
    if state.engine.device.type == "cuda":
        torch.cuda.empty_cache()


def choose_micro_batch(
    run: RunFolder, state: TrainingState, config: RunConfig, world: World, share: int, trial: Callable[[int], None]
) -> None:
    """Set the state's micro-batch at the start, the same in all processes.

    That of the configuration, or of the log.  Where it is to be searched, one process begins with its whole
    share, and halves when it must (`fitting`).  Many agree on what fits all of them, before anything goes between
    them: of replicas each tries `trial(images)`, a pass that keeps to itself; sharded ones estimate.
    """
    if config.compute.micro_batch != SEARCH_LARGEST:
        state.micro_batch = config.compute.micro_batch
        return
    kept = world.of_first(lambda: logged_micro_batch(run, world))
    if kept is not None or world.size == 1 or state.engine.device.type != "cuda":
        state.micro_batch = kept or 0
        return
    state.micro_batch = share
    if state.replicas is None:
        state.micro_batch = max(1, min(share, estimate_micro_batch(config, state, world)))
    else:
        moments = reserve_optimizer_memory(state)
        accumulate_with_retry(lambda: try_step(state, trial, share), state, share, search=True)
        del moments
        release_failed_step(state)
    state.micro_batch = int(-world.agree(-state.micro_batch)[0])


def reserve_optimizer_memory(state: TrainingState) -> Tensor:
    """As much memory as the optimizer's moments take, which come later."""
    return torch.empty(sum(2 * p.numel() for p in state.net.parameters()), device=state.engine.device)


def try_step(state: TrainingState, trial: Callable[[int], None], share: int) -> Tensor:
    with parallel.accumulating_gradients(state.call, last=False):
        trial(min(state.micro_batch or share, share))
    torch.cuda.synchronize(state.engine.device)
    return torch.zeros(())


def estimate_micro_batch(config: RunConfig, state: TrainingState, world: World) -> int:
    """Images whose float32 activations, all kept, fit into what the shards leave free: rather too few than too many."""
    from bench.costs import counting  # which takes a second to import, and is asked here alone

    model = config.model
    each = counting.activation_bytes(model.arch, model.size or None, state.net.spec.io, model.network)  # type: ignore[union-attr, arg-type]
    own = sum(parallel.local_tensor(p).numel() for p in state.net.parameters())
    free = torch.cuda.mem_get_info(state.engine.device)[0] - 12 * own  # gradients and two moments
    return int(MEMORY_MARGIN * max(0, free) / each)


def logged_micro_batch(run: RunFolder, world: World) -> int | None:
    """What the log says of a turn with as many processes; None where it says nothing."""
    turns = [e for e in run.events()[0] if e["event"] == "compute" and e["processes"] == world.size]
    found: int | None = turns[-1]["micro_batch"] if turns else None
    return found


def log_micro_batch(run: RunFolder, state: TrainingState, world: World) -> int:
    """Log how the run is computed from here on; the micro-batch."""
    way = state.engine
    if world.first:
        run.log(
            "compute",
            device=hardware.accelerator_name(way.device),
            precision=way.precision,
            compile=way.compile,
            checkpointing=way.checkpointing,
            micro_batch=state.micro_batch,
            processes=world.size,
        )
    return state.micro_batch
