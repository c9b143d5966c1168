"""Paper tables filled from records: what was published beside what was measured, and the verdict.

The two have fields of their own and neither is ever made from the other.  Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .suites import Scale
from .verdicts import Order, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One value of a paper's table."""

    line: str
    """The row of the table, as the paper names it."""
    metric: str
    direction: Literal["lower", "higher", ""]
    published: float | None
    printed: str
    """The published number as it was printed; "" where there is none."""
    words: str
    """The outcome where the paper has no number."""
    source: str
    verified: str
    note: str
    cell: str
    """What was, or would be, measured at this scale: a cell of the suite, or a network; "" for nothing."""
    measured: float | None
    low: float | None
    high: float | None
    deviation: float | None
    """Over seeds; None of one."""
    seeds: int
    records: tuple[str, ...]
    """Ids."""
    difference: float | None
    """Measured minus published; only in the paper's own setting."""
    verdict: Verdict | Literal["", "reference"]
    """Of the number; "reference" where nothing here can be run; "" where only the order can be judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """A paper's table at one scale."""

    name: str
    title: str
    paper: str
    scale: Scale
    rows: tuple[Row, ...]
    order: Order | None
    """Of the variants; None where not all are measured, or the table has no order to judge."""
    verdict: Verdict | Literal["reference"]
    """Of the whole table."""
    cells: int
    """Lines that can be measured at this scale."""
    run: int
    """Lines that are."""
    commands: tuple[str, ...]
    """What runs the rest."""
    notes: tuple[str, ...]
    protocol: str = ""
    """In words, of what was measured; "" where nothing was."""
