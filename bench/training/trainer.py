"""Training loop for every architecture and data set, on one rank or several.

A step is a pure function of (state, seed, step), so a killed run that resumes ends with the weights of a run without
interruption.  All ranks draw the same batch and take their rows of it.

B batch, C channels, H W image size.
"""

from __future__ import annotations

import copy
import gc
import os
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import architectures
from bench.config.schema import RunConfig
from bench.config.seeds import derive_seed
from bench.data import prefetch
from bench.diffusion.gaussian_diffusion import GaussianDiffusion, draw_timesteps, make_diffusion
from bench.storage import tensor_files
from bench.storage.process_identity import is_slurm_task
from bench.storage.stage_results import TrainingResult, read_training_result, write_result
from bench.training import execution, micro_batching, parallel, training_batch
from bench.training.checkpointing import Diverged as Diverged
from bench.training.checkpointing import (
    TrainingState,
    has_snapshot,
    log_rollback,
    raise_if_rollbacks_exhausted,
    restore_newest_checkpoint,
    save_checkpoint,
)
from bench.training.distributed import SINGLE_PROCESS, World, require_same_start
from bench.training.distributed import StopRequested as StopRequested
from bench.training.distributed import device_of as device_of
from bench.training.metrics_logger import LossDiverged, MetricsLogger
from bench.training.run_context import RunContext


def set_threads(config: RunConfig) -> None:
    """Set the number of CPU threads to compute.threads, else to the cores of the SLURM task, else leave torch's."""
    slurm_cores = min(int(os.environ.get("SLURM_CPUS_PER_TASK", 0)), os.cpu_count() or 1) if is_slurm_task() else 0
    if threads := config.compute.threads or slurm_cores:
        torch.set_num_threads(threads)


def set_determinism(config: RunConfig) -> None:
    """With compute.deterministic, make GPU results reproducible to the bit; call this before CUDA is used."""
    if config.compute.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def new_training_state(
    config: RunConfig, io: architectures.IOSpec, device: torch.device, world: World = SINGLE_PROCESS
) -> TrainingState:
    """Build the network from the seed, its EMA and the optimizer; RuntimeError if the ranks' weights differ."""
    torch.manual_seed(derive_seed(config.seed, "init"))
    model, r, engine = config.model, config.recipe, execution.training_execution(config, device)
    net = architectures.build(model.arch, model.size or None, io=io, args=model.network).train()
    if world.size > 1:
        require_same_start(world, config, weights=tensor_files.tensors_crc32(net.state_dict()))
    sharded = world.size > 1 and config.compute.sharding == "fsdp"
    net = net if sharded else engine.place(net.to(device))  # FSDP moves it block by block
    ema = copy.deepcopy(net).eval().requires_grad_(False)
    if sharded:
        parallel.shard_fsdp(net, world, device)
        parallel.shard_fsdp(ema, world, device)
    engine.prepare(net)
    trained = [p for p in net.parameters() if p.requires_grad]
    if engine.compile == "graphs":  # a replay would overwrite gradients that are in the graph's memory
        for p in trained:
            p.grad = torch.zeros_like(p)
    optimizer = torch.optim.AdamW(trained, lr=r.lr, betas=(r.beta1, r.beta2), weight_decay=r.weight_decay, fused=True)
    replicas = parallel.replicate_ddp(net, device) if world.size > 1 and not sharded else None
    return TrainingState(
        net, ema, optimizer, replicas=replicas, engine=engine, micro_batch=max(0, config.compute.micro_batch)
    )


