"""Finished runs by what they share: a cell is one configuration over its seeds, a setting is what FIDs share.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from scipy import stats

from . import suites
from .config import digest
from .protocol import describe
from .record import Record
from .series import Point

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Runs that differ in nothing but their seed."""

    name: str
    runs: tuple[Record, ...]

    @property
    def macs(self) -> float:
        return mean(cost(r).macs for r in self.runs)

    def point(self, x: float, y: Callable[[Record], float] | None = None, label: str = "") -> Point:
        """The mean of a number over the seeds; the final FID unless another is named."""
        values = tuple((y or fid)(r) for r in self.runs)
        low, high, method = _interval(values) if len(values) > 1 else (None, None, "one seed")
        if len(values) == 1 and y is None and (own := self.runs[0].metrics[headline(self.runs[0])].interval):
            low, high, method = own.low, own.high, f"one seed; {own.method}"
        return Point(
            x=x,
            y=mean(values),
            low=low,
            high=high,
            label=label,
            values=values if len(values) > 1 else (),
            records=tuple(r.id for r in self.runs),
            note=method,
        )


def _interval(values: Sequence[float]) -> tuple[float, float, str]:
    """Student's interval of the mean of n seeds."""
    n, middle = len(values), mean(values)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(values) / n**0.5
    return middle - half, middle + half, f"mean of {n} seeds, Student's 95 % interval"


def headline(r: Record) -> str:
    """The name of a record's Fréchet distance, whichever features it takes; ValueError where it has none."""
    for name in r.metrics:
        if name == "fid" or name.startswith("fid["):
            return name
    raise ValueError(f"record {r.id} has no FID")


def fid(r: Record) -> float:
    return r.metrics[headline(r)].value


def cost(r: Record) -> Any:
    """A finished model's cost, which its record always has."""
    assert r.cost is not None
    return r.cost


def curve(r: Record) -> list[tuple[int, float]]:
    """(images, FID) at the evaluation points, in order."""
    name = headline(r)
    return sorted((p["images"], p["metrics"][name]) for p in r.curve if name in p["metrics"])


def training_flops(r: Record, images: float) -> float:
    """Counted FLOPs of training on so many images: three forward passes each."""
    return 3 * float(cost(r).flops) * images


def models(records: Iterable[Record]) -> list[Record]:
    """The finished models with an FID that were trained here."""
    found = []
    for r in records:
        trained = r.protocol.get("training", {}).get("track") != "published"
        if r.kind == "model" and r.status == "done" and trained and any(n.startswith("fid") for n in r.metrics):
            found.append(r)
    return found


def setting(r: Record) -> str:
    """The same for runs whose FIDs may share an axis: one protocol, whatever costs were made equal."""
    training = {k: v for k, v in r.protocol["training"].items() if k != "match"}
    return digest([r.evaluation_fingerprint, training])[:12]


def by(records: Iterable[Record], what: Callable[[Record], str]) -> dict[str, list[Record]]:
    """Records by what a function says of them, in the order of first appearance."""
    found: dict[str, list[Record]] = {}
    for r in records:
        found.setdefault(what(r), []).append(r)
    return found


def by_key(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Finished models by configuration without seed: what `suites.cells` names."""
    return by(models(records), lambda r: suites.key(r.config))


def of_suite(found: Mapping[str, Sequence[Record]], suite: str, scale: suites.Scale) -> dict[str, list[Cell]]:
    """A suite's cells that were run, by setting; those most often run first."""
    settings: dict[str, list[Cell]] = {}
    for name, key in suites.cells(suite, scale).items():
        for shared, runs in by(found.get(key, ()), setting).items():
            in_order = sorted(runs, key=lambda r: r.config.get("seed", 0))
            settings.setdefault(shared, []).append(Cell(name=name, runs=tuple(in_order)))
    return dict(sorted(settings.items(), key=lambda item: -len(item[1])))


def caption(cells: Sequence[Cell]) -> str:
    """The protocol that cells share, in words."""
    one = cells[0].runs[0].protocol
    if len({r.fingerprint for c in cells for r in c.runs}) == 1:
        return describe(one)
    free = {**one, "training": {**one["training"], "match": {"by": "none"}}}
    return describe(free).replace(", sizes as they are", "")


def seeds(cells: Sequence[Cell]) -> str:
    """How many seeds there are, in words."""
    counts = sorted({len(c.runs) for c in cells})
    many = "1 seed" if counts == [1] else f"{counts[0]} to {counts[-1]} seeds"
    return f"{counts[0]} seeds" if len(counts) == 1 and counts != [1] else many
