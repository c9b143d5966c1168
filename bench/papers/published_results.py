"""Published results, one value a row: results/published/results.csv and ablations.csv.

Its README explains the columns; nothing in these files was measured by this project.  Imports no torch.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from bench.papers.published_networks import FOLDER

File = Literal["results", "ablations"]
UNSURE = ("memory", "approximate")
"""Words of `verified` under which a value is shown, but too uncertain to be reproduced."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """One published number, or one outcome that was published in words."""

    file: File
    columns: Mapping[str, str]
    """The row of the file, as it stands there."""
    metric: str
    printed: str
    """The number as printed; "" where the paper has none."""
    words: str
    """The outcome in words, where the paper has no number."""
    source: str
    verified: str
    note: str

    @property
    def number(self) -> float | None:
        return float(self.printed) if self.printed else None

    @property
    def sure(self) -> bool:
        """Whether it was read closely enough to be held to."""
        return sure(self.verified)


def sure(verified: str) -> bool:
    """Whether a value whose `verified` says so was read closely enough to be held to."""
    return not any(word in verified for word in UNSURE)


@cache
def values(file: File, folder: Path = FOLDER) -> tuple[Value, ...]:
    """Every value of a file, in its order."""
    with (folder / f"{file}.csv").open(newline="") as f:
        return tuple(_value(file, line) for line in csv.DictReader(f))


def _value(file: File, line: Mapping[str, str]) -> Value:
    return Value(
        file=file,
        columns=dict(line),
        metric=line["metric"],
        printed=line["value"],
        words=line.get("qualitative", ""),
        source=line["source"],
        verified=line["verified"],
        note=line["note"],
    )


def where(file: File, **columns: str | tuple[str, ...]) -> list[Value]:
    """The values whose columns are, or are among, what is given.

    >>> [v.printed for v in where("results", table="Table 4", model="DiT-B/4")]
    ['68.38']
    """
    wanted = {name: (value,) if isinstance(value, str) else value for name, value in columns.items()}
    return [v for v in values(file) if all(v.columns[name] in accepted for name, accepted in wanted.items())]