def train_step(
    state: TrainingState,
    config: RunConfig,
    diffusion: GaussianDiffusion,
    batch: tuple[Tensor, ...],
    size: int = 0,
    world: World = SINGLE_PROCESS,
) -> Tensor:
    """Make one optimizer step on this rank's rows (x0, t, eps, labels) of a batch of `size` images.

    A `size` of 0 means that the rows are the whole batch.  Returns this rank's part of the mean loss, a scalar on the
    device, without waiting for the device.  Random draws inside the network, such as dropout, are a function of
    (seed, step, rank).
    """
    r, size = config.recipe, size or len(batch[0])

    def accumulate() -> Tensor:
        state.optimizer.zero_grad(set_to_none=state.engine.compile != "graphs")
        torch.manual_seed(derive_seed(config.seed, "net", state.step, world.rank))
        loss = torch.zeros((), device=diffusion.device)
        count = parallel.accumulation_steps(size, state.micro_batch, world)
        for i, piece in enumerate(zip(*(torch.tensor_split(z, count) for z in batch), strict=True)):
            with parallel.accumulating_gradients(state.call, last=i == count - 1):
                loss = loss + backward(state, diffusion, piece, len(piece[0]) * world.size / size)
        return loss

    search = config.compute.micro_batch == micro_batching.SEARCH_LARGEST and world.size == 1
    loss = micro_batching.accumulate_with_retry(accumulate, state, len(batch[0]), search)
    if r.clip:
        nn.utils.clip_grad_norm_(state.net.parameters(), r.clip)
    for group in state.optimizer.param_groups:
        group["lr"] = r.lr * min(1.0, (state.step + 1) / max(1, r.warmup))
    state.optimizer.step()
    decay = min(r.ema, (1 + state.step) / (10 + state.step)) if r.ema_ramp else r.ema
    update_ema(state, decay)
    state.step += 1
    state.images += size
    return loss / world.size


def backward(state: TrainingState, diffusion: GaussianDiffusion, piece: tuple[Tensor, ...], weight: float) -> Tensor:
    """Backpropagate `weight` times the mean loss of some rows; return that product, a scalar on the device.

    A rank without rows uses one image of zeros with weight zero, so that all ranks call the network equally often.
    """
    rows = piece if len(piece[0]) else tuple(z.new_zeros(1, *z.shape[1:]) for z in piece)
    x0, t, eps, labels = (z.to(diffusion.device, non_blocking=True) for z in rows)
    xt = diffusion.q_sample(x0, t, eps)
    cond = labels if state.net.spec.io.num_classes else None  # type: ignore[union-attr]
    out = state.engine.call(state.call, xt, diffusion.time(t), cond)
    loss = diffusion.loss(out, x0, xt, t, eps).mean() * weight
    loss.backward()
    return loss.detach()


@torch.no_grad()
def update_ema(state: TrainingState, decay: float) -> None:
    """ema <- decay ema + (1 - decay) weights; buffers are copied."""
    ema, weights = ([parallel.local_tensor(p) for p in net.parameters()] for net in (state.ema, state.net))
    torch._foreach_lerp_(ema, weights, 1 - decay)
    for buffer, new_buffer in zip(state.ema.buffers(), state.net.buffers(), strict=True):
        buffer.copy_(new_buffer)


def train(context: RunContext) -> TrainingResult | None:
    """Train to the budget and save EMA weights at each evaluation point; return None if the run's log was removed.

    Resumes from the newest complete checkpoint.  Every rank checks for a stop request at every step; after one, all
    ranks save and raise StopRequested.  Rank 0 checks its lease before it writes.

    If the loss or the weights are not finite, or the loss is above MAX_LOSS, the run rolls back to the newest
    checkpoint and repeats exactly the same steps.  This recovers from hardware faults.  It does not change the recipe,
    because the benchmark uses one recipe for all.  Raises Diverged after MAX_ROLLBACKS rollbacks, counted over
    restarts.
    """
    set_determinism(context.config)
    run, world = context.run, context.world
    done = world.of_first(lambda: run.has_snapshots(context.config.budget.evaluation_points))
    if not done:
        train_with_rollbacks(context)
    result: TrainingResult | None = world.of_first(lambda: publish_result(context, trained=not done))
    return result


def train_with_rollbacks(context: RunContext) -> None:
    """Train to the budget; roll back to a checkpoint if the loss or the weights are not finite."""
    fault = None
    while True:
        try:
            return train_attempt(context, fault)
        except LossDiverged as error:
            fault = error
            raise_if_rollbacks_exhausted(context, fault)
            fault = fault.with_traceback(None)  # its frames would keep the diverged state in memory
        gc.collect()


