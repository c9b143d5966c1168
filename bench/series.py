"""What the figures show, as plain data made from records: bench.figures draws it, bench.report too.  Imports no torch.

A figure is one or more panels; a panel is one pair of axes, and holds the FIDs of one protocol only.  What papers
published has panels of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
    missing: str = ""
    """The command that runs what is not there yet; "" where nothing is missing."""
