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

from bench.papers.published_networks import PUBLISHED_FOLDER

ResultsFile = Literal["results", "ablations"]
UNCERTAIN_WORDS = ("memory", "approximate")
"""Words of `verified` under which a value is shown, but too uncertain to be reproduced."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedValue:
    """One published number, or one outcome that was published in words."""

    file: ResultsFile
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
        return is_certain(self.verified)


def is_certain(verified: str) -> bool:
    """Whether a value whose `verified` says so was read closely enough to be held to."""
    return not any(word in verified for word in UNCERTAIN_WORDS)


@cache
def read_values(file: ResultsFile, folder: Path = PUBLISHED_FOLDER) -> tuple[PublishedValue, ...]:
    """Every value of a file, in its order."""
    with (folder / f"{file}.csv").open(newline="") as f:
        return tuple(_parse_value(file, line) for line in csv.DictReader(f))


def _parse_value(file: ResultsFile, line: Mapping[str, str]) -> PublishedValue:
    return PublishedValue(
        file=file,
        columns=dict(line),
        metric=line["metric"],
        printed=line["value"],
        words=line.get("qualitative", ""),
        source=line["source"],
        verified=line["verified"],
        note=line["note"],
    )


def select_values(file: ResultsFile, **columns: str | tuple[str, ...]) -> list[PublishedValue]:
    """The values whose columns are, or are among, what is given.

    >>> [v.printed for v in where("results", table="Table 4", model="DiT-B/4")]
    ['68.38']
    """
    wanted = {name: (value,) if isinstance(value, str) else value for name, value in columns.items()}
    return [v for v in read_values(file) if all(v.columns[name] in accepted for name, accepted in wanted.items())]
