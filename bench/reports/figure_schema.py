"""What the figures show, as plain data made from records: bench.figures draws it, bench.report too.  Imports no torch.

A figure is one or more panels; a panel is one pair of axes, and holds the FIDs of one protocol only.  What papers
published has panels of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.reports import power_law
from bench.terminal.formatting import format_count

DOUBTFUL = 0.05
"""Share of resamples without an exponent above which the caption says so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One axis of a panel."""

    name: str
    """In words, with the arrow of what is better: "FID ↓"."""
    unit: str = ""
    """"MACs", "FLOPs", "images"; "" for what has none."""
    log: bool = False
    categories: tuple[str, ...] = ()
    """Of the upward axis of a dot plot: a point's y is an index into these, the first on top."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A mean over the seeds of one cell, or one published number."""

    x: float
    y: float
    low: float | None = None
    """Ends of the 95 % interval of the measured number (of x in a dot plot); None where there is none."""
    high: float | None = None
    label: str = ""
    values: tuple[float, ...] = ()
    """The number of each seed."""
    records: tuple[str, ...] = ()
    """Ids of the records it was made from; none for what was published."""
    note: str = ""
    """For the reader who points at it: the interval's method, or the source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points that belong together, one colour and one name."""

    name: str
    points: tuple[Point, ...]
    kind: Literal["measured", "published"] = "measured"
    joined: bool = False
    """Whether a line connects the points, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """y = a + b (x / scale)^-c through a panel's points, with its band; or why there is none."""

    of: str = ""
    """The series that it was fitted to; "" for all of the panel."""
    words: str
    """Formula, correlation and band in one line, for the caption; or why nothing was fitted."""
    a: float | None = None
    b: float | None = None
    c: float | None = None
    scale: float | None = None
    r: float | None = None
    """Pearson's correlation of log x and y; None for fewer than three points."""
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    """The 95 % band, bootstrapped."""
    high: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One pair of axes."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    fits: tuple[Fit, ...] = ()
    levels: tuple[tuple[str, float], ...] = ()
    """Named horizontal lines, such as held-out images' FID; vertical ones in a dot plot."""
    caption: str = ""
    """The protocol in words, and what the panel cannot show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """What one file shows."""

    name: str
    """Of the file, and on the command line."""
    title: str
    panels: tuple[Panel, ...]
    """Empty where nothing was measured or published yet."""
    alike: bool = False
    """Whether panels with the same upward axis have the same ranges."""
    missing: str = ""
    """The commands that run what is not there yet, one a line; "" where nothing is missing."""


def fitted(points: Sequence[Point], of: str = "", *, frontier: bool = False) -> Fit:
    """The law through points, or through those that no cheaper point beats, in the words that a caption needs."""
    r, correlated = _correlation(points)
    chosen = best_at_their_cost(points) if frontier else list(points)
    what = "points that no cheaper one beats" if frontier else "points"
    x, y = [p.x for p in chosen], [p.y for p in chosen]
    if (count := len(set(x))) < power_law.FEWEST:
        few = f"{count} {what}: too few for a power law with offset, which needs {power_law.FEWEST}"
        return Fit(of=of, words="; ".join([few, *correlated]), r=r)
    law = power_law.fit(x, y)
    formula = dict(a=law.a, b=law.b, c=law.c, scale=law.scale)
    if not law.determined:
        lost = f"{count} {what} do not determine a power law: the best exponent lies at an end of the search"
        return Fit(of=of, words="; ".join([lost, *correlated]), r=r)
    band = power_law.band(x, [p.values or (p.y,) for p in chosen], np.geomspace(min(x), max(x), 60))
    offset = f"{law.a:.3g} + " if law.a else ""
    words = [
        f"FID = {offset}{law.b:.3g} (C / {format_count(law.scale)})^-{law.c:.2f} through {len(chosen)} {what}, "
        f"which lie {law.error * 100:.0f} % from it (root mean square)",
        f"exponent {band.c[0]:.2f} to {band.c[1]:.2f}, offset {band.a[0]:.3g} to {band.a[1]:.3g} in 95 % of "
        f"{power_law.RESAMPLES:,} resamples",
    ]
    if band.undetermined > DOUBTFUL:
        words.append(f"{band.undetermined:.0%} of them determine no exponent")
    return Fit(
        of=of,
        words="; ".join([*words, *correlated]),
        **formula,
        r=r,
        x=tuple(map(float, band.x)),
        y=tuple(map(float, law.at(band.x))),
        low=tuple(map(float, band.low)),
        high=tuple(map(float, band.high)),
    )


def _correlation(points: Sequence[Point]) -> tuple[float | None, list[str]]:
    """Pearson's r and its words; None and none where there is none, or too few points for it to say much."""
    if len(points) < power_law.FEWEST:
        return None, []
    try:
        found = power_law.correlation([p.x for p in points], [p.y for p in points])
    except ValueError:
        return None, []
    interval = f"95 % interval {found.low:.2f} to {found.high:.2f}"
    return found.r, [f"r of log C and FID {found.r:.2f} (n = {len(points)}, {interval})"]


def best_at_their_cost(points: Sequence[Point]) -> list[Point]:
    """Points that none of at most their x beats, by rising x."""
    best: list[Point] = []
    for p in sorted(points, key=lambda p: (p.x, p.y)):
        if not best or p.y < best[-1].y:
            best.append(p)
    return best
