"""Solve an architecture's free dimensions for a target cost.

    python -m bench.match --to dit:B/2 --arch uvit unet
    python -m bench.match --to dit:nano/2 --arch uvit unet --io 1x8x8 --classes 10 --by time

Each network class names its free dimensions (`free`) and measures how far a shape is from the paper's proportions
(`distance`).  A polynomial fitted to a few small counted shapes predicts which shapes meet the target.  The solver
counts the predicted shapes in full and takes the shape within the tolerance that is nearest to the paper's proportions.

Time is measured on this machine: forward and backward pass, the networks alternating.  The solver moves the target
in MACs until the measured times agree.  A solution by time holds for the machine and batch that are printed with it.
"""

from __future__ import annotations

import itertools
import logging
import math
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

log = logging.getLogger(__name__)

COST_KEYS = ("macs", "params")
MAX_DIFFERENCE = math.log(4)
"""Largest `distance` of a shape: a factor of four from the paper's proportions."""
MAX_TRIES = 40
"""Maximum number of shapes that are counted in full."""
TIMING_ROUNDS = 6
"""Maximum number of shapes that are timed."""


@dataclass(frozen=True, kw_only=True)
class MatchTarget:
    """Reference network, and the cost that is matched."""

    by: str
    """"macs" or "params"."""
    arch: str
    size: str


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Constructor arguments of a network, and its cost."""

    args: dict[str, Any]
    cost: NetworkCost
    error: float
    """Relative difference to the target, signed."""


def parse_match(text: str) -> MatchTarget:
    """Parse [macs|params]:ARCH:SIZE, where macs is the default; ValueError for anything else."""
    head, _, reference_name = text.partition(":")
    if head == "time":
        raise ValueError(
            "match by time would differ from run to run; solve it once with python -m bench.match --by time "
            "and pass the configuration with --set model.args"
        )
    by, reference_name = (head, reference_name) if head in COST_KEYS else ("macs", text)
    arch, _, size = reference_name.rpartition(":")
    if not arch or not size:
        raise ValueError(f"match is {text!r}; write [macs|params]:ARCH:SIZE, for example macs:dit:B/2")
    if ":" in arch and "." not in arch and arch not in registry.names():
        raise ValueError(f"match is {text!r}; the cost must be one of {', '.join(COST_KEYS)}")
    registry.size_args(arch, size)
    return MatchTarget(by=by, arch=arch, size=size)


def target_cost(match: MatchTarget, io: IOSpec) -> int:
    """Cost of the reference network for images of this shape."""
    return count_cost(match.arch, match.size, io).by(match.by)


def solve_size(
    arch: str,
    io: IOSpec,
    match: MatchTarget,
    tolerance: float,
    template: str = "",
    fixed: Mapping[str, Any] | None = None,
) -> Solution:
    """Find constructor arguments of `arch` whose cost equals the reference's within `tolerance` (relative).

    Arguments that are not free come from `fixed`, from the size `template`, or else from `template_size`.
    The solution for the reference's architecture without `fixed` is the reference itself.
    Raises ValueError, with the nearest shape and its difference, if no shape fits.
    """
    target, fixed = target_cost(match, io), fixed or {}
    if arch == match.arch and not fixed:
        args = registry.size_args(arch, match.size)
        return Solution(args=args, cost=count_cost(arch, None, io, args), error=0.0)
    nearest = _nearest_solution(arch, io, match, target, tolerance, template, fixed)
    if abs(nearest.error) <= tolerance:
        return nearest
    raise ValueError(
        f"no {arch} has the {match.by} of {match.arch}:{match.size} ({target:,}) within {100 * tolerance:.3g}%; "
        f"the nearest is {nearest.args}, off by {nearest.error:+.1%}"
    )


def _nearest_solution(
    arch: str, io: IOSpec, match: MatchTarget, target: float, tolerance: float, template: str, fixed: Mapping[str, Any]
) -> Solution:
    """Take the shape within the tolerance that is nearest to the paper's proportions.

    If there is none, take the shape whose cost is nearest to the target.
    """
    cls = registry.load_class(registry.entry(arch).target)
    if not hasattr(cls, "free"):
        raise ValueError(
            f"{arch} cannot be matched: its class has no method `free`, which names the dimensions that may change"
        )
    base = {**registry.size_args(arch, template or template_size(arch, io, match, cls.free(io))), **fixed}
    solutions = []
    for args in _candidate_shapes(arch, cls, io, base, fixed, match.by, target, tolerance):
        cost = count_cost(arch, None, io, args)
        solutions.append(Solution(args=args, cost=cost, error=cost.by(match.by) / target - 1))
        if abs(solutions[-1].error) <= tolerance:
            return solutions[-1]
    if not solutions:
        raise ValueError(f"{arch} has no shape for images of this size that is near its paper's proportions")
    return min(solutions, key=lambda s: abs(s.error))


def solve_size_by_time(
    arch: str, io: IOSpec, reference: Solution, match: MatchTarget, tolerance: float, clock: Clock
) -> Solution:
    """Find a shape whose measured time equals the reference's within `tolerance` (relative).

    Starts at equal MACs, then divides the target in MACs by the measured ratio of times until the times agree.
    Raises ValueError, with the nearest shape and its difference, after TIMING_ROUNDS shapes.
    """
    if arch == match.arch:
        return reference
    by_macs, target = MatchTarget(by="macs", arch=match.arch, size=match.size), float(reference.cost.macs)
    tried: list[Solution] = []
    for _ in range(TIMING_ROUNDS):
        candidate = _nearest_solution(arch, io, by_macs, target, max(tolerance, 0.02), "", {})
        if candidate.args in [t.args for t in tried]:
            break
        seconds, reference_seconds = clock([(arch, candidate.args), (match.arch, reference.args)])
        error = seconds / reference_seconds - 1
        tried.append(Solution(args=candidate.args, cost=candidate.cost, error=error))
        log.info("timed %s at %.4g GMACs: %+.1f%%", arch, candidate.cost.macs / 1e9, 100 * error)
        if abs(tried[-1].error) <= tolerance:
            return tried[-1]
        target = candidate.cost.macs * reference_seconds / seconds
    nearest = min(tried, key=lambda s: abs(s.error))
    raise ValueError(
        f"no {arch} was found that takes the time of {match.arch}:{match.size} within {100 * tolerance:.3g}%; "
        f"the nearest is {nearest.args}, off by {nearest.error:+.1%}"
    )


Clock = Callable[[Sequence[tuple[str, Mapping[str, Any]]]], list[float]]
"""[(architecture, arguments)] -> seconds per image of forward and backward pass, the networks alternating."""


def make_clock(io: IOSpec, batch: int, device: torch.device, rounds: int) -> Clock:
    """Make a Clock for a device; each call measures for at least two seconds and `rounds` rounds."""

    def clock(networks: Sequence[tuple[str, Mapping[str, Any]]]) -> list[float]:
        inputs = timing.inputs_for(io, batch, device)
        workloads = {
            str(i): timing.training_work(architectures.build(arch, io=io, args=dict(args)).to(device).train(), inputs)
            for i, (arch, args) in enumerate(networks)
        }
        return [median(seconds) / batch for seconds in timing.time_alternately(workloads, rounds, 2.0).values()]

    return clock


def template_size(arch: str, io: IOSpec, match: MatchTarget, free: Free) -> str:
    """Choose the registered size that supplies the arguments that are not free; "" if no size fits the image.

    For a toy reference this is the toy size.  Otherwise it is the first size that fits the image and has the fewest
    differences from the reference in shared arguments that are not free, such as the patch size.
    """
    entry = registry.entry(arch)
    reference_entry = registry.entry(match.arch)
    if reference_entry.is_toy(match.size):
        return entry.toy_for(io.size)
    reference = registry.size_args(match.arch, match.size)
    ranked = []
    for name in (n for n in entry.sizes if not entry.is_toy(n) or len(entry.sizes) == 1):
        args = registry.size_args(arch, name)
        differences = sum(args[k] != reference[k] for k in args.keys() & reference.keys() - free.keys())
        try:
            meta_network(arch, name, io, {})
        except ValueError:
            continue  # its patch size or number of levels does not divide this image
        ranked.append((differences, name))
        if not differences:
            return name
    return min(ranked)[1] if ranked else ""


def _candidate_shapes(
    arch: str,
    cls: Any,
    io: IOSpec,
    base: dict[str, Any],
    fixed: Mapping[str, Any],
    by: str,
    target: float,
    tolerance: float,
) -> list[dict[str, Any]]:
    """List the shapes that are predicted to meet the target, the nearest to the paper's proportions first.

    If there are none, list the three shapes with the predicted costs nearest to the target.
    """
    free = {k: v for k, v in cls.free(io).items() if k not in fixed}
    choices = [name for name in free if not _is_numeric(free[name])]
    numbers = [name for name in free if _is_numeric(free[name])]
    candidates = []
    for choice in itertools.product(*(free[name] for name in choices)):
        shape = {**base, **dict(zip(choices, choice, strict=True))}
        predict = _fit_cost(arch, io, shape, {n: free[n] for n in numbers}, by)
        for values in itertools.product(*(free[name] for name in numbers)):
            args = {**shape, **dict(zip(numbers, values, strict=True))}
            distance = float(cls.distance(args)) if hasattr(cls, "distance") else 0.0
            if distance <= MAX_DIFFERENCE:
                candidates.append((abs(predict(values) / target - 1), distance, args))
    fitting = [item for item in candidates if item[0] <= tolerance]
    if not fitting:
        return [args for *_, args in sorted(candidates, key=lambda item: item[0])[:3]]
    return [args for *_, args in sorted(fitting, key=lambda item: (round(item[1], 1), item[0]))[:MAX_TRIES]]


def _is_numeric(values: Sequence[Any]) -> bool:
    return len(values) > 1 and all(isinstance(v, int) for v in values)


def _fit_cost(arch: str, io: IOSpec, base: dict[str, Any], numbers: Free, by: str) -> Callable[[Sequence[int]], float]:
    """Fit the cost to the counted costs of the smallest shapes.

    The polynomial is linear in every number but the last, and quadratic in the last, the width.
    """
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
