"""Command-line entry point: plan runs, then submit them or run them here."""

from __future__ import annotations

import sys
from typing import get_args

from bench.cluster.local_queue import CLUSTERS
from bench.experiments import suites
from bench.runs.launch import launch_runs
from bench.runs.listing import describe_choices, describe_settings
from bench.terminal.cli import CommandParser, WideHelp, command
from bench.terminal.cli import non_empty as text

DESCRIPTION = """\
Train a diffusion backbone, sample from it, measure the images, and write a record, a row of the
leaderboard and pictures to results/.  Run the same command again to go on where it stopped.

  python -m bench.run --suite quickstart             three backbones at equal cost, in minutes
  python -m bench.run --arch dit --data digits       one of them
  python -m bench.run --arch dit --size XL/2         the paper's setting, ImageNet 256 latents
  python -m bench.run --arch dit --size XL/2 --dry-run        what that would cost
  python -m bench.run --checkpoint DiT-XL-2-256x256.pt       sample and evaluate published weights
  python -m bench.run --arch my.module:Net --match macs:unet:nano --data digits    your own
"""


def parser() -> CommandParser:
    p = CommandParser(prog="python -m bench.run", description=DESCRIPTION, epilog=describe_settings(), add_help=False)
    p.formatter_class = WideHelp
    what = p.add_argument_group("what to run")
    what.add_argument(
        "--arch", metavar="NAME", type=text, help="a name of --list or package.module:Class (default: dit)"
    )
    what.add_argument(
        "--size", metavar="NAME", type=text, help="a size of the architecture (default: nano, or matched)"
    )
    what.add_argument("--data", metavar="NAME", type=text, help="data set or path (default: the paper's, or digits)")
    what.add_argument("--suite", metavar="NAME", help=f"a named grid of runs: {', '.join(suites.SUITES)}")
    what.add_argument("--scale", choices=get_args(suites.Scale), help="of a suite: digits (default), shapes or paper")
    what.add_argument("--seeds", type=int, metavar="N", help="of a suite: runs a cell (default: 3, at paper scale 1)")
    what.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=text,
        help="published weights: sample and evaluate them, train nothing",
    )
    rules = p.add_argument_group("by which rules")
    rules.add_argument("--track", choices=("shared", "native"), help="recipe (default: shared; of a suite: its own)")
    rules.add_argument("--match", metavar="[BY:]ARCH:SIZE", type=text, help="equal macs (or params) with a reference")
    rules.add_argument("--seed", type=int, default=0, help="seed of a training run (default: 0)")
    rules.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="any setting below; repeatable")
    where = p.add_argument_group("where and how")
    where.add_argument("--cluster", choices=CLUSTERS, default="auto", help="auto: SLURM where sbatch works, else local")
    where.add_argument("--profile", metavar="NAME", default="default", help="slurm/NAME.toml (default: default)")
    where.add_argument("--parallel", type=int, metavar="N", help="runs at a time (default: by machine)")
    where.add_argument("--results", metavar="DIR", type=text, default="results", help="its folder (default: results)")
    where.add_argument(
        "--export", choices=("none", "npz", "png"), help="keep sampled images as files (default: digits npz, else none)"
    )
    where.add_argument("--fresh", action="store_true", help="throw away what these runs have left and start over")
    where.add_argument("--watch", action="store_true", help="on SLURM, stay and show how the runs get on")
    where.add_argument("--retry-failed", action="store_true", help="on SLURM, submit also what failed before")
    where.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan, its cost and the sbatch requests; write nothing",
    )
    more = p.add_argument_group("information")
    more.add_argument("--list", action="store_true", help="architectures, sizes, data sets and suites")
    more.add_argument("-h", "--help", action="help", help="this page")
    return p


@command(
    "bench.run", errors=(ValueError,), stopped="stopped; what is done is saved, the same command goes on from there"
)
def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    if flags.list:
        print(describe_choices())
        return 0
    sys.path.insert(0, "")
    return launch_runs(flags)


if __name__ == "__main__":
    sys.exit(main())
