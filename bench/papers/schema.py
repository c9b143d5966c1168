"""Schema of a paper's table: its published values, and the runs that measure them.

A line of a table is measured by a variant of a suite (experiments/suites.py), or by a run of the paper's own network
with its recipe or its published weights.  A line without either is a published reference.  Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from bench.config.validation import STRICT
from bench.experiments.suites import Scale
from bench.papers.verdicts import OrderedPair

TableFile = Literal["results", "ablations", "models"]
DEFAULT_KEYS: Mapping[TableFile, tuple[str, ...]] = {
    "results": ("model",),
    "ablations": ("variant",),
    "models": ("model", "resolution"),
}
"""Columns that name a line, unless the table names others."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRun:
    """A run of the paper's own network; guidance, steps and samples are those of the published row."""

    __pydantic_config__ = STRICT

    arch: str
    size: str
    data: str = ""
    """Data set; "" selects the paper's, which is the default of bench.run."""
    weights: str = ""
    """File of the published weights that the row was measured on; "" if the row can only be trained."""
    settings: Mapping[str, str] = field(default_factory=dict)
    identifiable: bool = True
    """False if a record cannot distinguish this row from others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperTable:
    """A table of a paper, or the numbers behind a figure."""

    __pydantic_config__ = STRICT

    name: str
    title: str
    paper: str
    file: TableFile
    where: Mapping[str, Annotated[tuple[str, ...], BeforeValidator(_listed)]]
    """Column -> accepted texts: the published rows of this table."""
    key: tuple[str, ...] = ()
    """Columns whose texts name a line; () selects DEFAULT_KEYS."""
    columns: tuple[str, ...] = ("param_m", "gflops")
    """Columns of models.csv to compare."""
    suite: str = ""
    cells: Mapping[Scale, Mapping[str, str]] = field(default_factory=dict)
    """Scale -> line -> variant of the suite."""
    order_only: bool = False
    """True if the suite's paper scale differs from the paper's setting, so that only the order is judged."""
    runs: Mapping[str, PaperRun] = field(default_factory=dict)
    """Line -> its run, for lines that no suite measures."""
    better: tuple[OrderedPair, ...] = ()
    """(better, worse) lines, if the paper orders them in words; otherwise the printed numbers order the lines."""
    no_gain: tuple[OrderedPair, ...] = ()
    """(variant, other) lines: in the paper the variant is no better than the other."""
    note: str = ""

    def __post_init__(self) -> None:
        if bool(self.suite) != bool(self.cells):
            raise ValueError("suite and cells need each other")
        if not self.key:
            object.__setattr__(self, "key", DEFAULT_KEYS[self.file])


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperFigure:
    """A figure whose points are the numbers of tables; python -m bench.figures draws a similar one from records."""

    __pydantic_config__ = STRICT

    name: str
    title: str
    paper: str
    tables: tuple[str, ...]
    drawn: str
    """Name of the similar figure in bench.figures."""
