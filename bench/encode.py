"""Make a set of latents once, to train on: python -m bench.encode DATA --vae PATH

DATA is what bench.run takes as --data, of RGB pixels; PATH a folder with diffusers' AutoencoderKL or VQModel.
Kept are the mean and standard deviation of each image's posterior, as it is and mirrored, in 16 bits.
Train on them with --data latents:OUT.  Run the same command again to go on where it stopped.

  python -m bench.encode imagenet256 --vae sd-vae-ft-ema           one process for each GPU
  srun -N 4 --ntasks-per-node=8 python -m bench.encode ...         the same, on several nodes
  python -m bench.encode data/imagenet256-latents --verify         read it all, and name what is damaged
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

from bench.data import autoencoder, sources
from bench.data.latent_workers import encode_dataset, verify_latents
from bench.terminal.cli import CommandParser, PlainHelp, command


def parser() -> CommandParser:
    p = CommandParser(prog="python -m bench.encode", description=__doc__, formatter_class=PlainHelp)
    p.add_argument("data", metavar="DATA", help="a data set of RGB images (bench.run --list); with --verify, latents")
    p.add_argument("--vae", default="", metavar="PATH", help="folder of the autoencoder: config.json and its weights")
    p.add_argument("--out", default="", metavar="DIR", help="where to (default: ROOT/NAME-latents)")
    p.add_argument("--root", default="data", metavar="ROOT", help="where known data sets are (default: data)")
    p.add_argument("--images", type=int, default=0, metavar="N", help="the first N only (default: all)")
    p.add_argument("--flips", choices=("auto", "1", "2"), default="auto", help="sides (default: 2 if DATA is mirrored)")
    p.add_argument("--reference", type=int, default=10_000, metavar="N", help="real images kept (default: 10000)")
    p.add_argument("--batch", type=int, default=32, metavar="N", help="images at a time (default: 32)")
    p.add_argument("--shard-mib", type=float, default=256, metavar="N", help="size of a shard (default: 256)")
    p.add_argument("--precision", choices=get_args(autoencoder.Precision), help="default: tf32 on a GPU, fp32 on a CPU")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--processes", type=int, default=0, metavar="N", help="on this machine (default: its GPUs, or 1)")
    p.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads each (default: its share of cores)")
    p.add_argument("--workers", type=int, default=2, metavar="N", help="threads each that read images (default: 2)")
    p.add_argument("--verify", action="store_true", help="hold every file of a finished set against its checksum")
    p.add_argument("--dry-run", action="store_true", help="say what would be made, and how large it is")
    return p


@command("bench.encode", stopped="stopped; whole shards are kept, the same command goes on from there")
def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    return (
        verify_latents(Path(flags.data.removeprefix(sources.LATENTS_PREFIX))) if flags.verify else encode_dataset(flags)
    )


if __name__ == "__main__":
    sys.exit(main())
