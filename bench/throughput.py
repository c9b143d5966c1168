"""Measure images per second of training, forward passes and sampling: python -m bench.throughput"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.terminal.cli import CommandParser, command

MODES = ("train", "forward", "sample", "loader")


def parser() -> CommandParser:
    p = CommandParser(prog="python -m bench.throughput", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--suite", choices=("small", "h100"), help="networks (default: h100 on a GPU, else small)")
    p.add_argument("--net", nargs="+", metavar="ARCH:SIZE[@DATA]", help="time these networks instead of a suite")
    p.add_argument(
        "--mode", nargs="+", choices=MODES, default=["train", "forward"], help="parts to time (default: train forward)"
    )
    p.add_argument(
        "--baseline", choices=("eager", "none"), default="eager", help="implementation to compare with (default: eager)"
    )
    p.add_argument(
        "--track", choices=("shared", "native"), default="shared", help="recipe and diffusion process (default: shared)"
    )
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of bench.run; repeatable")
    p.add_argument(
        "--batch", type=int, default=0, help="images per forward pass or sampler call (default: 64, on a CPU 16)"
    )
    p.add_argument("--steps", type=int, nargs="+", default=[50, 250], help="sampling steps (default: 50 250)")
    p.add_argument("--data", nargs="+", metavar="SOURCE", help="data of the loader rows (default: the first network's)")
    p.add_argument("--workers", type=int, nargs="+", help="loader threads (default: those of a run)")
    p.add_argument("--rounds", type=int, default=5, help="timed rounds; the implementations alternate (default: 5)")
    p.add_argument("--seconds", type=float, default=1.0, help="seconds per round (default: 1)")
    p.add_argument("--out", type=Path, default=Path("results"), help="folder of the tables (default: results)")
    return p


@command("bench.throughput")
def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    if flags.rounds < 1 or flags.batch < 0 or min(flags.steps) < 2:
        raise ValueError("--rounds must be at least 1, --batch at least 0 and --steps at least 2")
    from bench.benchmarks.throughput import measure_and_write

    print(measure_and_write(flags))
    return 0


if __name__ == "__main__":
    sys.exit(main())
