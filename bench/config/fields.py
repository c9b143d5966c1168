"""What a configuration's fields are called, may be and mean, read from its dataclasses."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints


def iterate_settings(cls: type, prefix: str = "") -> Iterator[tuple[str, str, Any, str]]:
    """(key, type, default, docstring) of every field, sections flattened."""
    docs, hints = _docstrings(cls), get_type_hints(cls)
    for f in dataclasses.fields(cls):
        hint = hints[f.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from iterate_settings(hint, f"{prefix}{f.name}.")
        else:
            default = f.default if f.default is not dataclasses.MISSING else {}
            yield f"{prefix}{f.name}", _type_name(hint), default, docs.get(f.name, "")


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return "list" if get_args(hint)[-1] is Ellipsis else "[low,high]"
    return {int: "int", float: "float", bool: "true|false", str: "text"}.get(hint, "key=value")


def _docstrings(cls: type) -> dict[str, str]:
    """Attribute docstrings: the string under each field."""
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs


def parse_json_or_text(text: str) -> Any:
    """JSON, or else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
