"""Solve for configurations of equal cost: python -m bench.match --to dit:B/2 --arch uvit unet"""

from __future__ import annotations

import sys

from bench.terminal.cli import CommandParser, command

COSTS = ("macs", "params", "time")


@command("bench.match", errors=(ValueError,))
def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(prog="python -m bench.match", description="Configurations of equal cost.")
    parser.add_argument("--to", required=True, metavar="ARCH:SIZE", help="the reference, for example dit:B/2")
    parser.add_argument("--arch", nargs="+", required=True, help="architectures to solve")
    parser.add_argument("--by", choices=COSTS, default="macs", help="what is made equal (default: macs)")
    parser.add_argument("--io", default="4x32x32", metavar="CxHxW", help="the problem (default: 4x32x32 latents)")
    parser.add_argument("--classes", type=int, default=1000, help="class labels (default: 1000)")
    parser.add_argument("--tolerance", default="", help="largest relative difference (default: 2%%; by time 5%%)")
    parser.add_argument("--batch", type=int, default=0, help="images a timed step (default: by size and device)")
    flags = parser.parse_args(argv)
    from bench.costs.match_table import match_table

    print(match_table(flags))
    return 0


if __name__ == "__main__":
    sys.exit(main())
