"""Configurations of equal cost: solve an architecture's free dimensions for a target.

    python -m bench.match --to dit:B/2 --arch uvit unet
    python -m bench.match --to dit:nano/2 --arch uvit unet --io 1x8x8 --classes 10 --by time

Every class names its free dimensions (`free`) and how far a shape is from the paper's
(`distance`).  A polynomial through a few small counted shapes says where the target is met; the
shapes found there are counted in full, and among those within the tolerance the one nearest to the
paper's proportions wins.

Time is measured on this machine: forward + backward, the networks taking turns.  The target in
multiply-accumulates is moved until the measured times agree, so an answer by time holds for the
machine and the batch that are printed with it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

import architectures
from architectures import IOSpec, registry
from architectures.interface import Free
from architectures.shapes import heads_for
from bench import timing
from bench.cost import Cost, count, meta_network
from bench.terminal.cli import Parser

BYS = ("macs", "params")
FARTHEST = math.log(4)
"""Shapes more than this factor from the paper's proportions are not considered."""
TRIES = 40
"""Shapes counted in full before giving up."""
TURNS = 6
"""Shapes timed before giving up."""
CPU_MACS = 30_000_000_000
"""Networks above this, a few seconds an image on a CPU, are timed there only with --by time."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A reference to be matched."""

    by: str
    arch: str
    size: str


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A configuration that meets a target."""

    args: dict[str, Any]
    cost: Cost
    error: float
    """Relative difference to the target, signed."""


def parse(text: str) -> Match:
    """[macs|params]:ARCH:SIZE, or ARCH:SIZE for macs; ValueError says what is wrong."""
    head, _, rest = text.partition(":")
    if head == "time":
        raise ValueError(
            "match is by time, which is measured anew each time; solve it once with python -m bench.match --by time "
            "and give the configuration with --set model.args"
        )
    by, rest = (head, rest) if head in BYS else ("macs", text)
    arch, _, size = rest.rpartition(":")
    if not arch or not size:
        raise ValueError(f"match is {text!r}; write [macs|params]:ARCH:SIZE, for example macs:dit:B/2")
    if ":" in arch and "." not in arch and arch not in registry.names():
        raise ValueError(f"match is {text!r}; what is made equal is one of {', '.join(BYS)}")
    registry.size_args(arch, size)
    return Match(by=by, arch=arch, size=size)


def target_of(match: Match, io: IOSpec) -> int:
    """The reference's cost on this problem."""
    return count(match.arch, match.size, io).by(match.by)


def solve(
    arch: str,
    io: IOSpec,
    match: Match,
    tolerance: float,
    template: str = "",
    given: Mapping[str, Any] | None = None,
) -> Solution:
    """Constructor arguments of `arch` whose cost is the reference's within `tolerance`.

    The reference's own family, nothing being `given`, is the reference itself.  Arguments that are
    not free come from `given`, from the size `template`, or else from `template_size`.  ValueError
    when no shape fits says how near the nearest comes.
    """
    target, given = target_of(match, io), given or {}
    if arch == match.arch and not given:
        args = registry.size_args(arch, match.size)
        return Solution(args=args, cost=count(arch, None, io, args), error=0.0)
    found = _nearest(arch, io, match, target, tolerance, template, given)
    if abs(found.error) <= tolerance:
        return found
    raise ValueError(
        f"no {arch} has the {match.by} of {match.arch}:{match.size} ({target:,}) within {100 * tolerance:.3g}%; "
        f"the nearest is {found.args}, off by {found.error:+.1%}"
    )


def _nearest(
    arch: str, io: IOSpec, match: Match, target: float, tolerance: float, template: str, given: Mapping[str, Any]
) -> Solution:
    """Of the shapes within the tolerance of a target the one nearest to the paper's proportions.

    Where there is none, the shape that comes nearest to the target.
    """
    cls = registry.load(registry.entry(arch).target)
    if not hasattr(cls, "free"):
        raise ValueError(f"{arch} cannot be matched: its class has no `free`, the dimensions that may change")
    fixed = {**registry.size_args(arch, template or template_size(arch, io, match, cls.free(io))), **given}
    solutions = []
    for args in _promising(arch, cls, io, fixed, given, match.by, target, tolerance):
        cost = count(arch, None, io, args)
        solutions.append(Solution(args=args, cost=cost, error=cost.by(match.by) / target - 1))
        if abs(solutions[-1].error) <= tolerance:
            return solutions[-1]
    if not solutions:
        raise ValueError(f"{arch} has no shape for this problem that is near its paper's proportions")
    return min(solutions, key=lambda s: abs(s.error))


