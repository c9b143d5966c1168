"""What a paper's table is made of: which published values it holds, and what would measure them.

A line of a table is measured by a cell of a suite (bench/suites.py), by a run of the paper's own network and recipe
or its published weights, or by nothing here: then it is a published reference.  Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .suites import Scale
from .verdicts import Pair

Accepted = str | tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The paper's own network; guidance, steps and samples are those of the published row."""

    arch: str
    size: str
    data: str = ""
    """"" is the paper's, as bench.run implies it."""
    weights: str = ""
    """File of the published weights that the row was measured on; "" where the row can only be trained."""
    settings: Mapping[str, str] = field(default_factory=dict)
    told: bool = True
    """Whether a record says all that tells this row from the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table, or the numbers behind a figure."""

    name: str
    title: str
    paper: str
    file: Literal["results", "ablations", "models"]
    where: Mapping[str, Accepted]
    """Column -> value or values: the published rows that are its own."""
    key: tuple[str, ...] = ("model",)
    """Columns whose texts name a line."""
    columns: tuple[str, ...] = ("param_m", "gflops")
    """Of models.csv, what is shown."""
    suite: str = ""
    cells: Mapping[Scale, Mapping[str, str]] = field(default_factory=dict)
    """Scale -> line -> cell of the suite."""
    elsewhere: bool = False
    """Whether the suite's paper scale is another setting than the paper's, so that only the order is judged."""
    runs: Mapping[str, Run] = field(default_factory=dict)
    """Line -> its run, where no suite has it."""
    better: tuple[Pair, ...] = ()
    """(better, worse) lines, where the paper says it in words; else the printed numbers order the lines."""
    no_gain: tuple[Pair, ...] = ()
    """(variant, other): the paper finds the first no better."""
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A figure whose points are the numbers of tables; python -m bench.figures draws the like from records."""

    name: str
    title: str
    paper: str
    tables: tuple[str, ...]
    drawn: str
    """Its like in bench.figures."""


DIT, UVIT, ADM, LDM = "arXiv:2212.09748", "arXiv:2209.12152", "arXiv:2105.05233", "arXiv:2112.10752"
GENTRON, GENVIT, UDIT = "arXiv:2312.04557", "arXiv:2208.07791", "arXiv:2405.02730"
OTHERS = "results/published/README.md"

CLASSES = "ImageNet class-cond"
AT_512 = "imagenet512-latents"


def same(lines: tuple[str, ...] | list[str]) -> dict[str, str]:
    return {line: line for line in lines}


def small(digits: dict[str, str], shapes: dict[str, str] | None = None, **paper: dict[str, str]) -> dict[Scale, dict]:
    return {**paper, "digits": digits, "shapes": shapes or digits}  # type: ignore[dict-item]
