"""Configurations of equal cost: solve an architecture's free dimensions for a target.

    python -m bench.match --to dit:B/2 --arch uvit unet

Every class names its free dimensions (`free`) and how far a shape is from the paper's
(`distance`).  A polynomial through a few small counted shapes says where the target is met; the
shapes found there are counted in full, and among those within the tolerance the one nearest to the
paper's proportions wins.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from architectures import IOSpec, registry
from architectures.interface import Free

from .cost import Cost, count, meta_network

BYS = ("macs", "params")
FARTHEST = math.log(4)
"""Shapes more than this factor from the paper's proportions are not considered."""
TRIES = 40
"""Shapes counted in full before giving up."""


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
    nearest = min(solutions, key=lambda s: abs(s.error), default=None)
    how_near = f"the nearest is {nearest.args}, off by {nearest.error:+.1%}" if nearest else "no shape is allowed"
    raise ValueError(
        f"no {arch} has the {match.by} of {match.arch}:{match.size} ({target:,}) within {tolerance:.1%}; {how_near}"
    )


def template_size(arch: str, io: IOSpec, match: Match, free: Free) -> str:
    """The size whose arguments stand where nothing is free: the laptop size for a laptop reference,
    or else the first that fits this problem and agrees with the reference where both speak (the
    patch).  "" where there is none."""
    found = registry.entry(arch)
    if match.size == registry.entry(match.arch).toy:
        return found.toy
    reference = registry.size_args(match.arch, match.size)
    ranked = []
    for name in (n for n in found.sizes if n != found.toy or len(found.sizes) == 1):
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
    target: int,
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
    parser = argparse.ArgumentParser(prog="python -m bench.match", description="Configurations of equal cost.")
    parser.add_argument("--to", required=True, metavar="ARCH:SIZE", help="the reference, for example dit:B/2")
    parser.add_argument("--arch", nargs="+", required=True, help="architectures to solve")
    parser.add_argument("--by", choices=BYS, default="macs", help="what is made equal (default: macs)")
    parser.add_argument("--io", default="4x32x32", metavar="CxHxW", help="the problem (default: 4x32x32 latents)")
    parser.add_argument("--classes", type=int, default=1000, help="class labels (default: 1000)")
    parser.add_argument("--tolerance", default="2%", help="largest relative difference (default: 2%%)")
    flags = parser.parse_args(argv)
    try:
        rows = table(flags)
    except ValueError as error:
        print(f"bench.match: {error}", file=sys.stderr)
        return 2
    print(tabulate(rows, headers="keys"))
    return 0


def table(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows for the reference and each solved architecture."""
    try:
        channels, height, width = (int(n) for n in flags.io.split("x"))
        tolerance = float(flags.tolerance.rstrip("%")) / (100 if flags.tolerance.endswith("%") else 1)
    except ValueError:
        raise ValueError(f"--io {flags.io} --tolerance {flags.tolerance}: write 4x32x32 and 2% or 0.02") from None
    if height != width or not 0 < tolerance < 1:
        raise ValueError("--io must be square and --tolerance between 0 and 100%")
    io = IOSpec(channels=channels, size=height, num_classes=flags.classes)
    match = parse(f"{flags.by}:{flags.to}")
    reference = count(match.arch, match.size, io)
    rows = [_row(match.arch, registry.size_args(match.arch, match.size), reference, 0.0)]
    for arch in flags.arch:
        solution = solve(arch, io, match, tolerance)
        rows.append(_row(arch, solution.args, solution.cost, solution.error))
    return rows


def _row(arch: str, args: dict[str, Any], cost: Cost, error: float) -> dict[str, Any]:
    words = " ".join(f"{k}={v}" for k, v in args.items() if v is not None)
    return {
        "arch": arch,
        "configuration": words,
        "params (M)": round(cost.params / 1e6, 2),
        "MACs (G)": round(cost.macs / 1e9, 3),
        "difference": f"{error:+.2%}",
    }


if __name__ == "__main__":
    sys.exit(main())
