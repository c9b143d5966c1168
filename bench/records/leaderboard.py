"""The leaderboard as data: one table per protocol; runs that differ only in their seed share an entry.

Ranks hold within a table.  Published weights are not ranked at all, because their budgets and recipes differ.
Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench.config.identity import SEED, digest_json, without
from bench.config.metric_specs import METRIC_SPECS, headline_metric, metric_type
from bench.records.protocol import Protocol
from bench.records.ranking import Rank, SeedStatistics, assign_ranks, metric_statistics
from bench.records.record import Record, unfinished_id


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaderboardEntry:
    """Runs that differ only in their seed."""

    group: str
    """Twelve hexadecimal digits that identify the configuration."""
    runs: tuple[Record, ...]
    """Sorted by seed."""
    metrics: Mapping[str, SeedStatistics]
    rank: Rank | None = None
    """None for an unranked entry."""

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.runs[0].label

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """Training seed of each run."""
        return tuple(r.seed for r in self.runs)

    @property
    def samples(self) -> int:
        """Number of samples that the metrics are measured on."""
        return next(iter(self.runs[0].metrics.values())).samples

    def counted_cost(self, name: str) -> int | None:
        """A counted cost (params, macs, training_flops), equal for all seeds; None for an entry without cost."""
        return getattr(self.runs[0].cost, name, None)

    def mean_cost(self, name: str) -> float | None:
        """Mean over the seeds of a measured cost (images_per_second, accelerator_hours); None if no run has it."""
        values = [v for r in self.runs if (v := getattr(r.cost, name, None)) is not None]
        return math.fsum(values) / len(values) if values else None

    @property
    def incidents(self) -> int:
        """Number of restarts, damaged checkpoints and rollbacks of all seeds."""
        return sum(len(r.incidents) for r in self.runs)

    @property
    def date(self) -> str:
        """Date of the last run, ISO 8601."""
        return max(r.created[:10] for r in self.runs)

    @property
    def commits(self) -> tuple[str, ...]:
        """Commits of the code; a + marks uncommitted changes."""
        known = [r.environment for r in self.runs if r.environment.get("commit")]
        return tuple({f"{e['commit']}{'+' if e.get('dirty') else ''}": 0 for e in known})


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaderboardTable:
    """The entries of one protocol, best first."""

    fingerprint: str
    protocol: Protocol
    headline: str
    """The metric that entries are ranked by; "" if no entry has it."""
    entries: tuple[LeaderboardEntry, ...]
    references: tuple[Record, ...] = field(default=())
    """Held-out images and noise with the same evaluation, unranked."""

    @property
    def reference_entries(self) -> list[LeaderboardEntry]:
        """One entry per reference."""
        return [_build_entry(r.id, [r]) for r in self.references]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics of all entries and references, in the order of METRIC_SPECS."""
        names = {n: 0 for entry in self.entries for n in entry.metrics}
        names |= {n: 0 for r in self.references for n in r.metrics}
        order = list(METRIC_SPECS)
        return sorted(names, key=lambda n: (order.index(metric_type(n)) if metric_type(n) in order else len(order), n))

    def direction(self, metric: str) -> str:
        """The better direction of a metric: lower or higher."""
        runs = [entry.runs[0] for entry in self.entries] + list(self.references)
        return next(r.metrics[metric].direction for r in runs if metric in r.metrics)


def group_id(r: Record) -> str:
    """Twelve hexadecimal digits that are equal for runs that differ only in their seed."""
    return digest_json([r.fingerprint, r.label, without(r.config, SEED)])[:12]


def drop_superseded_failures(records: Iterable[Record]) -> list[Record]:
    """Leave out the failures of runs that have finished since."""
    everything = list(records)
    if all(r.status == "done" for r in everything):
        return everything
    finished = {unfinished_id(r) for r in everything if r.status == "done"}
    return [r for r in everything if r.status == "done" or r.id not in finished]


def failure_row(r: Record) -> dict[str, str]:
    """The row of a run that failed or diverged: column -> text."""
    images = r.incidents[-1].get("images", 0) if r.incidents else 0
    return {
        "model": r.label,
        "data": r.data,
        "status": r.status,
        "images": f"{images:,} of {r.budget or 0:,}",
        "error": " ".join((r.error or "").split()),
        "seed": "" if r.seed is None else str(r.seed),
        "date": r.created[:10],
    }


def build_tables(records: Iterable[Record]) -> list[LeaderboardTable]:
    """Build one table per protocol with a finished model, sorted by fingerprint."""
    references: dict[str, list[Record]] = {}
    groups: dict[str, dict[str, list[Record]]] = {}
    for r in records:
        if r.status != "done":
            continue
        if r.kind == "reference":
            references.setdefault(r.evaluation_fingerprint, []).append(r)
        else:
            groups.setdefault(r.fingerprint, {}).setdefault(group_id(r), []).append(r)
    tables = []
    for fingerprint, by_group in sorted(groups.items()):
        first = next(iter(by_group.values()))[0]
        same_evaluation = sorted(references.get(first.evaluation_fingerprint, []), key=lambda r: r.label)
        entries = [_build_entry(*group) for group in by_group.items()]
        tables.append(build_table(fingerprint, first.protocol, entries, same_evaluation))
    return tables


def _build_entry(group: str, runs: Sequence[Record]) -> LeaderboardEntry:
    runs = sorted(runs, key=lambda r: (r.seed or 0, r.id))
    names = {name: 0 for r in runs for name in r.metrics}
    metrics = {name: metric_statistics([r.metrics[name] for r in runs if name in r.metrics]) for name in names}
    return LeaderboardEntry(group=group, runs=tuple(runs), metrics=metrics)


def build_table(
    fingerprint: str, protocol: Protocol, entries: Sequence[LeaderboardEntry], references: Sequence[Record] = ()
) -> LeaderboardTable:
    """Rank entries by their headline metric, and sort them by its mean; entries without it come last."""
    headline = headline_metric({name: 0 for entry in entries for name in entry.metrics})
    direction = METRIC_SPECS[metric_type(headline)][0] if headline else "lower"
    statistics = [entry.metrics.get(headline) for entry in entries]
    unranked = protocol.get("training", {}).get("track") == "published"
    ranks = [None] * len(entries) if unranked else assign_ranks(statistics, direction)
    sign = -1 if direction == "higher" else 1

    def order(entry: LeaderboardEntry) -> tuple[float, str, str]:
        value = sign * entry.metrics[headline].mean if headline in entry.metrics else math.inf
        return value, entry.label, entry.group

    ranked = (replace(entry, rank=rank) for entry, rank in zip(entries, ranks, strict=True))
    return LeaderboardTable(
        fingerprint=fingerprint,
        protocol=protocol,
        headline=headline,
        entries=tuple(sorted(ranked, key=order)),
        references=tuple(references),
    )
