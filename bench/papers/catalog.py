"""The papers' tables and figures, read from results/published/tables/*.toml on first use.

results/published/README.md says how to write one.  Imports no torch.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import TypeAdapter, ValidationError

from architectures.registry import did_you_mean
from bench.experiments import suites
from bench.experiments.suites import Scale
from bench.papers.published_networks import FOLDER
from bench.papers.schema import STRICT, Figure, Run, Table

Entry = dict[str, Any]


class Catalog(NamedTuple):
    """All tables and figures by name, in the order in which they are listed."""

    tables: dict[str, Table]
    figures: dict[str, Figure]


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperFile:
    """The tables and figures of a paper, as its file has them."""

    __pydantic_config__ = STRICT

    position: int
    """Rank of the file in listings."""
    paper: str
    """The paper of every entry that names no other."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Notes that tables share, by the name that their `shared_note` has."""
    tables: Mapping[str, Entry] = field(default_factory=dict)
    figures: Mapping[str, Entry] = field(default_factory=dict)


def tables() -> Mapping[str, Table]:
    """Every table by name."""
    return read(FOLDER / "tables").tables


def figures() -> Mapping[str, Figure]:
    """Every figure by name."""
    return read(FOLDER / "tables").figures


@cache
def read(folder: Path) -> Catalog:
    """The catalogue of a folder; ValueError names the file and the entry that is wrong, and why."""
    catalog = Catalog({}, {})
    files = [(path, _parse(path)) for path in sorted(folder.glob("*.toml"))]
    if not files:
        raise ValueError(f"{folder} holds no .toml file, so there are no tables")
    files.sort(key=lambda item: item[1].position)
    for path, file in files:
        for name, entry in file.tables.items():
            with _located(f"{path}, table {name}"):
                _check_name(name, entry, catalog)
                catalog.tables[name] = _table(name, entry, file)
    for path, file in files:
        for name, entry in file.figures.items():
            with _located(f"{path}, figure {name}"):
                _check_name(name, entry, catalog)
                catalog.figures[name] = _figure(name, entry, file, catalog)
    return catalog


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Begin the sentence of a ValueError with the place it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _validated(kind: Any, data: Entry) -> Any:
    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        raise ValueError(_sentence(error, kind)) from None


def _sentence(error: ValidationError, kind: Any) -> str:
    """The first problem that pydantic found, in words."""
    first = error.errors()[0]
    path, last = first["loc"][:-1], str(first["loc"][-1]) if first["loc"] else ""
    key = ".".join(map(str, first["loc"]))
    if "error" in first.get("ctx", {}):
        return str(first["ctx"]["error"])
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "unexpected_keyword_argument":
        known = [f.name for f in fields(Run if path[:1] == ("runs",) else kind) if f.name != "name"]
        return f"there is no key {key}; {did_you_mean(last, known)}"
    return f"{key} is {first['input']!r}; {first['msg'].replace('Input should', 'it should')}"


def _parse(path: Path) -> PaperFile:
    with _located(str(path)):
        file: PaperFile = _validated(PaperFile, tomllib.loads(path.read_text()))
    return file


def _check_name(name: str, entry: Entry, catalog: Catalog) -> None:
    if "name" in entry:
        raise ValueError("its name is that of its section; there is no key name")
    if name in catalog.tables or name in catalog.figures:
        raise ValueError("another table or figure has this name")


def _refuse_unknown(names: Iterable[str], known: Iterable[str], kind: str, place: str = "") -> None:
    for name in names:
        if name not in set(known):
            raise ValueError(f"there is no {kind} {name!r}{place}; {did_you_mean(name, list(known))}")


def _figure(name: str, entry: Entry, file: PaperFile, catalog: Catalog) -> Figure:
    figure: Figure = _validated(Figure, {"paper": file.paper, **entry, "name": name})
    _refuse_unknown(figure.tables, catalog.tables, "table")
    return figure


def _table(name: str, entry: Entry, file: PaperFile) -> Table:
    data: Entry = {"paper": file.paper, **entry, "name": name}
    if isinstance(data.get("cells"), dict):
        data["cells"] = _by_scale(data["cells"])
    if (shared := data.pop("shared_note", None)) is not None:
        _refuse_unknown([str(shared)], file.notes, "shared note")
        if "note" in data:
            raise ValueError("it has a note and a shared_note; one of them is enough")
        data["note"] = file.notes[shared]
    table: Table = _validated(Table, data)
    _check_names(table)
    return table


def _by_scale(cells: Entry) -> Entry:
    """Line -> cell, or line -> scale -> cell where the scales differ, as scale -> line -> cell."""
    scales: Entry = {scale: {} for scale in get_args(Scale)}
    for line, cell in cells.items():
        at = cell if isinstance(cell, dict) else dict.fromkeys(get_args(Scale), cell)
        for scale, name in at.items():
            scales.setdefault(scale, {})[line] = name
    return scales


def _check_names(table: Table) -> None:
    """Refuse columns that the file of values lacks, suites, and cells that the suite lacks."""
    _refuse_unknown([*table.where, *table.key], _columns(table.file), "column", f" in {table.file}.csv")
    if table.file == "models":
        _refuse_unknown(table.columns, _columns("models"), "column", " in models.csv")
    if table.suite:
        _refuse_unknown([table.suite], suites.SUITES, "suite")
    for scale, cells in table.cells.items():
        _refuse_unknown(cells.values(), [c.name for c in suites.at(table.suite, scale)], "cell", f" at {scale} scale")


@cache
def _columns(file: str) -> list[str]:
    with (FOLDER / f"{file}.csv").open(newline="") as f:
        return next(csv.reader(f))
