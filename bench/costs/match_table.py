"""Solve and time networks of equal cost, and show them as a table."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from tabulate import tabulate

from architectures import IOSpec, registry
from architectures.shapes import heads_for
from bench.costs import timing
from bench.costs.counting import NetworkCost, count_cost
from bench.costs.matching import COST_KEYS, Solution, make_clock, parse_match, solve_size, solve_size_by_time

MAX_CPU_MACS = 30_000_000_000
"""MACs above which a network takes seconds per image on a CPU, so that only --by time measures it there."""


def match_table(flags: argparse.Namespace) -> str:
    """Solve each architecture of --arch; return the table, the reference first, and a note on the timing."""
    io, tolerance = parse_problem(flags)
    if flags.to.partition(":")[0] in (*COST_KEYS, "time"):
        raise ValueError(f"--to is {flags.to}; write ARCH:SIZE, and choose the cost with --by")
    if ":" not in flags.to:
        raise ValueError(f"--to is {flags.to}; write ARCH:SIZE, for example dit:B/2")
    match = parse_match(f"macs:{flags.to}" if flags.by == "time" else f"{flags.by}:{flags.to}")
    args = registry.size_args(match.arch, match.size)
    reference = Solution(args=args, cost=count_cost(match.arch, match.size, io), error=0.0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = flags.batch or timing_batch(reference.cost, device)
    clock = make_clock(io, batch, device, rounds=3 if flags.by == "time" else 1)
    networks: list[tuple[str, Solution]] = []
    for arch in flags.arch:
        if flags.by == "time":
            networks.append((arch, solve_size_by_time(arch, io, reference, match, tolerance, clock)))
        else:
            networks.append((arch, solve_size(arch, io, match, tolerance)))
    networks = [(match.arch, reference), *((a, s) for a, s in networks if s.args != args or a != match.arch)]
    largest = max(solution.cost.macs for _, solution in networks)
    too_slow = device.type == "cpu" and flags.by != "time" and largest > MAX_CPU_MACS
    seconds = [None] * len(networks) if too_slow else clock([(arch, s.args) for arch, s in networks])
    rows = [_table_row(arch, s, t) for (arch, s), t in zip(networks, seconds, strict=True)]
    note = f"time: forward + backward of one image in a batch of {batch}, {timing.device_name(device)}, alternating"
    if too_slow:
        note = "time: not measured, since these networks take seconds per image on a CPU; --by time measures it"
    return f"{tabulate(rows, headers='keys', maxcolwidths=[None, 60, *[None] * 4])}\n{note}"


def parse_problem(flags: argparse.Namespace) -> tuple[IOSpec, float]:
    """Parse --io, --classes and --tolerance; raise ValueError that shows the expected form."""
    text = flags.tolerance or ("5%" if flags.by == "time" else "2%")
    try:
        channels, height, width = (int(n) for n in flags.io.split("x"))
        tolerance = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ValueError(f"--io {flags.io} --tolerance {text}: write 4x32x32 and 2% or 0.02") from None
    if height != width or not 0 < tolerance < 1:
        raise ValueError("--io must be square and --tolerance between 0 and 100%")
    if flags.batch < 0:
        raise ValueError(f"--batch is {flags.batch}; it must be at least 1")
    return IOSpec(channels=channels, size=height, num_classes=flags.classes), tolerance


def timing_batch(cost: NetworkCost, device: torch.device) -> int:
    """Choose a batch that is long enough to time: 2 GMACs on a CPU, 2,000 GMACs on a GPU, at most 256 images."""
    budget = 2e12 if device.type == "cuda" else 2e9
    return int(min(256, max(1, budget // cost.macs)))


def _table_row(arch: str, solution: Solution, seconds: float | None) -> dict[str, Any]:
    """Row of a network; `seconds` per image."""
    args = dict(solution.args)
    if args.get("heads", 0) is None and "width" in args:
        args["heads"] = heads_for(args["width"])
    return {
        "arch": arch,
        "configuration": " ".join(f"{k}={v}" for k, v in args.items() if v is not None),
        "params (M)": round(solution.cost.params / 1e6, 2),
        "MACs (G)": round(solution.cost.macs / 1e9, 3),
        "time (ms)": "" if seconds is None else float(f"{seconds * 1e3:.4g}"),
        "difference": f"{solution.error:+.2%}",
    }