def solve_time(arch: str, io: IOSpec, reference: Solution, match: Match, tolerance: float, clock: Clock) -> Solution:
    """The shape whose measured time is the reference's within `tolerance`.

    Starts at equal MACs; then the target in MACs is divided by the time found, relative to the
    reference's, until the times agree.  ValueError says how near the nearest of TURNS shapes came.
    """
    if arch == match.arch:
        return reference
    by_macs, target = Match(by="macs", arch=match.arch, size=match.size), float(reference.cost.macs)
    tried: list[Solution] = []
    for _ in range(TURNS):
        found = _nearest(arch, io, by_macs, target, max(tolerance, 0.02), "", {})
        if found.args in [t.args for t in tried]:
            break
        own, theirs = clock([(arch, found.args), (match.arch, reference.args)])
        tried.append(Solution(args=found.args, cost=found.cost, error=own / theirs - 1))
        print(f"timed {arch} at {found.cost.macs / 1e9:.4g} GMACs: {own / theirs - 1:+.1%}", file=sys.stderr)
        if abs(tried[-1].error) <= tolerance:
            return tried[-1]
        target = found.cost.macs * theirs / own
    nearest = min(tried, key=lambda s: abs(s.error))
    raise ValueError(
        f"no {arch} was found to take the time of {match.arch}:{match.size} within {100 * tolerance:.3g}%; "
        f"the nearest is {nearest.args}, off by {nearest.error:+.1%}"
    )


Clock = Callable[[Sequence[tuple[str, Mapping[str, Any]]]], list[float]]
"""[(architecture, arguments)] -> seconds of forward + backward an image, measured in turns."""


def clock_of(io: IOSpec, batch: int, device: torch.device, turns: int) -> Clock:
    """A clock that measures on a device, for two seconds and at least so many turns."""

    def clock(networks: Sequence[tuple[str, Mapping[str, Any]]]) -> list[float]:
        inputs = timing.inputs_for(io, batch, device)
        works = {
            str(i): timing.training_work(architectures.build(arch, io=io, args=dict(args)).to(device).train(), inputs)
            for i, (arch, args) in enumerate(networks)
        }
        return [median(seconds) / batch for seconds in timing.alternate(works, turns, 2.0).values()]

    return clock


def template_size(arch: str, io: IOSpec, match: Match, free: Free) -> str:
    """The size whose arguments stand where nothing is free: the laptop size for a laptop reference,
    or else the first that fits this problem and agrees with the reference where both speak (the
    patch).  "" where there is none."""
    found = registry.entry(arch)
    like = registry.entry(match.arch)
    if like.is_toy(match.size):
        return found.toy_for(io.size)
    reference = registry.size_args(match.arch, match.size)
    ranked = []
    for name in (n for n in found.sizes if not found.is_toy(n) or len(found.sizes) == 1):
        args = registry.size_args(arch, name)
        unlike = sum(args[k] != reference[k] for k in args.keys() & reference.keys() - free.keys())
        try:
            meta_network(arch, name, io, {})
        except ValueError:
            continue  # a patch or a level that does not divide this image
        ranked.append((unlike, name))
        if not unlike:
            return name
    return min(ranked)[1] if ranked else ""


def _promising(
    arch: str,
    cls: Any,
    io: IOSpec,
    fixed: dict[str, Any],
    given: Mapping[str, Any],
    by: str,
    target: float,
    tolerance: float,
) -> list[dict[str, Any]]:
    """Shapes predicted to meet the target, the nearest to the paper's proportions first.

    Where none is, the few that are predicted to come nearest.
    """
    free = {k: v for k, v in cls.free(io).items() if k not in given}
    kinds = [name for name in free if not _numeric(free[name])]
    numbers = [name for name in free if _numeric(free[name])]
    found = []
    for choice in itertools.product(*(free[name] for name in kinds)):
        base = {**fixed, **dict(zip(kinds, choice, strict=True))}
        predict = _prediction(arch, io, base, {n: free[n] for n in numbers}, by)
        for values in itertools.product(*(free[name] for name in numbers)):
            args = {**base, **dict(zip(numbers, values, strict=True))}
            distance = float(cls.distance(args)) if hasattr(cls, "distance") else 0.0
            if distance <= FARTHEST:
                found.append((abs(predict(values) / target - 1), distance, args))
    fitting = [item for item in found if item[0] <= tolerance]
    if not fitting:
        return [args for *_, args in sorted(found, key=lambda item: item[0])[:3]]
    return [args for *_, args in sorted(fitting, key=lambda item: (round(item[1], 1), item[0]))[:TRIES]]


def _numeric(values: Sequence[Any]) -> bool:
    return len(values) > 1 and all(isinstance(v, int) for v in values)


