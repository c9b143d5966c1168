"""Solve for configurations of equal cost: python -m bench.match --to dit:B/2 --arch uvit unet"""

from __future__ import annotations

import sys

from bench.terminal.cli import CommandParser, command

COSTS = ("macs", "params", "time")


@command("bench.match", errors=(ValueError,))
def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(
        prog="python -m bench.match",
        description="Find sizes of other architectures with the cost of a reference network.",
    )
    parser.add_argument("--to", required=True, metavar="ARCH:SIZE", help="reference network, for example dit:B/2")
    parser.add_argument("--arch", nargs="+", required=True, metavar="ARCH", help="architectures to find sizes of")
    parser.add_argument("--by", choices=COSTS, default="macs", help="cost to match (default: macs)")
    parser.add_argument(
        "--io", default="4x32x32", metavar="CxHxW", help="input shape (default: 4x32x32, the latents of 256x256 images)"
    )
    parser.add_argument("--classes", type=int, default=1000, metavar="N", help="number of classes (default: 1000)")
    parser.add_argument(
        "--tolerance", default="", help="largest relative difference (default: 2%%, with --by time 5%%)"
    )
    parser.add_argument(
        "--batch", type=int, default=0, help="images per timed step (default: chosen by size and device)"
    )
    flags = parser.parse_args(argv)
    from bench.costs.match_table import match_table

    print(match_table(flags))
    return 0


if __name__ == "__main__":
    sys.exit(main())
