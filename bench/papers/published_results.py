"""Published results, one value per row of results/published/results.csv and ablations.csv.

The README there explains the columns.  Nothing in these files was measured by this project.  Imports no torch.
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
"""Words of `verified` that mark a value as too uncertain to be reproduced; it is still shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedValue:
    """A published number, or an outcome that was published in words."""

    file: ResultsFile
    columns: Mapping[str, str]
    """The row of the file, unchanged."""
    metric: str
    printed: str
    """The number as printed; "" if the paper has none."""
    words: str
    """The outcome in words, if the paper has no number."""
    source: str
    verified: str
    note: str

    @property
    def number(self) -> float | None:
        """The printed number; None if the paper has none."""
        return float(self.printed) if self.printed else None

    @property
    def certain(self) -> bool:
        """Whether a measurement may be judged by the value."""
        return is_certain(self.verified)


def is_certain(verified: str) -> bool:
    """Return whether `verified` says that a value was read exactly."""
    return not any(word in verified for word in UNCERTAIN_WORDS)


@cache
def read_values(file: ResultsFile, folder: Path = PUBLISHED_FOLDER) -> tuple[PublishedValue, ...]:
    """Read all values of a file, in its order."""
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
    """Select the values whose columns have these texts; a tuple accepts any of its texts.

    >>> [v.printed for v in select_values("results", table="Table 4", model="DiT-B/4")]
    ['68.38']
    """
    accepted = {name: (value,) if isinstance(value, str) else value for name, value in columns.items()}
    return [v for v in read_values(file) if all(v.columns[name] in texts for name, texts in accepted.items())]
