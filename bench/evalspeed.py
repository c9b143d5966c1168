"""Time the metrics on random features at full size: python -m bench.evalspeed PART"""

from __future__ import annotations

import os
import sys

from bench.terminal.cli import CommandParser, command

PARTS = ("frechet", "manifold", "evaluation")


@command("bench.evalspeed", errors=(ValueError,))
def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(prog="python -m bench.evalspeed", description=__doc__.splitlines()[0])
    parser.add_argument(
        "part", choices=PARTS, help="part to time; one per command, so that the peak memory belongs to it"
    )
    parser.add_argument("--samples", type=int, default=50_000, help="generated images (default: 50,000)")
    parser.add_argument("--reference", type=int, default=10_000, help="real images (default: 10,000)")
    parser.add_argument("--width", type=int, default=2048, help="feature dimension (default: 2,048)")
    parser.add_argument("--fit", type=int, default=10_000, help="samples per fitted Gaussian (default: 10,000)")
    parser.add_argument("--intervals", action="store_true", help="also time the 95 %% intervals")
    parser.add_argument("--cuda", action="store_true", help="compute precision and recall on the GPU")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's)")
    flags = parser.parse_args(argv)
    import torch
    from tabulate import tabulate

    from bench.benchmarks.evaluation_speed import EVALUATION_PARTS, peak_memory_gib

    if flags.threads:
        torch.set_num_threads(flags.threads)
    print(tabulate(EVALUATION_PARTS[flags.part](flags), headers="keys", disable_numparse=True))
    load = f"load {os.getloadavg()[0]:.1f} in the last minute"
    print(f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads, {load}; peak memory {peak_memory_gib()} GiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
