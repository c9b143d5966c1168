"""The papers' tables and figures, read from results/published/tables/*.toml on first use.

results/published/README.md explains how to write one.  Imports no torch.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

from architectures.suggestions import did_you_mean
from bench.config.validation import STRICT, validate
from bench.experiments import suites
from bench.experiments.suites import Scale
from bench.papers.published_networks import PUBLISHED_FOLDER
from bench.papers.schema import PaperFigure, PaperTable

TomlTable = dict[str, Any]


class Catalog(NamedTuple):
    """All tables and figures by name, in the order of listings."""

    tables: dict[str, PaperTable]
    figures: dict[str, PaperFigure]


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperFile:
    """Content of the TOML file of a paper."""

    __pydantic_config__ = STRICT

    position: int
    """Position of the file in listings."""
    paper: str
    """Paper of every entry, unless the entry names another."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Notes that several tables share, by the name in their `shared_note`."""
    tables: Mapping[str, TomlTable] = field(default_factory=dict)
    figures: Mapping[str, TomlTable] = field(default_factory=dict)


def tables() -> Mapping[str, PaperTable]:
    """Return all tables by name."""
    return read_catalog(PUBLISHED_FOLDER / "tables").tables


def figures() -> Mapping[str, PaperFigure]:
    """Return all figures by name."""
    return read_catalog(PUBLISHED_FOLDER / "tables").figures


@cache
def read_catalog(folder: Path) -> Catalog:
    """Read the files of a folder; ValueError names the file, the entry and the reason."""
    catalog = Catalog({}, {})
    files = [(path, _parse_file(path)) for path in sorted(folder.glob("*.toml"))]
    if not files:
        raise ValueError(f"{folder} holds no .toml file, so there are no tables")
    files.sort(key=lambda item: item[1].position)
    for path, file in files:
        for name, entry in file.tables.items():
            with _located(f"{path}, table {name}"):
                _check_name(name, entry, catalog)
                catalog.tables[name] = _parse_table(name, entry, file)
    for path, file in files:
        for name, entry in file.figures.items():
            with _located(f"{path}, figure {name}"):
                _check_name(name, entry, catalog)
                catalog.figures[name] = _parse_figure(name, entry, file, catalog)
    return catalog


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Prefix a ValueError with the file and the entry that it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _parse_file(path: Path) -> PaperFile:
    with _located(str(path)):
        file: PaperFile = validate(PaperFile, tomllib.loads(path.read_text()))
    return file


def _check_name(name: str, entry: TomlTable, catalog: Catalog) -> None:
    if "name" in entry:
        raise ValueError("the section gives the name; remove the key name")
    if name in catalog.tables or name in catalog.figures:
        raise ValueError("another table or figure has this name")


def _refuse_unknown(names: Iterable[str], known: Iterable[str], kind: str, place: str = "") -> None:
    for name in names:
        if name not in set(known):
            raise ValueError(f"there is no {kind} {name!r}{place}; {did_you_mean(name, known)}")


def _parse_figure(name: str, entry: TomlTable, file: PaperFile, catalog: Catalog) -> PaperFigure:
    figure: PaperFigure = validate(PaperFigure, {"paper": file.paper, **entry, "name": name})
    _refuse_unknown(figure.tables, catalog.tables, "table")
    return figure


def _parse_table(name: str, entry: TomlTable, file: PaperFile) -> PaperTable:
    data: TomlTable = {"paper": file.paper, **entry, "name": name}
    if isinstance(data.get("cells"), dict):
        data["cells"] = _group_by_scale(data["cells"])
    if (shared := data.pop("shared_note", None)) is not None:
        _refuse_unknown([str(shared)], file.notes, "shared note")
        if "note" in data:
            raise ValueError("it has a note and a shared_note; keep one of them")
        data["note"] = file.notes[shared]
    table: PaperTable = validate(PaperTable, data)
    _check_references(table)
    return table


def _group_by_scale(cells: TomlTable) -> TomlTable:
    """Turn line -> variant, or line -> scale -> variant, into scale -> line -> variant."""
    scales: TomlTable = {scale: {} for scale in get_args(Scale)}
    for line, cell in cells.items():
        at = cell if isinstance(cell, dict) else dict.fromkeys(get_args(Scale), cell)
        for scale, name in at.items():
            scales.setdefault(scale, {})[line] = name
    return scales


def _check_references(table: PaperTable) -> None:
    """Refuse columns that the file of values lacks, unknown suites, and variants that the suite lacks."""
    _refuse_unknown([*table.where, *table.key], _columns(table.file), "column", f" in {table.file}.csv")
    if table.file == "models":
        _refuse_unknown(table.columns, _columns("models"), "column", " in models.csv")
    if table.suite:
        _refuse_unknown([table.suite], suites.SUITES, "suite")
    for scale, cells in table.cells.items():
        _refuse_unknown(
            cells.values(), [v.name for v in suites.suite_variants(table.suite, scale)], "variant", f" at {scale} scale"
        )


@cache
def _columns(file: str) -> list[str]:
    with (PUBLISHED_FOLDER / f"{file}.csv").open(newline="") as f:
        return next(csv.reader(f))
