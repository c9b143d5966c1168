"""Choose the micro-batch, the number of images per forward pass, by halving it until it fits into a GPU's memory.

Gradients are accumulated, so the batch of an optimizer step does not change.  The micro-batch is logged, so that a
resumed run sums gradients in the same order.
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
"""Value of compute.micro_batch that requests the search."""
MEMORY_MARGIN = 0.8
"""Fraction of the free memory that an estimate may use; the rest is for fragmentation and workspaces."""


class MicroBatchTooLarge(ValueError):
    """Not even one image fits into memory."""


def accumulate_with_retry(accumulate: Callable[[], Tensor], state: TrainingState, share: int, search: bool) -> Tensor:
    """Call `accumulate`; with `search`, halve the micro-batch and start over when memory runs out.

    `accumulate` ends before the optimizer step, so a failed call changes no weights.  Raises MicroBatchTooLarge if one
    image does not fit.
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
    """Halve the micro-batch; False if it was one image."""
    current = min(state.micro_batch or share, share)
    state.micro_batch = max(1, -(-current // 2))
    return current > 1


def release_failed_step(state: TrainingState) -> None:
    """Free the memory of a failed step."""
    state.optimizer.zero_grad(set_to_none=state.engine.compile != "graphs")
    gc.collect()
    if state.engine.device.type == "cuda":
        torch.cuda.empty_cache()


def choose_micro_batch(
    run: RunFolder, state: TrainingState, config: RunConfig, world: World, share: int, trial: Callable[[int], None]
) -> None:
    """Set the state's micro-batch, the same on all ranks; a collective call.

    The config sets the micro-batch; in a search, a resumed run takes it from the log.  A single rank starts with its
    whole share of the batch and halves the micro-batch when memory runs out (`accumulate_with_retry`).  Several ranks
    agree on the smallest one before the first step.  With DDP each rank runs `trial(images)`, a forward and backward
    pass without communication.  With FSDP each rank estimates it.
    """
    if config.compute.micro_batch != SEARCH_LARGEST:
        state.micro_batch = config.compute.micro_batch
        return
    logged = world.of_first(lambda: logged_micro_batch(run, world))
    if logged is not None or world.size == 1 or state.engine.device.type != "cuda":
        state.micro_batch = logged or 0
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
    """Allocate as much memory as the optimizer's moments will take."""
    return torch.empty(sum(2 * p.numel() for p in state.net.parameters()), device=state.engine.device)


def try_step(state: TrainingState, trial: Callable[[int], None], share: int) -> Tensor:
    """Make one forward and backward pass of the current micro-batch without communication."""
    with parallel.accumulating_gradients(state.call, last=False):
        trial(min(state.micro_batch or share, share))
    torch.cuda.synchronize(state.engine.device)
    return torch.zeros(())


def estimate_micro_batch(config: RunConfig, state: TrainingState, world: World) -> int:
    """Estimate, conservatively, how many images' float32 activations fit into the free memory of this rank."""
    from bench.costs import counting  # its import takes a second

    model = config.model
    bytes_per_image = counting.activation_bytes(model.arch, model.size or None, state.net.spec.io, model.network)  # type: ignore[union-attr, arg-type]
    local_parameters = sum(parallel.local_tensor(p).numel() for p in state.net.parameters())
    free = torch.cuda.mem_get_info(state.engine.device)[0] - 12 * local_parameters  # gradients and two moments
    return int(MEMORY_MARGIN * max(0, free) / bytes_per_image)


def logged_micro_batch(run: RunFolder, world: World) -> int | None:
    """Micro-batch of the last logged attempt with the same number of ranks; None if there is no such attempt."""
    events = [e for e in run.events()[0] if e["event"] == "compute" and e["processes"] == world.size]
    micro_batch: int | None = events[-1]["micro_batch"] if events else None
    return micro_batch


def log_micro_batch(run: RunFolder, state: TrainingState, world: World) -> int:
    """Log the execution settings that hold from this step on; return the micro-batch."""
    engine = state.engine
    if world.first:
        run.log(
            "compute",
            device=hardware.accelerator_name(engine.device),
            precision=engine.precision,
            compile=engine.compile,
            checkpointing=engine.checkpointing,
            micro_batch=state.micro_batch,
            processes=world.size,
        )
    return state.micro_batch
