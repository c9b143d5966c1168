"""Command-line entry point: plan runs, then submit them or run them here."""

from __future__ import annotations

import sys

from bench.runs.flags import run_parser
from bench.runs.launch import launch_runs
from bench.runs.listing import describe_choices
from bench.terminal.cli import command

DESCRIPTION = """\
Train a diffusion backbone, sample from it, measure the images, and write a record, a row of the
leaderboard and pictures to results/.  Run the same command again to continue an interrupted run.

  python -m bench.run --suite quickstart             three backbones at equal cost; takes minutes
  python -m bench.run --arch dit --data digits       one of them
  python -m bench.run --arch dit --size XL/2         the paper's setting: ImageNet 256 latents
  python -m bench.run --arch dit --size XL/2 --dry-run        print its plan and cost
  python -m bench.run --checkpoint DiT-XL-2-256x256.pt       sample and evaluate published weights
  python -m bench.run --arch my.module:Net --match macs:unet:nano --data digits    your own backbone
"""
STOPPED = "stopped; progress is saved, the same command continues from there"


@command("bench.run", errors=(ValueError,), stopped=STOPPED)
def main(argv: list[str] | None = None) -> int:
    flags = run_parser(DESCRIPTION).parse_args(argv)
    if flags.list:
        print(describe_choices())
        return 0
    sys.path.insert(0, "")  # for --arch package.module:Class of the current folder
    return launch_runs(flags)


if __name__ == "__main__":
    sys.exit(main())
