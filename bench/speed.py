"""Time our networks against those of diffusers and timm: python -m bench.speed"""

from __future__ import annotations

import sys

from bench.terminal.cli import CommandParser, command


@command("bench.speed", errors=(ValueError,))
def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(prog="python -m bench.speed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--arch", nargs="+", choices=("dit", "uvit", "unet"), default=["dit", "uvit", "unet"], help="(default: all)"
    )
    parser.add_argument(
        "--size", choices=("small", "large"), default="small", help="size of the networks (default: small)"
    )
    parser.add_argument("--batch", type=int, default=8, help="images per step (default: 8)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds; the networks alternate (default: 7)")
    flags = parser.parse_args(argv)
    import torch
    from tabulate import tabulate

    from bench.benchmarks.reference_speed import SIZES, measure_pair
    from bench.costs import timing

    if flags.batch < 1 or flags.rounds < 1:
        raise ValueError("--batch and --rounds must be at least 1")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"forward + backward, batch {flags.batch}, {timing.device_name(device)}, torch {torch.__version__}")
    rows = []
    for arch in flags.arch:
        rows += measure_pair(arch, SIZES[flags.size][arch], flags.batch, flags.rounds, device)
    print(tabulate(rows, headers="keys", disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
