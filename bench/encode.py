"""Encode a data set to latents, once, to train on: python -m bench.encode DATA --vae PATH

DATA is a data set of RGB pixels, as bench.run takes it with --data; PATH is a folder with diffusers' AutoencoderKL or
VQModel.  Stored are mean and standard deviation of the posterior of each image and its mirror image, in 16 bits.
Train with --data latents:OUT.  After an interruption run the same command again.

  python -m bench.encode imagenet256 --vae sd-vae-ft-ema           one process for each GPU
  srun -N 4 --ntasks-per-node=8 python -m bench.encode ...         the same, on several nodes
  python -m bench.encode data/imagenet256-latents --verify         read all files, and name damaged ones
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
    p.add_argument("data", metavar="DATA", help="a data set of RGB images (bench.run --list); with --verify, latents")
    p.add_argument("--vae", default="", metavar="PATH", help="folder of the autoencoder: config.json and its weights")
    p.add_argument("--out", default="", metavar="DIR", help="output folder (default: ROOT/NAME-latents)")
    p.add_argument("--root", default="data", metavar="ROOT", help="folder of the known data sets (default: data)")
    p.add_argument("--images", type=int, default=0, metavar="N", help="the first N images only (default: all)")
    p.add_argument("--flips", choices=("auto", "1", "2"), default="auto", help="2: mirrored too (default: as DATA is)")
    p.add_argument("--reference", type=int, default=10_000, metavar="N", help="reference images (default: 10000)")
    p.add_argument("--batch", type=int, default=32, metavar="N", help="batch size (default: 32)")
    p.add_argument("--shard-mib", type=float, default=256, metavar="N", help="size of a shard in MiB (default: 256)")
    p.add_argument("--precision", choices=get_args(Precision), help="default: tf32 on GPUs, else fp32")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--processes", type=int, default=0, metavar="N", help="processes (default: one per GPU, or 1)")
    p.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads per process (default: its share)")
    p.add_argument("--workers", type=int, default=2, metavar="N", help="reading threads per process (default: 2)")
    p.add_argument("--verify", action="store_true", help="check every file of a finished set against its SHA-256")
    p.add_argument("--dry-run", action="store_true", help="print the plan and its size, and stop")
    return p


@command("bench.encode", stopped="stopped; finished shards are kept, and the same command goes on from there")
def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    from bench.data.latent_plan import EncodingOptions
    from bench.data.latent_workers import encode_dataset, verify_latents

    if flags.verify:
        damages, summary = verify_latents(Path(flags.data.removeprefix(sources.LATENTS_PREFIX)))
        for damage in damages:
            print(f"bench.encode: {damage}", file=sys.stderr)
        if not damages:
            print(summary)
        return int(bool(damages))
    for line in encode_dataset(EncodingOptions.from_flags(flags), flags.dry_run):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
