"""Group finished runs for figures.

A variant is one configuration over its seeds.  A setting is a group of runs whose FIDs are comparable: they share a
protocol, except for the matched cost.  Imports no torch.
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
    """Runs of one configuration that differ only in their seed."""

    name: str
    runs: tuple[Record, ...]

    @property
    def macs(self) -> float:
        """MACs of one image."""
        return mean(run_cost(r).macs for r in self.runs)

    def mean_point(self, x: float, value_of: Callable[[Record], float] | None = None, label: str = "") -> Point:
        """Return the mean over the seeds as a point at `x`, of the final FID or of `value_of(record)`."""
        values = tuple((value_of or final_fid)(r) for r in self.runs)
        finals = [r.metrics[headline_metric(r.metrics)] for r in self.runs]
        statistics = metric_statistics(finals) if value_of is None else seed_statistics(values)
        several = f"mean of {statistics.n} seeds, Student's 95 % interval"
        single = "one seed, 95 % interval over the samples" if statistics.low is not None else "one seed"
        return Point(
            x=x,
            y=statistics.mean,
            low=statistics.low,
            high=statistics.high,
            label=label,
            values=values if statistics.n > 1 else (),
            records=tuple(r.id for r in self.runs),
            note=several if statistics.n > 1 else single,
        )


def final_fid(r: Record) -> float:
    """Return the final FID, on the features of the record's protocol."""
    return r.metrics[headline_metric(r.metrics)].value


def run_cost(r: Record) -> Any:
    """Return the cost of a finished model, which its record always has."""
    assert r.cost is not None
    return r.cost


def fid_curve(r: Record) -> list[tuple[int, float]]:
    """Return (training images, FID) at the evaluation points, in order."""
    name = headline_metric(r.metrics)
    return sorted((p["images"], p["metrics"][name]) for p in r.curve if name in p["metrics"])


def finished_models(records: Iterable[Record]) -> list[Record]:
    """Select the finished models with an FID."""
    return [r for r in records if r.kind == "model" and r.status == "done" and headline_metric(r.metrics)]


def setting(r: Record) -> str:
    """Return a digest of the protocol without the matched cost; FIDs of runs with equal digests are comparable."""
    return configuration_key(r.protocol, MATCHED_COST)[:12]


def group_by(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Group items by a key, in order of first appearance."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def group_by_variant(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Group finished models by their configuration without the seed, as `suites.variant_keys` does."""
    return group_by(finished_models(records), lambda r: configuration_key(r.config, SEED + RESOLVED))


def group_suite_runs(
    runs_by_key: Mapping[str, Sequence[Record]], suite: str, scale: suites.Scale
) -> dict[str, list[VariantRuns]]:
    """Group the finished variants of a suite by setting; the setting with the most variants comes first."""
    settings: dict[str, list[VariantRuns]] = {}
    for name, key in suites.variant_keys(suite, scale).items():
        for shared, runs in group_by(runs_by_key.get(key, ()), setting).items():
            by_seed = sorted(runs, key=lambda r: r.config.get("seed", 0))
            settings.setdefault(shared, []).append(VariantRuns(name=name, runs=tuple(by_seed)))
    return dict(sorted(settings.items(), key=lambda item: -len(item[1])))


def group_matched_runs(
    finished: Iterable[Record], runs_by_key: Mapping[str, Sequence[Record]], suite: str, scale: suites.Scale
) -> dict[str, list[VariantRuns]]:
    """Group the variants of a suite of equal cost by setting, with all other matched runs of the same protocols."""
    variants = [v for group in group_suite_runs(runs_by_key, suite, scale).values() for v in group]
    fingerprints = {r.fingerprint for v in variants for r in v.runs}
    comparable = [r for r in finished if r.fingerprint in fingerprints and r.config["model"]["match"]]
    order = {"dit": 0, "uvit": 1, "unet": 2}
    comparable.sort(key=lambda r: (order.get(r.label, 3), r.label, run_cost(r).macs))
    return {
        shared: [
            VariantRuns(name=name, runs=tuple(sorted(group, key=lambda r: r.config["seed"])))
            for name, group in group_by(runs, lambda r: f"{r.label} at {matched_size(r)}").items()
        ]
        for shared, runs in group_by(comparable, setting).items()
    }


def matched_size(r: Record) -> str:
    """Return the reference network that a matched network has the cost of."""
    return str(r.config["model"]["match"]).partition(":")[2]


def group_by_family(variants: Sequence[VariantRuns]) -> dict[str, list[VariantRuns]]:
    """Group matched variants by architecture."""
    return group_by(variants, lambda v: v.runs[0].label)


def group_by_size(variants: Sequence[VariantRuns]) -> dict[str, list[VariantRuns]]:
    """Group matched variants by protocol, which names their size; the cheapest size comes first."""
    groups = group_by(variants, lambda v: v.runs[0].fingerprint)
    return dict(sorted(groups.items(), key=lambda item: min(v.macs for v in item[1])))


def group_by_shape(variants: Sequence[VariantRuns]) -> dict[str, list[VariantRuns]]:
    """Group variants of dit-scaling by the part of the name before the patch size: DiT-XL, 2x64."""
    return group_by(variants, lambda v: v.name.rpartition("/")[0])


def describe_protocols(variants: Sequence[VariantRuns]) -> str:
    """Describe the protocol of the variants, without cost and sampling steps if these differ."""
    protocol = variants[0].runs[0].protocol
    if len({r.fingerprint for v in variants for r in v.runs}) == 1:
        return describe_protocol(protocol)
    same_steps = len({r.steps for v in variants for r in v.runs}) == 1
    return describe_protocol(protocol, cost=False, steps=same_steps)


def describe_seeds(variants: Sequence[VariantRuns]) -> str:
    """Describe the number of seeds: "1 seed", "3 seeds" or "1 to 3 seeds"."""
    counts = sorted({len(v.runs) for v in variants})
    if counts == [1]:
        return "1 seed"
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
