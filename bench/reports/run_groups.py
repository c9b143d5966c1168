"""Finished runs by what they share: a cell is one configuration over its seeds, a setting is what FIDs share.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, TypeVar

from bench.config.identity import MATCHED_COST, RESOLVED, SEED, configuration_key
from bench.config.metric_specs import headline_metric
from bench.experiments import suites
from bench.records.protocol import describe_protocol
from bench.records.ranking import metric_statistics, seed_statistics
from bench.records.record import Record
from bench.reports.figure_schema import Point

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantRuns:
    """Runs that differ in nothing but their seed."""

    name: str
    runs: tuple[Record, ...]

    @property
    def macs(self) -> float:
        return mean(cost(r).macs for r in self.runs)

    def point(self, x: float, y: Callable[[Record], float] | None = None, label: str = "") -> Point:
        """The mean of a number over the seeds; the final FID unless another is named."""
        values = tuple((y or fid)(r) for r in self.runs)
        finals = [r.metrics[headline_metric(r.metrics)] for r in self.runs]
        over = metric_statistics(finals) if y is None else seed_statistics(values)
        many = f"mean of {over.n} seeds, Student's 95 % interval"
        one = "one seed, 95 % interval over the samples" if over.low is not None else "one seed"
        return Point(
            x=x,
            y=over.mean,
            low=over.low,
            high=over.high,
            label=label,
            values=values if over.n > 1 else (),
            records=tuple(r.id for r in self.runs),
            note=many if over.n > 1 else one,
        )


def fid(r: Record) -> float:
    """The final FID, in whichever features."""
    return r.metrics[headline_metric(r.metrics)].value


def cost(r: Record) -> Any:
    """A finished model's cost, which its record always has."""
    assert r.cost is not None
    return r.cost


def curve(r: Record) -> list[tuple[int, float]]:
    """(images, FID) at the evaluation points, in order."""
    name = headline_metric(r.metrics)
    return sorted((p["images"], p["metrics"][name]) for p in r.curve if name in p["metrics"])


def models(records: Iterable[Record]) -> list[Record]:
    """The finished models with an FID."""
    return [r for r in records if r.kind == "model" and r.status == "done" and headline_metric(r.metrics)]


def setting(r: Record) -> str:
    """The same for runs whose FIDs may share an axis: one protocol, whatever costs were made equal."""
    return configuration_key(r.protocol, MATCHED_COST)[:12]


def by(things: Iterable[T], what: Callable[[T], str]) -> dict[str, list[T]]:
    """Records or cells by what a function says of them, in the order of first appearance."""
    found: dict[str, list[T]] = {}
    for one in things:
        found.setdefault(what(one), []).append(one)
    return found


def by_key(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Finished models by configuration without seed: what `suites.cells` names."""
    return by(models(records), lambda r: configuration_key(r.config, SEED + RESOLVED))


def of_suite(found: Mapping[str, Sequence[Record]], suite: str, scale: suites.Scale) -> dict[str, list[VariantRuns]]:
    """A suite's cells that were run, by setting; those most often run first."""
    settings: dict[str, list[VariantRuns]] = {}
    for name, key in suites.variant_keys(suite, scale).items():
        for shared, runs in by(found.get(key, ()), setting).items():
            in_order = sorted(runs, key=lambda r: r.config.get("seed", 0))
            settings.setdefault(shared, []).append(VariantRuns(name=name, runs=tuple(in_order)))
    return dict(sorted(settings.items(), key=lambda item: -len(item[1])))


def matched(
    finished: Iterable[Record], keys: Mapping[str, Sequence[Record]], suite: str, scale: suites.Scale
) -> dict[str, list[VariantRuns]]:
    """A matched suite's cells by setting, and whatever else was run under the same protocols."""
    cells = [c for group in of_suite(keys, suite, scale).values() for c in group]
    prints = {r.fingerprint for c in cells for r in c.runs}
    beside = [r for r in finished if r.fingerprint in prints and r.config["model"]["match"]]
    first = {"dit": 0, "uvit": 1, "unet": 2}
    beside.sort(key=lambda r: (first.get(r.label, 3), r.label, cost(r).macs))
    return {
        shared: [
            VariantRuns(name=name, runs=tuple(sorted(group, key=lambda r: r.config["seed"])))
            for name, group in by(runs, lambda r: f"{r.label} at {size(r)}").items()
        ]
        for shared, runs in by(beside, setting).items()
    }


def size(r: Record) -> str:
    """What a matched network's cost was made equal to."""
    return str(r.config["model"]["match"]).partition(":")[2]


def by_family(cells: Sequence[VariantRuns]) -> dict[str, list[VariantRuns]]:
    """Matched cells by architecture."""
    return by(cells, lambda c: c.runs[0].label)


def by_size(cells: Sequence[VariantRuns]) -> dict[str, list[VariantRuns]]:
    """Matched cells by protocol, cheapest first; within each in their own order."""
    groups = by(cells, lambda c: c.runs[0].fingerprint)
    return dict(sorted(groups.items(), key=lambda item: min(c.macs for c in item[1])))


def by_shape(cells: Sequence[VariantRuns]) -> dict[str, list[VariantRuns]]:
    """Cells of dit-scaling by what stands before the patch: DiT-XL, 2x64."""
    return by(cells, lambda c: c.name.rpartition("/")[0])


def caption(cells: Sequence[VariantRuns]) -> str:
    """The protocol that cells share, in words."""
    one = cells[0].runs[0].protocol
    if len({r.fingerprint for c in cells for r in c.runs}) == 1:
        return describe_protocol(one)
    free = {**one, "training": {**one["training"], "match": {"by": "none"}}}
    words = describe_protocol(free).replace(", sizes as they are", "")
    if len({r.protocol["evaluation"]["steps"] for c in cells for r in c.runs}) > 1:
        words = words.replace(f"{one['evaluation']['steps']}-step ", "")
    return words


def seeds(cells: Sequence[VariantRuns]) -> str:
    """How many seeds there are, in words."""
    counts = sorted({len(c.runs) for c in cells})
    many = "1 seed" if counts == [1] else f"{counts[0]} to {counts[-1]} seeds"
    return f"{counts[0]} seeds" if len(counts) == 1 and counts != [1] else many
