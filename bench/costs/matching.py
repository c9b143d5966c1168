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

import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

import architectures
from architectures import IOSpec, registry
from architectures.interface import Free
from bench.costs import timing
from bench.costs.counting import NetworkCost, count_cost, meta_network

COST_KEYS = ("macs", "params")
MAX_DIFFERENCE = math.log(4)
"""Shapes more than this factor from the paper's proportions are not considered."""
MAX_TRIES = 40
"""Shapes counted in full before giving up."""
TIMING_ROUNDS = 6
"""Shapes timed before giving up."""


@dataclass(frozen=True, kw_only=True)
class MatchTarget:
    """A reference to be matched."""

    by: str
    arch: str
    size: str


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A configuration that meets a target."""

    args: dict[str, Any]
    cost: NetworkCost
    error: float
    """Relative difference to the target, signed."""


def parse_match(text: str) -> MatchTarget:
    """[macs|params]:ARCH:SIZE, or ARCH:SIZE for macs; ValueError says what is wrong."""
    head, _, rest = text.partition(":")
    if head == "time":
        raise ValueError(
            "match is by time, which is measured anew each time; solve it once with python -m bench.match --by time "
            "and give the configuration with --set model.args"
        )
    by, rest = (head, rest) if head in COST_KEYS else ("macs", text)
    arch, _, size = rest.rpartition(":")
    if not arch or not size:
        raise ValueError(f"match is {text!r}; write [macs|params]:ARCH:SIZE, for example macs:dit:B/2")
    if ":" in arch and "." not in arch and arch not in registry.names():
        raise ValueError(f"match is {text!r}; what is made equal is one of {', '.join(COST_KEYS)}")
    registry.size_args(arch, size)
    return MatchTarget(by=by, arch=arch, size=size)


def target_cost(match: MatchTarget, io: IOSpec) -> int:
    """The reference's cost on this problem."""
    return count_cost(match.arch, match.size, io).by(match.by)


def solve_size(
    arch: str,
    io: IOSpec,
    match: MatchTarget,
    tolerance: float,
    template: str = "",
    given: Mapping[str, Any] | None = None,
) -> Solution:
    """Constructor arguments of `arch` whose cost is the reference's within `tolerance`.

    The reference's own family, nothing being `given`, is the reference itself.  Arguments that are
    not free come from `given`, from the size `template`, or else from `template_size`.  ValueError
    when no shape fits says how near the nearest comes.
    """
    target, given = target_cost(match, io), given or {}
    if arch == match.arch and not given:
        args = registry.size_args(arch, match.size)
        return Solution(args=args, cost=count_cost(arch, None, io, args), error=0.0)
    found = _nearest(arch, io, match, target, tolerance, template, given)
    if abs(found.error) <= tolerance:
        return found
    raise ValueError(
        f"no {arch} has the {match.by} of {match.arch}:{match.size} ({target:,}) within {100 * tolerance:.3g}%; "
        f"the nearest is {found.args}, off by {found.error:+.1%}"
    )


def _nearest(
    arch: str, io: IOSpec, match: MatchTarget, target: float, tolerance: float, template: str, given: Mapping[str, Any]
) -> Solution:
    """Of the shapes within the tolerance of a target the one nearest to the paper's proportions.

    Where there is none, the shape that comes nearest to the target.
    """
    cls = registry.load_class(registry.entry(arch).target)
    if not hasattr(cls, "free"):
        raise ValueError(f"{arch} cannot be matched: its class has no `free`, the dimensions that may change")
    fixed = {**registry.size_args(arch, template or template_size(arch, io, match, cls.free(io))), **given}
    solutions = []
    for args in _promising(arch, cls, io, fixed, given, match.by, target, tolerance):
        cost = count_cost(arch, None, io, args)
        solutions.append(Solution(args=args, cost=cost, error=cost.by(match.by) / target - 1))
        if abs(solutions[-1].error) <= tolerance:
            return solutions[-1]
    if not solutions:
        raise ValueError(f"{arch} has no shape for this problem that is near its paper's proportions")
    return min(solutions, key=lambda s: abs(s.error))


def solve_size_by_time(
    arch: str, io: IOSpec, reference: Solution, match: MatchTarget, tolerance: float, clock: Clock
) -> Solution:
    """The shape whose measured time is the reference's within `tolerance`.

    Starts at equal MACs; then the target in MACs is divided by the time found, relative to the
    reference's, until the times agree.  ValueError says how near the nearest of TURNS shapes came.
    """
    if arch == match.arch:
        return reference
    by_macs, target = MatchTarget(by="macs", arch=match.arch, size=match.size), float(reference.cost.macs)
    tried: list[Solution] = []
    for _ in range(TIMING_ROUNDS):
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


def make_clock(io: IOSpec, batch: int, device: torch.device, turns: int) -> Clock:
    """A clock that measures on a device, for two seconds and at least so many turns."""

    def clock(networks: Sequence[tuple[str, Mapping[str, Any]]]) -> list[float]:
        inputs = timing.inputs_for(io, batch, device)
        works = {
            str(i): timing.training_work(architectures.build(arch, io=io, args=dict(args)).to(device).train(), inputs)
            for i, (arch, args) in enumerate(networks)
        }
        return [median(seconds) / batch for seconds in timing.time_alternately(works, turns, 2.0).values()]

    return clock


def template_size(arch: str, io: IOSpec, match: MatchTarget, free: Free) -> str:
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
            if distance <= MAX_DIFFERENCE:
                found.append((abs(predict(values) / target - 1), distance, args))
    fitting = [item for item in found if item[0] <= tolerance]
    if not fitting:
        return [args for *_, args in sorted(found, key=lambda item: item[0])[:3]]
    return [args for *_, args in sorted(fitting, key=lambda item: (round(item[1], 1), item[0]))[:MAX_TRIES]]


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

    costs = [count_cost(arch, None, io, {**base, **dict(zip(numbers, p, strict=True))}).by(by) for p in points]
    weights, *_ = np.linalg.lstsq(np.array([terms(p) for p in points]), np.array(costs, float), rcond=None)
    return lambda values: float(np.dot(terms(values), weights))
