"""Measure training throughput by processes, threads and batch: python -m bench.threads"""

from __future__ import annotations

import sys
from collections import defaultdict

from bench.terminal.cli import CommandParser, command


@command("bench.threads", errors=(ValueError,))
def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(prog="python -m bench.threads", description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=["dit", "uvit", "unet"], help="architectures (default: all three)")
    parser.add_argument(
        "--layout",
        nargs="+",
        default=["1x2", "2x1", "3x1"],
        help="PROCESSESxTHREADS; rates are relative to the first (default: 1x2 2x1 3x1)",
    )
    parser.add_argument(
        "--batch", nargs="+", type=int, default=[64], help="images per step of one process (default: 64)"
    )
    parser.add_argument(
        "--match",
        default="macs:unet:nano",
        metavar="BY:ARCH:SIZE",
        help="match the cost of this network (default: macs:unet:nano)",
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="timed seconds per row and round (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median is shown (default: 3)")
    flags = parser.parse_args(argv)
    from tabulate import tabulate

    from bench.benchmarks.threads import ThreadLayout, measure_layout, parse_layout, throughput_table
    from bench.experiments import presets, resolve

    if min(*flags.batch, flags.rounds) < 1 or flags.seconds <= 0:
        raise ValueError("--batch and --rounds must be at least 1, and --seconds more than 0")
    layouts = [parse_layout(text) for text in flags.layout]
    requests = [presets.RunRequest(arch=arch, data="digits", match=flags.match) for arch in flags.arch]
    configs = dict(zip(flags.arch, (resolve.resolve(request).config for request in requests), strict=True))
    cases = [ThreadLayout(arch, *layout, batch) for arch in flags.arch for layout in layouts for batch in flags.batch]
    rates: dict[ThreadLayout, list[float]] = defaultdict(list)
    for _ in range(flags.rounds):
        for case in cases:
            rates[case].append(measure_layout(case, configs[case.arch], flags.seconds))
    print(tabulate(throughput_table(rates), headers="keys"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
