"""Read a RunConfig from plain data and apply `--set` assignments to it.  Imports no torch."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bench.config.fields import iterate_settings, parse_json_or_text
from bench.config.schema import RunConfig


@cache
def _adapter() -> TypeAdapter[RunConfig]:
    """Made once: that costs far more than a config's validation."""
    return TypeAdapter(RunConfig)


def config_from_dict(data: Mapping[str, Any]) -> RunConfig:
    """A config from nested plain data; ValueError says in a sentence what does not fit."""
    try:
        return _adapter().validate_python(data)
    except ValidationError as error:
        raise ValueError(_sentence(error)) from None


def load_config(folder: Path) -> RunConfig:
    """The resolved config of a run's folder, from its config.json."""
    return config_from_dict(json.loads((folder / "config.json").read_text()))


def apply_overrides(config: RunConfig, assignments: Mapping[str, str]) -> RunConfig:
    """The config with `--set` assignments applied: {"recipe.lr": "2e-4"}.

    Values are read by the type of their field; those below model.args as JSON, or else as text.
    """
    data = config.to_dict()
    for key, text in assignments.items():
        *path, last = key.split(".")
        node = data
        for i, part in enumerate(path):
            if not isinstance(node.get(part), dict):
                raise ValueError(_unknown(".".join(path[: i + 1]), _sections()))
            node = node[part]
        is_power = re.fullmatch(r"[+-]?\d+(\.\d+)?[eE]\+?\d+", text)
        is_data = is_power or text.startswith("[") or path[:2] == ["model", "args"]
        node[last] = parse_json_or_text(text) if is_data else text
    return config_from_dict(data)


def _sections() -> list[str]:
    return [f.name for f in dataclasses.fields(RunConfig) if f.name not in ("track", "seed")]


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5) or [k for k in known if k.endswith(f".{key}")]
    hint = f"did you mean {' or '.join(near)}?" if near else f"sections: {', '.join(_sections())}"
    return f"unknown setting {key!r}; {hint}"


def _sentence(error: ValidationError) -> str:
    """The first problem pydantic found, as a sentence."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if "error" in first.get("ctx", {}):
        return str(first["ctx"]["error"])
    if first["type"] == "unexpected_keyword_argument":
        return _unknown(key, [k for k, *_ in iterate_settings(RunConfig)])
    return f"{key} is {first['input']!r}; {first['msg'][0].lower()}{first['msg'][1:]}".replace(
        "input should", "it should"
    )
