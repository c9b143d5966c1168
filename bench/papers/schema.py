"""Schema of a paper's table: the published values it holds, and what would measure them.

A line of a table is measured by a cell of a suite (experiments/suites.py), by a run of the paper's own network and
recipe or its published weights, or by nothing here: then it is a published reference.  Imports no torch.
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
"""Columns that name a line of a table which names none."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRun:
    """The paper's own network; guidance, steps and samples are those of the published row."""

    __pydantic_config__ = STRICT

    arch: str
    size: str
    data: str = ""
    """"" is the paper's, as bench.run implies it."""
    weights: str = ""
    """File of the published weights that the row was measured on; "" where the row can only be trained."""
    settings: Mapping[str, str] = field(default_factory=dict)
    identifiable: bool = True
    """Whether a record holds everything that distinguishes this row from the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperTable:
    """A table, or the numbers behind a figure."""

    __pydantic_config__ = STRICT

    name: str
    title: str
    paper: str
    file: TableFile
    where: Mapping[str, Annotated[tuple[str, ...], BeforeValidator(_listed)]]
    """Column -> accepted texts: the published rows of this table."""
    key: tuple[str, ...] = ()
    """Columns whose texts name a line; () becomes those of KEYS."""
    columns: tuple[str, ...] = ("param_m", "gflops")
    """Columns of models.csv that are shown."""
    suite: str = ""
    cells: Mapping[Scale, Mapping[str, str]] = field(default_factory=dict)
    """Scale -> line -> cell of the suite."""
    order_only: bool = False
    """Whether the suite's paper scale is another setting than the paper's, so that only the order is judged."""
    runs: Mapping[str, PaperRun] = field(default_factory=dict)
    """Line -> its run, where no suite has it."""
    better: tuple[OrderedPair, ...] = ()
    """(better, worse) lines, where the paper says it in words; else the printed numbers order the lines."""
    no_gain: tuple[OrderedPair, ...] = ()
    """(variant, other): the paper finds the first no better."""
    note: str = ""

    def __post_init__(self) -> None:
        if bool(self.suite) != bool(self.cells):
            raise ValueError("suite and cells need each other")
        if not self.key:
            object.__setattr__(self, "key", DEFAULT_KEYS[self.file])


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperFigure:
    """A figure whose points are the numbers of tables; python -m bench.figures draws the like from records."""

    __pydantic_config__ = STRICT

    name: str
    title: str
    paper: str
    tables: tuple[str, ...]
    drawn: str
    """Its like in bench.figures."""
