"""Measure images per second of training, forward passes and sampling: python -m bench.throughput"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.config.schema import RunConfig
from bench.terminal.cli import CommandParser, command

MODES = ("train", "forward", "sample", "loader")


def parser() -> CommandParser:
    p = CommandParser(prog="python -m bench.throughput", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--suite", choices=("small", "h100"), help="networks (default: h100 on a GPU, small on a CPU)")
    p.add_argument("--net", nargs="+", metavar="ARCH:SIZE[@DATA]", help="networks of your own choice")
    p.add_argument(
        "--mode",
        nargs="+",
        choices=MODES,
        default=["train", "forward"],
        help="(default: train forward)",
    )
    p.add_argument("--baseline", choices=("eager", "none"), default="eager", help="what to compare with (eager)")
    p.add_argument("--track", choices=("shared", "native"), default="shared", help="whose recipe and process")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of bench.run's")
    p.add_argument("--batch", type=int, default=0, help="images of a forward pass or a sampler (64, on a CPU 16)")
    p.add_argument("--steps", type=int, nargs="+", default=[50, 250], help="of samplers (default: 50 250)")
    p.add_argument("--data", nargs="+", metavar="SOURCE", help="of the loader's rows (default: the first network's)")
    p.add_argument("--workers", type=int, nargs="+", help="of the loader's rows (default: as a run has)")
    p.add_argument("--rounds", type=int, default=5, help="timed turns of each (default: 5)")
    p.add_argument("--seconds", type=float, default=1.0, help="of a turn, about (default: 1)")
    p.add_argument("--out", type=Path, default=Path("results"), help="folder of the tables (default: results)")
    return p


@command("bench.throughput")
def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    import torch
    from tabulate import tabulate

    from bench.benchmarks.throughput import (
        COLUMNS,
        csv_files,
        format_cell,
        measure_rows,
        network_configs,
        open_session,
        write_csv,
    )
    from bench.training.trainer import device_of

    if flags.rounds < 1 or flags.batch < 0 or min(flags.steps) < 2:
        raise ValueError("--rounds must be at least 1, --batch at least 0 and --steps at least 2")
    device = device_of(RunConfig())
    flags.out.mkdir(parents=True, exist_ok=True)
    flags.batch = flags.batch or (64 if device.type == "cuda" else 16)
    configs, rows = network_configs(flags, device), []
    session = open_session(device, flags)
    for row in measure_rows(flags, configs, session):
        rows.append(row)
        for path, own in csv_files(rows, device, flags.out).items():
            write_csv(path, own)
    narrow = [{k: format_cell(row.get(k)) for k in COLUMNS[:13]} for row in rows]
    print(tabulate(narrow, headers="keys", disable_numparse=True))
    print(f"{session.name}, peak {session.peak:.4g} TFLOP/s ({session.source}), torch {torch.__version__}")
    for path in csv_files(rows, device, flags.out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
