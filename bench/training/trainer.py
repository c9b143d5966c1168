"""The trainer: one loop for every architecture and data set, in one process or many.

Each step is a pure function of (state, seed, step), so a run that was killed anywhere ends with the
weights of one that was not.  All processes make the same draw and take their rows of it.

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
from bench.data.dataset import Dataset
from bench.diffusion.gaussian_diffusion import GaussianDiffusion, draw_timesteps, make_diffusion
from bench.storage import tensor_files
from bench.storage.process_identity import is_slurm_task
from bench.storage.run_folder import RunFolder
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
from bench.training.distributed import StopRequested as Stopped
from bench.training.distributed import device_of as device_of
from bench.training.metrics_logger import LossDiverged, MetricsLogger


def set_threads(config: RunConfig) -> None:
    """CPU threads of this process: those asked for, or a SLURM task's cores, or torch's default."""
    given = min(int(os.environ.get("SLURM_CPUS_PER_TASK", 0)), os.cpu_count() or 1) if is_slurm_task() else 0
    if threads := config.compute.threads or given:
        torch.set_num_threads(threads)


def set_determinism(config: RunConfig) -> None:
    """Where compute.deterministic asks for it: the same bits on a GPU each time; before CUDA is first used."""
    if config.compute.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def new_training_state(
    config: RunConfig, io: architectures.IOSpec, device: torch.device, world: World = SINGLE_PROCESS
) -> TrainingState:
    """A network from the seed, its average, and the optimizer; RuntimeError where the processes' differ."""
    torch.manual_seed(derive_seed(config.seed, "init"))
    model, r, way = config.model, config.recipe, execution.training_execution(config, device)
    net = architectures.build(model.arch, model.size or None, io=io, args=model.network).train()
    if world.size > 1:
        require_same_start(world, config, weights=tensor_files.tensors_crc32(net.state_dict()))
    sharded = world.size > 1 and config.compute.sharding == "fsdp"
    net = net if sharded else way.place(net.to(device))  # sharding moves it block by block
    ema = copy.deepcopy(net).eval().requires_grad_(False)
    if sharded:
        parallel.shard_fsdp(net, world, device)
        parallel.shard_fsdp(ema, world, device)
    way.prepare(net)
    own = [p for p in net.parameters() if p.requires_grad]
    if way.compile == "graphs":  # gradients must not lie in a graph's memory, which its next pass takes
        for p in own:
            p.grad = torch.zeros_like(p)
    optimizer = torch.optim.AdamW(own, lr=r.lr, betas=(r.beta1, r.beta2), weight_decay=r.weight_decay, fused=True)
    replicas = parallel.replicate_ddp(net, device) if world.size > 1 and not sharded else None
    return TrainingState(
        net, ema, optimizer, replicas=replicas, engine=way, micro_batch=max(0, config.compute.micro_batch)
    )


