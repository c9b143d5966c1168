"""Measure training throughput by number of processes: python -m bench.scaling"""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from bench.terminal.cli import CommandParser, command


@command("bench.scaling", errors=(ValueError,))
def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(prog="python -m bench.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="dit", help="architecture (default: dit)")
    parser.add_argument("--size", default="nano/2", help="size of the architecture (default: nano/2)")
    parser.add_argument("--data", default="digits", help="data set that defines the image shape (default: digits)")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes to time (default: 1 2 4)"
    )
    parser.add_argument(
        "--batch", type=int, default=64, help="global batch size; per process in mode grown (default: 64)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per process (default: 1)")
    parser.add_argument("--sharding", choices=("none", "fsdp"), default="none", help="DDP or FSDP2 (default: none)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median is shown (default: 3)")
    flags = parser.parse_args(argv)
    from tabulate import tabulate

    from bench.benchmarks.scaling import describe_devices, measure_scaling, scaling_table
    from bench.experiments import presets, resolve

    if min(*flags.processes, flags.rounds, flags.batch, flags.threads) < 1:
        raise ValueError("--processes, --rounds, --batch and --threads must be at least 1")
    request = presets.RunRequest(arch=flags.arch, size=flags.size, data=flags.data)
    config = resolve.resolve(request).config
    compute = replace(config.compute, threads=flags.threads, sharding=flags.sharding)
    config = replace(config, recipe=replace(config.recipe, batch=flags.batch), compute=compute)
    rounds = measure_scaling(config, sorted({1, *flags.processes}), flags.rounds)
    print(tabulate(scaling_table(rounds, flags.batch), headers="keys", disable_numparse=True))
    load = f"load {os.getloadavg()[0]:.1f} in the last minute"
    threads = f"{flags.threads} thread{'s' * (flags.threads > 1)} a process"
    print(f"{flags.arch} {flags.size}, {describe_devices(config)}, {threads}, {load}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
