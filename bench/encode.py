"""Encode a data set to latents for training: python -m bench.encode DATA --vae PATH

DATA is a data set of RGB images, as for bench.run --data.  PATH is a folder with an AutoencoderKL or VQModel of
diffusers.  The output holds the mean and standard deviation of the posterior of each image and of its mirror image, in
16 bits.  Train on it with --data latents:OUT.  To continue after an interruption, run the same command again.

  python -m bench.encode imagenet256 --vae sd-vae-ft-ema           one process for each GPU
  srun -N 4 --ntasks-per-node=8 python -m bench.encode ...         the same, on several nodes
  python -m bench.encode data/imagenet256-latents --verify         check all files, and list damaged ones
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

from bench.config.schema import Precision
from bench.data import sources
from bench.terminal.cli import CommandParser, PlainHelp, command


def parser() -> CommandParser:
    p = CommandParser(prog="python -m bench.encode", description=__doc__, formatter_class=PlainHelp)
    add = p.add_argument
    add("data", metavar="DATA", help="a data set of RGB images (bench.run --list); with --verify, latents")
    add("--vae", default="", metavar="PATH", help="folder of the autoencoder (config.json and weights)")
    add("--out", default="", metavar="DIR", help="output folder (default: ROOT/NAME-latents)")
    add("--root", default="data", metavar="ROOT", help="folder of the known data sets (default: data)")
    add("--images", type=int, default=0, metavar="N", help="encode only the first N images (default: all)")
    flips = "1: images only; 2: also their mirror images; auto: 2 if training mirrors DATA"
    add("--flips", choices=("auto", "1", "2"), default="auto", help=flips)
    add("--reference", type=int, default=10_000, metavar="N", help="reference images to store for FID (default: 10000)")
    add("--batch", type=int, default=32, metavar="N", help="batch size (default: 32)")
    add("--shard-mib", type=float, default=256, metavar="N", help="size of a shard in MiB (default: 256)")
    add("--precision", choices=get_args(Precision), help="of the autoencoder (default: tf32 on GPUs, else fp32)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    add("--processes", type=int, default=0, metavar="N", help="processes (default: one per GPU, or 1)")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads per process (default: CPUs / processes)")
    add("--workers", type=int, default=2, metavar="N", help="threads per process that read images (default: 2)")
    add("--verify", action="store_true", help="check every file of finished latents against its SHA-256")
    add("--dry-run", action="store_true", help="print the plan and its size, and stop")
    return p


@command("bench.encode", stopped="stopped; finished shards are kept, and the same command continues from there")
def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    from bench.data.latent_plan import EncodingOptions
    from bench.data.latent_workers import encode_dataset, verify_latents

    if not flags.verify:
        print("\n".join(encode_dataset(EncodingOptions.from_flags(flags), flags.dry_run)))
        return 0
    damages, summary = verify_latents(Path(flags.data.removeprefix(sources.LATENTS_PREFIX)))
    print("\n".join(f"bench.encode: {damage}" for damage in damages) or summary, file=sys.stderr if damages else None)
    return int(bool(damages))


if __name__ == "__main__":
    sys.exit(main())