def publish_result(context: RunContext, trained: bool) -> TrainingResult | None:
    """Write train.json and return its content, computed from the log of all attempts if this process trained."""
    if trained:
        context.log_peak_memory()
        result = TrainingResult.from_events(context.run.events()[0])
    else:
        result = read_training_result(context.run)
    context.check_lease()
    if result:
        write_result(context.run, result)
    return result


def train_attempt(context: RunContext, fault: LossDiverged | None) -> None:
    """Train from the newest checkpoint or from the start; raise LossDiverged if the loss or the state diverges."""
    run, config, world, device = context.run, context.config, context.world, context.device
    state = new_training_state(config, context.io, device, world)
    warnings = restore_newest_checkpoint(run, state, world)
    if world.first and fault:
        log_rollback(run, state, fault, warnings)
    elif world.first and warnings is not None:
        run.log("resume", images=state.images, warnings=warnings)

    def draw(step: int, images: int, size: int) -> tuple[Tensor, ...]:
        rows = parallel.rank_slice(size, world)
        return training_batch.draw_batch(config, context.dataset, context.io.num_classes, step, images, size, rows)

    workers, cuda = loader_workers(config, device), device.type == "cuda"
    steps = remaining_steps(state.step, state.images, config)
    with state.engine.running(), prefetch.PrefetchLoader(draw, steps, workers, pin=cuda) as batches:
        train_loop(context, state, batches)


def remaining_steps(step: int, images: int, config: RunConfig) -> Iterator[tuple[int, int, int]]:
    """Yield (step, images before it, images in it) to the end of the budget; no step crosses an evaluation point."""
    for point in config.budget.evaluation_points:
        while images < point:
            size = min(config.recipe.batch, point - images)
            yield step, images, size
            step, images = step + 1, images + size


def loader_workers(config: RunConfig, device: torch.device) -> int:
    """Number of loader threads: compute.workers, or by default up to 4 (one core stays free) on a GPU, 0 on a CPU."""
    if config.compute.workers >= 0:
        return config.compute.workers
    cores = len(os.sched_getaffinity(0))
    return max(1, min(4, cores - 1)) if device.type == "cuda" else 0


def train_loop(context: RunContext, state: TrainingState, batches: Iterator[tuple[Tensor, ...]]) -> None:
    """Make the remaining steps; raise LossDiverged if the loss or state diverges, StopRequested on a stop request."""
    run, config, world = context.run, context.config, context.world
    diffusion, metrics = make_diffusion(config.diffusion, state.engine.device), MetricsLogger(run, config, state, world)
    share = parallel.rank_slice(min(config.recipe.batch, config.budget.images), world)
    micro_batching.choose_micro_batch(
        run, state, config, world, share.stop - share.start, make_trial_step(config, state, diffusion)
    )
    logged: int | None = None
    for point in config.budget.evaluation_points:
        if point < state.images or (point == state.images and has_snapshot(run, point, world)):
            continue
        while state.images < point:
            if logged != state.micro_batch:
                logged = micro_batching.log_micro_batch(run, state, world)
            size = min(config.recipe.batch, point - state.images)
            metrics.add(train_step(state, config, diffusion, next(batches), size, world), size)
            log_due, stop, checkpoint_due, copying = world.agree(
                metrics.due(), context.stop_requested(), metrics.checkpoint_due(), metrics.is_copying()
            )
            if not copying:
                metrics.settle()
            if log_due or stop:
                metrics.report(wait=bool(stop or checkpoint_due))
            if stop or checkpoint_due:
                save_checkpoint(context, state)
                metrics.saved = time.monotonic()
            if stop:
                raise StopRequested
        metrics.report()
        save_checkpoint(context, state, snapshot=True)


def make_trial_step(config: RunConfig, state: TrainingState, diffusion: GaussianDiffusion) -> Callable[[int], None]:
    """Make a function that runs a forward and backward pass on images of zeros."""

    def trial(images: int) -> None:
        io: architectures.IOSpec = state.net.spec.io  # type: ignore[union-attr, assignment]
        x, labels = torch.zeros(images, io.channels, io.size, io.size), torch.zeros(images, dtype=torch.long)
        backward(state, diffusion, (x, draw_timesteps(config.diffusion, images, torch.Generator()), x, labels), 1.0)

    return trial
