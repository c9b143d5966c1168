"""The leaderboard as data: a board a protocol, a line for runs that differ in nothing but their seed.

Nothing is ranked across boards.  Published weights are not ranked at all: their budgets and recipes differ.
Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.config.identity import SEED, digest_json, without
from bench.config.metric_specs import METRIC_SPECS, headline_metric, metric_type
from bench.records.ranking import Rank, SeedStatistics, assign_ranks, metric_statistics
from bench.records.record import Record, unfinished_id


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaderboardEntry:
    """Runs that differ in nothing but their seed."""

    group: str
    """Twelve digits that they share and no other run has."""
    runs: tuple[Record, ...]
    """In order of their seeds."""
    metrics: Mapping[str, SeedStatistics]
    place: Rank | None = None
    """None where it is not ranked."""

    @property
    def label(self) -> str:
        return self.runs[0].label

    @property
    def seeds(self) -> tuple[Any, ...]:
        return tuple(r.config.get("seed") for r in self.runs)

    @property
    def samples(self) -> int:
        return next(iter(self.runs[0].metrics.values())).samples

    def counted(self, name: str) -> int | None:
        """A counted cost (params, macs, training_flops), the same for all seeds; None where there is none."""
        return getattr(self.runs[0].cost, name, None)

    def measured(self, name: str) -> float | None:
        """A measured cost (images_per_second, accelerator_hours), the mean over the seeds; None where there is none."""
        values = [v for r in self.runs if (v := getattr(r.cost, name, None)) is not None]
        return math.fsum(values) / len(values) if values else None

    @property
    def incidents(self) -> int:
        """Restarts, damaged checkpoints and rollbacks of all seeds."""
        return sum(len(r.incidents) for r in self.runs)

    @property
    def date(self) -> str:
        """Of the last run."""
        return max(r.created[:10] for r in self.runs)

    @property
    def commits(self) -> tuple[str, ...]:
        """Of the code, a commit with changes on top having a +."""
        known = [r.environment for r in self.runs if r.environment.get("commit")]
        return tuple({f"{e['commit']}{'+' if e.get('dirty') else ''}": 0 for e in known})


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaderboardTable:
    """The lines of one protocol, best first."""

    fingerprint: str
    protocol: Mapping[str, Any]
    headline: str
    """The metric that lines are ranked by; "" where no line has it."""
    lines: tuple[LeaderboardEntry, ...]
    references: tuple[Record, ...] = field(default=())
    """Held-out images and noise by the same evaluation, unranked."""

    @property
    def beside(self) -> list[LeaderboardEntry]:
        """The references as lines."""
        return [_build_entry(r.id, [r]) for r in self.references]

    @property
    def metrics(self) -> list[str]:
        """Every metric that a line or a reference has, in the order of the kinds."""
        there = {n: 0 for line in self.lines for n in line.metrics} | {n: 0 for r in self.references for n in r.metrics}
        order = list(METRIC_SPECS)
        return sorted(there, key=lambda n: (order.index(metric_type(n)) if metric_type(n) in order else len(order), n))

    def direction(self, metric: str) -> str:
        """lower or higher, whichever is better."""
        runs = [line.runs[0] for line in self.lines] + list(self.references)
        return next(r.metrics[metric].direction for r in runs if metric in r.metrics)


def group_id(r: Record) -> str:
    """The same for runs that differ in nothing but their seed."""
    return digest_json([r.fingerprint, r.label, without(r.config, SEED)])[:12]


def drop_superseded_failures(records: Iterable[Record]) -> list[Record]:
    """Records without failures of runs that were finished since."""
    there = list(records)
    if all(r.status == "done" for r in there):
        return there
    finished = {unfinished_id(r) for r in there if r.status == "done"}
    return [r for r in there if r.status == "done" or r.id not in finished]


def failure_row(r: Record) -> dict[str, str]:
    """What there is to tell of a run that failed or diverged."""
    images = r.incidents[-1].get("images", 0) if r.incidents else 0
    return {
        "model": r.label,
        "data": r.protocol["evaluation"]["data"],
        "status": r.status,
        "images": f"{images:,} of {r.protocol['training'].get('images') or 0:,}",
        "error": " ".join((r.error or "").split()),
        "seed": str(r.config.get("seed", "")),
        "date": r.created[:10],
    }


def build_tables(records: Iterable[Record]) -> list[LeaderboardTable]:
    """A board a protocol with a finished model, in order of fingerprints."""
    done = [r for r in records if r.status == "done"]
    beside: dict[str, list[Record]] = {}
    grouped: dict[str, dict[str, list[Record]]] = {}
    for r in done:
        if r.kind == "reference":
            beside.setdefault(r.evaluation_fingerprint, []).append(r)
        else:
            grouped.setdefault(r.fingerprint, {}).setdefault(group_id(r), []).append(r)
    found = []
    for print_, groups in sorted(grouped.items()):
        one = next(iter(groups.values()))[0]
        references = sorted(beside.get(one.evaluation_fingerprint, []), key=lambda r: r.label)
        found.append(build_table(print_, one.protocol, [_build_entry(*g) for g in groups.items()], references))
    return found


def _build_entry(group: str, runs: Sequence[Record]) -> LeaderboardEntry:
    runs = sorted(runs, key=lambda r: (r.config.get("seed") or 0, r.id))
    names = {name: 0 for r in runs for name in r.metrics}
    metrics = {name: metric_statistics([r.metrics[name] for r in runs if name in r.metrics]) for name in names}
    return LeaderboardEntry(group=group, runs=tuple(runs), metrics=metrics)


def build_table(
    print_: str, protocol: Mapping[str, Any], lines: Sequence[LeaderboardEntry], references: Sequence[Record] = ()
) -> LeaderboardTable:
    """A board of lines, ranked by their headline and in order of its mean; those without it come last."""
    best = headline_metric({name: 0 for line in lines for name in line.metrics})
    direction = METRIC_SPECS[metric_type(best)][0] if best else "lower"
    spreads = [line.metrics.get(best) for line in lines]
    unranked = protocol.get("training", {}).get("track") == "published"
    found = [None] * len(lines) if unranked else assign_ranks(spreads, direction)
    sign = -1 if direction == "higher" else 1
    order = sorted(
        (replace(line, place=place) for line, place in zip(lines, found, strict=True)),
        key=lambda line: (sign * line.metrics[best].mean if best in line.metrics else math.inf, line.label, line.group),
    )
    return LeaderboardTable(
        fingerprint=print_, protocol=protocol, headline=best, lines=tuple(order), references=tuple(references)
    )