def train_step(
    state: TrainingState,
    config: RunConfig,
    diffusion: GaussianDiffusion,
    batch: tuple[Tensor, ...],
    size: int = 0,
    world: World = SINGLE_PROCESS,
) -> Tensor:
    """One optimiser step on this process's rows of a batch of `size` (0: all of it).

    Their part of the batch's mean loss, still on the device, which is not waited for.  What a network itself
    draws, such as dropout, is a function of (seed, step, rank).
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
    """Add the gradient of the images' mean loss times `weight`; that product, still on the device.

    Without an image one of zeros takes part, times nothing: all processes call the network equally often.
    """
    whole = piece if len(piece[0]) else tuple(z.new_zeros(1, *z.shape[1:]) for z in piece)
    x0, t, eps, labels = (z.to(diffusion.device, non_blocking=True) for z in whole)
    xt = diffusion.noisy(x0, t, eps)
    cond = labels if state.net.spec.io.num_classes else None  # type: ignore[union-attr]
    out = state.engine.call(state.call, xt, diffusion.time(t), cond)
    loss = diffusion.loss(out, x0, xt, t, eps).mean() * weight
    loss.backward()
    return loss.detach()


@torch.no_grad()
def update_ema(state: TrainingState, decay: float) -> None:
    """ema <- decay ema + (1 - decay) weights; buffers are copied."""
    own, new = ([parallel.local_tensor(p) for p in net.parameters()] for net in (state.ema, state.net))
    torch._foreach_lerp_(own, new, 1 - decay)
    for kept, fresh in zip(state.ema.buffers(), state.net.buffers(), strict=True):
        kept.copy_(fresh)


def train(
    run: RunFolder,
    config: RunConfig,
    arrays: Dataset,
    io: architectures.IOSpec,
    stop: Callable[[], bool],
    world: World = SINGLE_PROCESS,
    check_lease: Callable[[], None] = lambda: None,
) -> None:
    """Train to the budget, leaving averaged weights at each evaluation point.

    Goes on from the newest whole checkpoint.  `stop` is asked in every process at every step; where it
    says so in any, all save and raise Stopped.  `check_lease` is called in process 0 before anything is written,
    and may raise.

    A loss or weights that are not finite, or a loss above EXPLODED, send the run back to the last good
    checkpoint, to make exactly the same steps again: that heals faults of machines, and is not meant to heal
    a recipe, since one recipe for all is the point of this benchmark.  Diverged after ROLLBACKS of these,
    counted over restarts.
    """
    set_determinism(config)
    if world.of_first(lambda: run.has_snapshots(config.budget.evaluation_points)):
        return
    fault = None
    while True:
        try:
            return train_attempt(run, config, arrays, io, stop, world, check_lease, fault)
        except LossDiverged as error:
            fault = error
            raise_if_rollbacks_exhausted(run, world, fault, check_lease)
            fault = fault.with_traceback(None)  # which holds the state that failed
        gc.collect()


def train_attempt(
    run: RunFolder,
    config: RunConfig,
    arrays: Dataset,
    io: architectures.IOSpec,
    stop: Callable[[], bool],
    world: World,
    check_lease: Callable[[], None],
    fault: LossDiverged | None,
) -> None:
    """Train from the newest checkpoint, or the start; Exploded where that goes wrong."""
    device = device_of(config, world)
    state = new_training_state(config, io, device, world)
    warnings = restore_newest_checkpoint(run, state, world)
    if world.first and fault:
        log_rollback(run, state, fault, warnings)
    elif world.first and warnings is not None:
        run.log("resume", images=state.images, warnings=warnings)

    def drawn(step: int, images: int, size: int) -> tuple[Tensor, ...]:
        return training_batch.draw_batch(
            config, arrays, io.num_classes, step, images, size, parallel.rank_slice(size, world)
        )

    workers, cuda = loader_workers(config, device), device.type == "cuda"
    steps = remaining_steps(state.step, state.images, config)
    with state.engine.running(), prefetch.PrefetchLoader(drawn, steps, workers, pin=cuda) as batches:
        train_loop(run, config, state, batches, stop, world, check_lease)


def remaining_steps(step: int, images: int, config: RunConfig) -> Iterator[tuple[int, int, int]]:
    """(step, images seen before it, images of it) to the end of the budget; none goes beyond an evaluation point."""
    for point in config.budget.evaluation_points:
        while images < point:
            size = min(config.recipe.batch, point - images)
            yield step, images, size
            step, images = step + 1, images + size


def loader_workers(config: RunConfig, device: torch.device) -> int:
    """Threads that draw ahead: those asked for, or for a GPU up to 4, and one core is the trainer's."""
    if config.compute.workers >= 0:
        return config.compute.workers
    cores = len(os.sched_getaffinity(0))
    return max(1, min(4, cores - 1)) if device.type == "cuda" else 0


def train_loop(
    run: RunFolder,
    config: RunConfig,
    state: TrainingState,
    batches: Iterator[tuple[Tensor, ...]],
    stop: Callable[[], bool],
    world: World,
    check_lease: Callable[[], None],
) -> None:
    """Make the steps that are left; Exploded where one goes wrong, Stopped where that is asked for."""
    diffusion, meter = make_diffusion(config.diffusion, state.engine.device), MetricsLogger(run, config, state, world)
    share = parallel.rank_slice(min(config.recipe.batch, config.budget.images), world)
    micro_batching.choose_micro_batch(
        run, state, config, world, share.stop - share.start, make_trial_step(config, state, diffusion)
    )
    told: int | None = None
    for point in config.budget.evaluation_points:
        if point < state.images or (point == state.images and has_snapshot(run, point, world)):
            continue
        while state.images < point:
            if told != state.micro_batch:
                told = micro_batching.log_micro_batch(run, state, world)
            size = min(config.recipe.batch, point - state.images)
            meter.add(train_step(state, config, diffusion, next(batches), size, world), size)
            due, halt, write, late = world.agree(meter.due(), stop(), meter.checkpoint_due(), meter.late())
            if not late:
                meter.settle()
            if due or halt:
                meter.report(wait=bool(halt or write))
            if halt or write:
                save_checkpoint(run, config, state, world, check_lease)
                meter.saved = time.monotonic()
            if halt:
                raise Stopped
        meter.report()
        save_checkpoint(run, config, state, world, check_lease, snapshot=True)


def make_trial_step(config: RunConfig, state: TrainingState, diffusion: GaussianDiffusion) -> Callable[[int], None]:
    """A forward and a backward pass of so many images of zeros."""

    def trial(images: int) -> None:
        io: architectures.IOSpec = state.net.spec.io  # type: ignore[union-attr, assignment]
        x, labels = torch.zeros(images, io.channels, io.size, io.size), torch.zeros(images, dtype=torch.long)
        backward(state, diffusion, (x, draw_timesteps(config.diffusion, images, torch.Generator()), x, labels), 1.0)

    return trial
