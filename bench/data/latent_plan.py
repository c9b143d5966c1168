"""Plan the encoding of a data set: options, properties of the latents, size, and free disk space."""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from bench.config.naming import dataset_title
from bench.data import autoencoder, sources
from bench.data.dataset import Dataset, DataSource
from bench.data.latents import FORMAT_VERSION, AutoencoderInfo, LatentSpec, shard_ranges

CROP_METHOD = "ADM's centre crop, where images have another size"
GIB, MIB = 2**30, 2**20
BYTES_PER_NUMBER = 2
"""Latents are float16."""


@dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """Flags of bench.encode; 0 and "" select the defaults that --help lists."""

    data: str
    vae: str
    out: str = ""
    root: str = "data"
    images: int = 0
    flips: str = "auto"
    reference: int = 10_000
    batch: int = 32
    shard_mib: float = 256
    precision: str = ""
    device: str = "auto"
    processes: int = 0
    threads: int = 0
    workers: int = 2

    @classmethod
    def from_flags(cls, flags: Namespace) -> EncodingOptions:
        """Build the options from parsed flags, ignoring flags that are not options."""
        return cls(**{field.name: getattr(flags, field.name) for field in fields(cls)})

    def __post_init__(self) -> None:
        for name in ("reference", "batch", "shard_mib"):
            if getattr(self, name) <= 0:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {getattr(self, name)}; it must be greater than 0")
        for name in ("images", "processes", "threads", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least 0")


@dataclass(frozen=True, kw_only=True)
class EncodingTask:
    """Arguments of a worker process that encodes shards."""

    data: str
    root: str
    out: Path
    vae: str
    spec: LatentSpec
    cuda: bool
    threads: int
    workers: int


def plan_encoding(options: EncodingOptions) -> tuple[EncodingTask, Dataset]:
    """Plan the encoding and load the data set; ValueError names an option that does not fit."""
    source = sources.open_source(options.data, options.root)
    if source.latent or source.channels != 3:
        content = "latents" if source.latent else f"images of {source.channels} channel"
        raise ValueError(f"{options.data} has {content}; an autoencoder takes RGB images")
    if not options.vae:
        raise ValueError("name the autoencoder's folder with --vae PATH (diffusers' AutoencoderKL or VQModel)")
    if not (Path(options.vae) / "config.json").is_file():
        raise ValueError(f"--vae {options.vae} has no config.json; name a folder with diffusers' AutoencoderKL")
    cuda = options.device != "cpu" and torch.cuda.is_available()
    if options.device == "cuda" and not cuda:
        raise ValueError("--device cuda, but torch sees no CUDA device; use --device cpu")
    precision = options.precision or ("tf32" if cuda else "fp32")
    if precision != "fp32" and not cuda:
        raise ValueError(f"--precision {precision} is for GPUs; on a CPU use fp32")
    dataset = sources.load_source(source)
    spec = make_spec(options, source, dataset, precision)
    task = EncodingTask(
        data=options.data,
        root=options.root,
        out=Path(options.out or Path(options.root) / f"{spec.data.replace('@', '-')}-latents"),
        vae=options.vae,
        spec=spec,
        cuda=cuda,
        threads=options.threads,
        workers=options.workers,
    )
    return task, dataset


def make_spec(options: EncodingOptions, source: DataSource, dataset: Dataset, precision: str) -> LatentSpec:
    """Return the properties of the set of latents, as its manifest will state them."""
    vae = autoencoder.load_autoencoder(options.vae)
    factor, shift = autoencoder.latent_scaling(vae)
    shape = autoencoder.latent_shape(vae, source.size)
    moments = ("mean",) if autoencoder.is_vq(vae) else ("mean", "std")
    images = options.images or len(dataset.images)
    if images > len(dataset.images):
        raise ValueError(f"--images is {images:,}; {options.data} has {len(dataset.images):,}")
    flips = int(options.flips) if options.flips != "auto" else 2 if source.flip else 1
    bytes_per_image = BYTES_PER_NUMBER * flips * len(moments) * int(np.prod(shape))
    labels = np.asarray(dataset.labels[np.arange(images)])
    counts = np.bincount(labels, minlength=source.num_classes).tolist() if source.num_classes else ()
    return LatentSpec(
        format=FORMAT_VERSION,
        data=dataset_title(options.data),
        data_hash=source.hash,
        vae=AutoencoderInfo(
            path=str(Path(options.vae).absolute()),
            sha256=autoencoder.hash_autoencoder(options.vae, vae),
            kind="VQModel" if autoencoder.is_vq(vae) else "AutoencoderKL",
            scaling_factor=factor,
            shift_factor=shift,
        ),
        resolution=source.size,
        crop=CROP_METHOD,
        flips=flips,  # type: ignore[arg-type]
        moments=moments,
        shape=shape,
        images=images,
        num_classes=source.num_classes,
        classes=source.classes,
        counts=tuple(counts),
        precision=precision,
        batch=options.batch,
        rows=max(1, round(options.shard_mib * MIB / bytes_per_image)),
        references=min(options.reference, len(dataset.reference)),
    )


def latent_bytes(spec: LatentSpec, images: int) -> int:
    """Return the bytes of the latents of this many images."""
    return BYTES_PER_NUMBER * int(np.prod(spec.shape_of(images)))


def reference_bytes(spec: LatentSpec) -> int:
    """Return the bytes of the reference images."""
    return spec.references * 3 * spec.resolution**2


def describe_plan(spec: LatentSpec, out: Path) -> str:
    """Describe the planned set of latents and its size."""
    c, h, w = spec.shape
    flips = "original and mirrored" if spec.flips == 2 else "not mirrored"
    return (
        f"{spec.images:,} images of {spec.data} at {spec.resolution} pixels, {flips}, to {c}x{h}x{w} "
        f"({' and '.join(spec.moments)}): {len(shard_ranges(spec.images, spec.rows)):,} shards, "
        f"{latent_bytes(spec, spec.images) / GIB:,.2f} GiB, and {reference_bytes(spec) / GIB:,.2f} GiB of reference "
        f"images, in {out}"
    )


def check_disk_space(task: EncodingTask, shards: Sequence[int]) -> None:
    """Raise ValueError if the disk has too little space for these shards and the reference images."""
    ranges = shard_ranges(task.spec.images, task.spec.rows)
    needed = latent_bytes(task.spec, sum(len(ranges[i]) for i in shards)) + reference_bytes(task.spec)
    free = shutil.disk_usage(task.out).free
    if free < needed:
        raise ValueError(f"{task.out} needs {needed / GIB:,.2f} GiB more, and its disk has {free / GIB:,.2f} GiB free")
