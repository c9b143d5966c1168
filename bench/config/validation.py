"""Check plain data against a dataclass with pydantic, and turn its errors into sentences.  Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from architectures.suggestions import did_you_mean

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Refuse unknown keys, NaN and infinity."""
SETTINGS = ConfigDict(**STRICT, use_attribute_docstrings=True)
"""STRICT, and docstrings of fields are read for --help, which takes twice as long."""
MAX_INPUT = 60
"""Characters of a wrong value that a message repeats; longer values are left out."""


def adapter(cls: Any) -> TypeAdapter[Any]:
    """Return pydantic's adapter of a class.  Building one costs far more than a validation, so each is cached."""
    return _cached_adapter(cls)


@cache
def _cached_adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def validate(cls: type[T], data: Any, prefix: str = "") -> T:
    """Build a `cls` from plain data.

    `prefix` stands before each key in messages, e.g. "slurm.".  ValueError names the first invalid key and the reason.
    """
    try:
        value: T = adapter(cls).validate_python(data)
    except ValidationError as error:
        raise ValueError(describe_errors(error, cls, prefix)[0]) from None
    return value


def validate_json(cls: type[T], text: str | bytes) -> T:
    """Build a `cls` from JSON text; ValueError as `validate` raises."""
    try:
        value: T = adapter(cls).validate_json(text)
    except ValidationError as error:
        raise ValueError(describe_errors(error, cls)[0]) from None
    return value


def describe_errors(error: ValidationError, cls: Any, prefix: str = "") -> list[str]:
    """Return one sentence for each problem that pydantic reports, without a full stop."""
    return [_describe(problem, cls, prefix) for problem in error.errors(include_url=False)]


def _describe(problem: ErrorDetails, cls: Any, prefix: str) -> str:
    path = [str(part) for part in problem["loc"]]
    key = prefix + ".".join(path)
    if isinstance(cause := problem.get("ctx", {}).get("error"), ValueError):  # raised by the class; names the key
        return str(cause)
    if problem["type"].startswith("missing"):
        return f"{key} is missing"
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown key {key!r}; {_suggest(cls, path, prefix)}"
    reason = f"{problem['msg'][0].lower()}{problem['msg'][1:]}".replace("input should", "it should")
    value = repr(problem["input"])
    if not path:
        return reason
    return f"{key} is {value}; {reason}" if len(value) <= MAX_INPUT else f"{key}: {reason}"


def _suggest(cls: Any, path: Sequence[str], prefix: str) -> str:
    """Suggest keys for the unknown last key of a path; if none is similar, list the keys of its section."""
    section = prefix + "".join(f"{part}." for part in path[:-1])
    names = list(setting_names(_class_at(cls, path[:-1])))
    return did_you_mean(path[-1], names, section, [name for name in names if "." not in name])


def setting_names(cls: Any) -> Iterator[str]:
    """Yield the keys of a dataclass; the keys of a section, which is a dataclass itself, follow as section.key."""
    if not is_dataclass(cls):
        return
    hints = get_type_hints(cls)
    for field in fields(cls):
        yield field.name
        yield from (f"{field.name}.{name}" for name in setting_names(hints[field.name]))


def _class_at(cls: Any, path: Sequence[str]) -> Any:
    """Return the type of the value at a path of keys, below dataclasses, mappings, sequences and optional values."""
    for part in path:
        cls = get_type_hints(cls)[part] if is_dataclass(cls) else _item_type(cls)
        while NoneType in get_args(cls):
            cls = _item_type(cls)
    return cls


def _item_type(hint: Any) -> Any:
    """Return X of Mapping[str, X], tuple[X, ...], list[X] and X | None."""
    return next((arg for arg in reversed(get_args(hint)) if arg not in (Ellipsis, NoneType)), None)