def _prediction(
    arch: str, io: IOSpec, base: dict[str, Any], numbers: Free, by: str
) -> Callable[[Sequence[int]], float]:
    """Cost as a polynomial, linear in every number but the last and quadratic in that, from the
    counted costs of the smallest shapes."""
    *outer, inner = numbers
    widths = numbers[inner]
    grid = [*(numbers[name][:2] for name in outer), widths[:: max(1, len(widths) // 12)][:3]]
    points = list(itertools.product(*grid))

    def terms(values: Sequence[int]) -> list[float]:
        *others, width = values
        mixed = [math.prod(c) for r in range(len(others) + 1) for c in itertools.combinations(others, r)]
        return [m * float(width) ** power for m in mixed for power in (0, 1, 2)]

    costs = [count(arch, None, io, {**base, **dict(zip(numbers, p, strict=True))}).by(by) for p in points]
    weights, *_ = np.linalg.lstsq(np.array([terms(p) for p in points]), np.array(costs, float), rcond=None)
    return lambda values: float(np.dot(terms(values), weights))


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m bench.match", description="Configurations of equal cost.")
    parser.add_argument("--to", required=True, metavar="ARCH:SIZE", help="the reference, for example dit:B/2")
    parser.add_argument("--arch", nargs="+", required=True, help="architectures to solve")
    parser.add_argument("--by", choices=(*BYS, "time"), default="macs", help="what is made equal (default: macs)")
    parser.add_argument("--io", default="4x32x32", metavar="CxHxW", help="the problem (default: 4x32x32 latents)")
    parser.add_argument("--classes", type=int, default=1000, help="class labels (default: 1000)")
    parser.add_argument("--tolerance", default="", help="largest relative difference (default: 2%%; by time 5%%)")
    parser.add_argument("--batch", type=int, default=0, help="images a timed step (default: by size and device)")
    flags = parser.parse_args(argv)
    try:
        print(answer(flags))
    except ValueError as error:
        print(f"bench.match: {error}", file=sys.stderr)
        return 2
    return 0


def answer(flags: argparse.Namespace) -> str:
    """The table of the reference and each solved architecture, and what the times were measured on."""
    io, tolerance = problem_of(flags)
    if flags.to.partition(":")[0] in (*BYS, "time"):
        raise ValueError(f"--to is {flags.to}; write ARCH:SIZE, and what is made equal with --by")
    if ":" not in flags.to:
        raise ValueError(f"--to is {flags.to}; write ARCH:SIZE, for example dit:B/2")
    match = parse(f"macs:{flags.to}" if flags.by == "time" else f"{flags.by}:{flags.to}")
    args = registry.size_args(match.arch, match.size)
    reference = Solution(args=args, cost=count(match.arch, match.size, io), error=0.0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = flags.batch or batch_for(reference.cost, device)
    clock = clock_of(io, batch, device, turns=3 if flags.by == "time" else 1)
    networks: list[tuple[str, Solution]] = []
    for arch in flags.arch:
        if flags.by == "time":
            networks.append((arch, solve_time(arch, io, reference, match, tolerance, clock)))
        else:
            networks.append((arch, solve(arch, io, match, tolerance)))
    networks = [(match.arch, reference), *((a, s) for a, s in networks if s.args != args or a != match.arch)]
    most = max(solution.cost.macs for _, solution in networks)
    heavy = device.type == "cpu" and flags.by != "time" and most > CPU_MACS
    seconds = [None] * len(networks) if heavy else clock([(arch, s.args) for arch, s in networks])
    rows = [_row(arch, s, t) for (arch, s), t in zip(networks, seconds, strict=True)]
    note = f"time: forward + backward of one image in a batch of {batch}, {timing.device_name(device)}, in turns"
    if heavy:
        note = "time: these networks are too slow to time on a CPU in passing; --by time does it"
    return f"{tabulate(rows, headers='keys', maxcolwidths=[None, 60, *[None] * 4])}\n{note}"


def problem_of(flags: argparse.Namespace) -> tuple[IOSpec, float]:
    """The problem and the tolerance; ValueError says how to write them."""
    wanted = flags.tolerance or ("5%" if flags.by == "time" else "2%")
    try:
        channels, height, width = (int(n) for n in flags.io.split("x"))
        tolerance = float(wanted.rstrip("%")) / (100 if wanted.endswith("%") else 1)
    except ValueError:
        raise ValueError(f"--io {flags.io} --tolerance {wanted}: write 4x32x32 and 2% or 0.02") from None
    if height != width or not 0 < tolerance < 1:
        raise ValueError("--io must be square and --tolerance between 0 and 100%")
    if flags.batch < 0:
        raise ValueError(f"--batch is {flags.batch}; it must be at least 1")
    return IOSpec(channels=channels, size=height, num_classes=flags.classes), tolerance


def batch_for(cost: Cost, device: torch.device) -> int:
    """A batch of about 2 GMACs on a CPU, 2,000 on a GPU, so that a step takes long enough to be timed."""
    budget = 2e12 if device.type == "cuda" else 2e9
    return int(min(256, max(1, budget // cost.macs)))


def _row(arch: str, solution: Solution, seconds: float | None) -> dict[str, Any]:
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


if __name__ == "__main__":
    sys.exit(main())
