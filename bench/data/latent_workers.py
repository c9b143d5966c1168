"""Encode a data set to latents in one or several processes, and verify a finished set."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.data import autoencoder, latent_encoding, sources
from bench.data.latent_encoding import find_finished_shard, finish_latents
from bench.data.latent_plan import EncodingOptions, EncodingTask, check_disk_space, describe_plan, plan_encoding
from bench.data.latents import LatentManifest, check_files, read_manifest, shard_ranges
from bench.terminal.progress_bar import ProgressBar

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05


def verify_latents(folder: Path) -> tuple[list[str], str]:
    """Check every file of a set.  Return (a message for each damaged file, the message for an intact set)."""
    manifest = read_manifest(folder)
    total_bytes = sum(file.bytes for file in manifest.files())
    damages = []
    with ProgressBar(f"verify {folder}", total_bytes, unit="bytes") as progress:
        for file, damage in check_files(folder):
            progress.add(file.bytes)
            if damage:
                damages.append(damage)
    files = f"{len(manifest.files())} files of {manifest.images:,} latents"
    return damages, f"{folder} is intact: {files}, {manifest.digest()[:16]}"


def encode_dataset(options: EncodingOptions, dry_run: bool = False) -> list[str]:
    """Encode missing shards, and write the manifest once all are finished.  Return lines to print.

    Under srun, tasks split the shards between them.  `dry_run` writes nothing.
    """
    task, dataset = plan_encoding(options)
    spec = task.spec
    logger.info(describe_plan(spec, task.out))
    if dry_run:
        return []
    previous = latent_encoding.begin_latents(task.out, spec)
    if previous and latent_encoding.is_complete(task.out, previous):
        return [f"{task.out} is finished already: {describe_latents(previous)}"]
    rank, world_size = srun_rank()
    assigned = range(len(shard_ranges(spec.images, spec.rows)))[rank::world_size]
    missing = [i for i in assigned if find_finished_shard(task.out, i, previous) is None]
    check_disk_space(task, missing)
    if len(missing) < len(assigned):
        logger.info(f"{len(assigned) - len(missing)} of {len(assigned)} shards are finished already")
    label = f"encode, {rank} of {world_size}" if world_size > 1 else "encode"
    encode_shards(task, missing, options.processes if world_size == 1 else 1, label)
    manifest = finish_latents(task.out, spec, dataset, previous)
    if manifest is None:
        logger.info(f"process {rank} of {world_size} has encoded its shards; others are still encoding theirs")
        return []
    lines = []
    if previous and previous.digest() != manifest.digest():
        lines.append(
            "these latents differ from the previous ones (another device or version?), so runs on them start over"
        )
    lines.append(
        f"{task.out}: {describe_latents(manifest)}; train on it with --data {sources.LATENTS_PREFIX}{task.out}"
    )
    return lines


def describe_latents(manifest: LatentManifest) -> str:
    """Return a one-line summary of a finished set."""
    return f"{manifest.images:,} latents of {manifest.data}, {len(manifest.shards)} shards, {manifest.digest()[:16]}"


def srun_rank() -> tuple[int, int]:
    """Return (rank, number of tasks) of this process under srun; (0, 1) without it."""
    world_size = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    return (int(os.environ["SLURM_PROCID"]), world_size) if world_size > 1 else (0, 1)


def encode_shards(task: EncodingTask, shards: Sequence[int], processes: int, label: str) -> None:
    """Encode shards in this process or in several; `processes` 0 is one for each GPU.  ValueError if encoding fails."""
    ranges = shard_ranges(task.spec.images, task.spec.rows)
    processes = min(processes or (torch.cuda.device_count() if task.cuda else 1), max(1, len(shards)))
    with ProgressBar(label, sum(len(ranges[i]) for i in shards)) as progress:
        if processes == 1:
            local_rank = int(os.environ.get("SLURM_LOCALID", 0))
            encode_shards_here(task, shards, local_rank, 1, progress.add)
        else:
            encode_in_processes(task, shards, processes, progress)


def encode_shards_here(
    task: EncodingTask, shards: Sequence[int], local_rank: int, processes: int, report: Callable[[int], None]
) -> None:
    """Encode shards sequentially in this process, one of `processes` on this machine."""
    torch.set_num_threads(task.threads or max(1, len(os.sched_getaffinity(0)) // processes))
    device = torch.device("cuda", local_rank % torch.cuda.device_count()) if task.cuda else torch.device("cpu")
    if task.cuda:
        torch.cuda.set_device(device)
    dataset = sources.load_dataset(task.data, task.root)
    vae = autoencoder.load_autoencoder(task.vae, task.spec.vae.sha256)
    encode = autoencoder.make_encoder(vae, device, task.spec.precision)  # type: ignore[arg-type]
    for index in shards:
        latent_encoding.encode_shard(task.out, task.spec, index, dataset, encode, task.workers, report)


def worker_main(
    task: EncodingTask, shards: Sequence[int], rank: int, processes: int, parent: int, messages: Any
) -> None:
    """Encode shards in a child process; put image counts, or an error message, into the queue `messages`."""

    def report(images: int) -> None:
        messages.put(images)
        if os.getppid() != parent:
            os._exit(1)  # the parent was killed

    try:
        encode_shards_here(task, shards, rank, processes, report)
    except (ValueError, OSError) as error:
        messages.put(str(error))
        messages.close()
        messages.join_thread()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def encode_in_processes(task: EncodingTask, shards: Sequence[int], processes: int, progress: ProgressBar) -> None:
    """Encode shards in several child processes, which terminate with this process."""
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    start = partial(context.Process, target=worker_main, daemon=True)
    workers = [start(args=(task, shards[i::processes], i, processes, os.getpid(), messages)) for i in range(processes)]
    try:
        for process in workers:
            process.start()
        watch_workers(workers, messages, progress)
    finally:
        for process in workers:
            process.terminate()
            process.join()


def watch_workers(workers: Sequence[Any], messages: Any, progress: ProgressBar) -> None:
    """Show progress until all workers have ended; ValueError as soon as one fails."""
    while True:
        all_ended = all(p.exitcode is not None for p in workers)  # read before the queue is emptied
        while not messages.empty():
            if isinstance(message := messages.get(), str):
                raise ValueError(message)
            progress.add(message)
        for p in workers:
            if p.exitcode and messages.empty():
                end = f"was killed by signal {-p.exitcode}" if p.exitcode < 0 else f"ended with status {p.exitcode}"
                raise ValueError(f"a process {end}, perhaps out of memory; run the same command again to continue")
        if all_ended:
            return
        time.sleep(POLL_SECONDS)
