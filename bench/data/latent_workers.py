"""Encode a data set to latents in one or several processes, and check a finished set."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.config.naming import dataset_title
from bench.data import autoencoder, dataset, latent_encoding, latents, sources
from bench.data.latent_encoding import find_finished_shard, finish_latents
from bench.data.latents import LatentManifest, LatentSpec, check_files, read_manifest, shard_ranges
from bench.terminal.progress_bar import ProgressBar

CROP_METHOD = "ADM's centre crop, where images have another size"
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class EncodingTask:
    """What each process is told."""

    data: str
    root: str
    out: Path
    vae: str
    facts: LatentSpec
    cuda: bool
    threads: int
    workers: int


def verify_latents(folder: Path) -> int:
    """Read every file of a set; 1 where any is damaged, after naming them all."""
    m = read_manifest(folder)
    bad = 0
    with ProgressBar(f"verify {folder}", sum(f.bytes for f in m.files()), unit="bytes") as progress:
        for file, wrong in check_files(folder):
            progress.add(file.bytes)
            bad += bool(wrong)
            if wrong:
                print(f"bench.encode: {wrong}", file=sys.stderr)
    if not bad:
        print(f"{folder} is whole: {len(m.files())} files of {m.images:,} latents, {m.digest()[:16]}")
    return int(bool(bad))


def encode_dataset(flags: argparse.Namespace) -> int:
    """Plan, encode what is not there yet, and write the manifest where that is all."""
    for name in ("reference", "batch", "shard_mib"):
        if getattr(flags, name) <= 0:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(flags, name)}; it must be greater than 0")
    for name in ("images", "processes", "threads", "workers"):
        if getattr(flags, name) < 0:
            raise ValueError(f"--{name} is {getattr(flags, name)}; it must be at least 0")
    work, arrays = plan_encoding(flags)
    print(describe_plan(work.facts, work.out), file=sys.stderr)
    if flags.dry_run:
        return 0
    before = latent_encoding.begin_latents(work.out, work.facts)
    if before and latent_encoding.is_complete(work.out, before):
        print(f"{work.out} is there already: {describe_latents(before)}")
        return 0
    rank, world = srun_rank()
    todo = [i for i in range(len(shard_ranges(work.facts.images, work.facts.rows))) if i % world == rank]
    todo = [i for i in todo if find_finished_shard(work.out, work.facts, i, before) is None]
    check_disk_space(work, todo)
    there = len(shard_ranges(work.facts.images, work.facts.rows)[rank::world]) - len(todo)
    if there:
        print(f"{there} of {there + len(todo)} shards are there already", file=sys.stderr)
    encode_shards(
        work, todo, flags.processes if world == 1 else 1, f"encode, {rank} of {world}" if world > 1 else "encode"
    )
    made = finish_latents(work.out, work.facts, arrays, before)
    if made is None:
        print(f"process {rank} of {world} has done its part; the others are at work", file=sys.stderr)
        return 0
    if before and before.digest() != made.digest():
        print("these are other latents than before (another device, or version?): runs on them begin anew")
    print(f"{work.out}: {describe_latents(made)}; train on it with --data {sources.LATENTS_PREFIX}{work.out}")
    return 0


def describe_latents(m: LatentManifest) -> str:
    return f"{m.images:,} latents of {m.data}, {len(m.shards)} shards, {m.digest()[:16]}"


def srun_rank() -> tuple[int, int]:
    """(rank, number) of this process among those of its srun; (0, 1) where there is none."""
    world = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    return (int(os.environ["SLURM_PROCID"]), world) if world > 1 else (0, 1)


def plan_encoding(flags: argparse.Namespace) -> tuple[EncodingTask, dataset.Dataset]:
    """What is to be made, and of what; ValueError says in a sentence what does not fit."""
    what = sources.open_source(flags.data, flags.root)
    if what.latent or what.channels != 3:
        kind = "latents already" if what.latent else f"images of {what.channels} channel"
        raise ValueError(f"{flags.data} has {kind}; an autoencoder takes RGB images")
    if not flags.vae:
        raise ValueError("name the autoencoder's folder with --vae PATH (diffusers' AutoencoderKL or VQModel)")
    if not (Path(flags.vae) / "config.json").is_file():
        raise ValueError(f"--vae {flags.vae} has no config.json; name a folder with diffusers' AutoencoderKL")
    cuda = flags.device != "cpu" and torch.cuda.is_available()
    if flags.device == "cuda" and not cuda:
        raise ValueError("--device cuda, but torch sees no CUDA device; use --device cpu")
    precision = flags.precision or ("tf32" if cuda else "fp32")
    if precision != "fp32" and not cuda:
        raise ValueError(f"--precision {precision} is for GPUs; on a CPU use fp32")
    arrays = sources.load_dataset(flags.data, flags.root)
    name = dataset_title(flags.data)
    facts = make_spec(flags, name, what, arrays, precision)
    work = EncodingTask(
        data=flags.data,
        root=flags.root,
        out=Path(flags.out or Path(flags.root) / f"{name.replace('@', '-')}-latents"),
        vae=flags.vae,
        facts=facts,
        cuda=cuda,
        threads=flags.threads,
        workers=flags.workers,
    )
    return work, arrays


def make_spec(
    flags: argparse.Namespace, name: str, what: dataset.DataSource, arrays: dataset.Dataset, precision: str
) -> LatentSpec:
    """What the manifest will say, but for its files."""
    vae = autoencoder.load_autoencoder(flags.vae)
    factor, shift = autoencoder.latent_scaling(vae)
    shape = autoencoder.latent_shape(vae, what.size)
    moments = ("mean",) if autoencoder.is_vq(vae) else ("mean", "std")
    images = flags.images or len(arrays.images)
    if images > len(arrays.images):
        raise ValueError(f"--images is {images:,}; {flags.data} has {len(arrays.images):,}")
    flips = int(flags.flips) if flags.flips != "auto" else 2 if what.flip or arrays.flip else 1
    bytes_each = 2 * flips * len(moments) * int(np.prod(shape))
    labels = np.asarray(arrays.labels[np.arange(images)])
    return latent_encoding.new_spec(
        data=name,
        data_hash=what.hash,
        vae=latents.AutoencoderInfo(
            path=str(Path(flags.vae).absolute()),
            sha256=autoencoder.hash_autoencoder(flags.vae, vae),
            kind="VQModel" if autoencoder.is_vq(vae) else "AutoencoderKL",
            scaling_factor=factor,
            shift_factor=shift,
        ),
        resolution=what.size,
        crop=CROP_METHOD,
        flips=flips,
        moments=moments,
        shape=shape,
        images=images,
        num_classes=what.num_classes,
        classes=what.classes,
        counts=tuple(np.bincount(labels, minlength=what.num_classes).tolist()) if what.num_classes else (),
        precision=precision,
        batch=flags.batch,
        rows=max(1, round(flags.shard_mib * 2**20 / bytes_each)),
        references=min(flags.reference, len(arrays.reference)),
    )


def latent_bytes(facts: LatentSpec, images: int) -> int:
    """Bytes of the latents of so many images."""
    return 2 * int(np.prod(facts.shape_of(images)))


def describe_plan(facts: LatentSpec, out: Path) -> str:
    """What will be made."""
    c, h, w = facts.shape
    sides = "as they are and mirrored" if facts.flips == 2 else "as they are"
    pictures = facts.references * 3 * facts.resolution**2
    return (
        f"{facts.images:,} images of {facts.data} at {facts.resolution} pixels, {sides}, to {c}x{h}x{w} "
        f"({' and '.join(facts.moments)}): {len(shard_ranges(facts.images, facts.rows)):,} shards, "
        f"{latent_bytes(facts, facts.images) / GIB:,.2f} GiB, and "
        f"{pictures / GIB:,.2f} GiB of reference images, in {out}"
    )


def check_disk_space(work: EncodingTask, todo: Sequence[int]) -> None:
    """ValueError, before hours of work, where its disk has no room for what is to be made."""
    facts = work.facts
    rows = [shard_ranges(facts.images, facts.rows)[i] for i in todo]
    need = latent_bytes(facts, sum(map(len, rows))) + facts.references * 3 * facts.resolution**2
    free = shutil.disk_usage(work.out).free
    if free < need:
        raise ValueError(f"{work.out} needs {need / GIB:,.2f} GiB more, and its disk has {free / GIB:,.2f} GiB free")


def encode_shards(work: EncodingTask, todo: Sequence[int], processes: int, name: str) -> None:
    """Make shards, in this process or in several; ValueError where one of those fails."""
    ranges = shard_ranges(work.facts.images, work.facts.rows)
    processes = min(processes or (torch.cuda.device_count() if work.cuda else 1), max(1, len(todo)))
    with ProgressBar(name, sum(len(ranges[i]) for i in todo)) as progress:
        if processes == 1:
            local = int(os.environ.get("SLURM_LOCALID", 0))
            encode_shards_here(work, todo, local, 1, progress.add)
        else:
            encode_in_processes(work, todo, processes, progress)


def encode_shards_here(
    work: EncodingTask, todo: Sequence[int], place: int, processes: int, report: Callable[[int], None]
) -> None:
    """Make some shards, one after the other."""
    torch.set_num_threads(work.threads or max(1, len(os.sched_getaffinity(0)) // processes))
    device = torch.device("cuda", place % torch.cuda.device_count()) if work.cuda else torch.device("cpu")
    if work.cuda:
        torch.cuda.set_device(device)
    arrays = sources.load_dataset(work.data, work.root)
    vae = autoencoder.load_autoencoder(work.vae, work.facts.vae.sha256)
    encode = autoencoder.make_encoder(vae, device, work.facts.precision)  # type: ignore[arg-type]
    for index in todo:
        latent_encoding.encode_shard(work.out, work.facts, index, arrays, encode, work.workers, report)


def worker_main(work: EncodingTask, todo: Sequence[int], place: int, processes: int, parent: int, words: Any) -> None:
    """A process of `spread`: tells of images as they are done and, in a sentence, of what went wrong."""

    def report(images: int) -> None:
        words.put(images)
        if os.getppid() != parent:
            os._exit(1)  # nobody waits for this any more

    try:
        encode_shards_here(work, todo, place, processes, report)
    except (ValueError, OSError) as error:
        words.put(str(error))
        words.close()
        words.join_thread()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def encode_in_processes(work: EncodingTask, todo: Sequence[int], processes: int, progress: ProgressBar) -> None:
    """Make shards in several processes, which end with this one."""
    context = multiprocessing.get_context("spawn")
    words = context.Queue()
    start = partial(context.Process, target=worker_main, daemon=True)
    children = [start(args=(work, todo[i::processes], i, processes, os.getpid(), words)) for i in range(processes)]
    try:
        for process in children:
            process.start()
        watch_workers(children, words, progress)
    finally:
        for process in children:
            process.terminate()
            process.join()


def watch_workers(children: Sequence[Any], words: Any, progress: ProgressBar) -> None:
    """Hear of progress until all have ended well; ValueError as soon as one has not."""
    while True:
        over = all(p.exitcode is not None for p in children)  # before the queue is emptied
        while not words.empty():
            if isinstance(word := words.get(), str):
                raise ValueError(word)
            progress.add(word)
        for p in children:
            if p.exitcode and words.empty():
                why = f"was killed by signal {-p.exitcode}" if p.exitcode < 0 else f"ended with status {p.exitcode}"
                raise ValueError(f"a process {why}, perhaps for lack of memory; the same command goes on")
        if over:
            return
        time.sleep(0.05)
