"""Data classes of a figure, built from records and drawn by matplotlib for files and for the page.

A figure has one or more panels.  A panel is one pair of axes and holds the FIDs of one protocol only; published
numbers have panels of their own.  Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.reports import power_law
from bench.terminal.formatting import format_count

MAX_UNDETERMINED = 0.05
"""Share of resamples without an exponent above which the caption reports it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One axis of a panel."""

    name: str
    """Label, with an arrow for the better direction: "FID ↓"."""
    unit: str = ""
    """"MACs", "FLOPs", "images"; "" for a quantity without a unit."""
    log: bool = False
    categories: tuple[str, ...] = ()
    """Row names of a dot plot's y axis, from the top: the y of a point is an index into these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A mean over the seeds of one variant, or one published number."""

    x: float
    y: float
    low: float | None = None
    """Lower end of the 95 % interval of y (of x in a dot plot); None without an interval."""
    high: float | None = None
    label: str = ""
    values: tuple[float, ...] = ()
    """The value of each seed."""
    records: tuple[str, ...] = ()
    """Ids of the averaged records; () for a published number."""
    note: str = ""
    """Method of the interval, or source of a published number, for the table of values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points that share a name and a colour."""

    name: str
    points: tuple[Point, ...]
    origin: Literal["measured", "published"] = "measured"
    joined: bool = False
    """Whether a line connects the points, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """y = a + b (x / scale)^-c through the points of a panel, with its band, or the reason why there is none."""

    series: str = ""
    """Name of the fitted series; "" for all points of the panel."""
    description: str
    """One line for the caption: formula, band and correlation, or why nothing was fitted."""
    a: float | None = None
    b: float | None = None
    c: float | None = None
    scale: float | None = None
    r: float | None = None
    """Pearson's correlation of log x and y; None for too few points."""
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    """Lower end of the bootstrapped 95 % band at each x."""
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
    """Named horizontal lines, such as the FID of held-out images; vertical in a dot plot."""
    caption: str = ""
    """The protocol and the limits of the panel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure: one image file, and one section of the page."""

    name: str
    """Name of the file, and on the command line."""
    title: str
    panels: tuple[Panel, ...]
    """() if there is no measured or published number."""
    shared_ranges: bool = False
    """Whether panels with the same y axis have the same ranges."""
    missing: str = ""
    """Commands for the missing runs, one per line; "" if there are none."""


def fit_points(points: Sequence[Point], series: str = "", *, frontier: bool = False) -> Fit:
    """Fit a power law through all points, or through the Pareto frontier, and describe it for a caption."""
    r, correlation = _describe_correlation(points)
    chosen = pareto_frontier(points) if frontier else list(points)
    noun = "points of the Pareto frontier" if frontier else "points"
    x, y = [p.x for p in chosen], [p.y for p in chosen]
    if (count := len(set(x))) < power_law.MIN_POINTS:
        few = f"{count} {noun}: too few for a power law with offset, which needs {power_law.MIN_POINTS}"
        return Fit(series=series, description="; ".join([few, *correlation]), r=r)
    law = power_law.fit_power_law(x, y)
    if not law.determined:
        undetermined = f"{count} {noun} do not determine a power law: the best exponent is at an end of the grid"
        return Fit(series=series, description="; ".join([undetermined, *correlation]), r=r)
    band = power_law.bootstrap_band(x, [p.values or (p.y,) for p in chosen], np.geomspace(min(x), max(x), 60))
    return Fit(
        series=series,
        description="; ".join([*_describe_law(law, band, f"{len(chosen)} {noun}"), *correlation]),
        a=law.a,
        b=law.b,
        c=law.c,
        scale=law.scale,
        r=r,
        x=tuple(map(float, band.x)),
        y=tuple(map(float, law.evaluate(band.x))),
        low=tuple(map(float, band.low)),
        high=tuple(map(float, band.high)),
    )


def _describe_law(law: power_law.PowerLaw, band: power_law.BootstrapBand, points: str) -> list[str]:
    """Return parts of a caption: the formula with its error, and the bootstrap intervals."""
    offset = f"{law.a:.3g} + " if law.a else ""
    parts = [
        f"FID = {offset}{law.b:.3g} (C / {format_count(law.scale)})^-{law.c:.2f} through {points}, "
        f"RMS relative error {law.rms_error * 100:.0f} %",
        f"exponent {band.c[0]:.2f} to {band.c[1]:.2f}, offset {band.a[0]:.3g} to {band.a[1]:.3g} in 95 % of "
        f"{power_law.RESAMPLES:,} resamples",
    ]
    if band.undetermined > MAX_UNDETERMINED:
        parts.append(f"{band.undetermined:.0%} of the resamples determine no exponent")
    return parts


def _describe_correlation(points: Sequence[Point]) -> tuple[float | None, list[str]]:
    """Return Pearson's r and its description; (None, []) for too few points or constant values."""
    if len(points) < power_law.MIN_POINTS:
        return None, []
    try:
        result = power_law.pearson_correlation([p.x for p in points], [p.y for p in points])
    except ValueError:
        return None, []
    interval = f"95 % interval {result.low:.2f} to {result.high:.2f}"
    return result.r, [f"r of log C and FID {result.r:.2f} (n = {len(points)}, {interval})"]


def pareto_frontier(points: Sequence[Point]) -> list[Point]:
    """Select the points with a lower y than all points at the same or a smaller x, sorted by x."""
    best: list[Point] = []
    for p in sorted(points, key=lambda p: (p.x, p.y)):
        if not best or p.y < best[-1].y:
            best.append(p)
    return best
