"""Read a RunConfig from plain data and apply `--set` assignments to it.  Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from architectures.suggestions import did_you_mean
from bench.config.schema import RunConfig
from bench.config.validation import validate

POWER_OF_TEN = r"[+-]?\d+(\.\d+)?[eE]\+?\d+"
"""A number such as 2e6, which integer fields take too."""


def config_from_dict(data: Mapping[str, Any]) -> RunConfig:
    """Build a config from nested plain data; ValueError with one sentence on the first invalid value."""
    return validate(RunConfig, data)


def load_config(folder: Path) -> RunConfig:
    """Read the resolved config of a run's folder, its config.json."""
    return config_from_dict(json.loads((folder / "config.json").read_text()))


def apply_overrides(config: RunConfig, assignments: Mapping[str, str]) -> RunConfig:
    """Return the config with `--set` assignments applied: {"recipe.lr": "2e-4"}.

    Values are parsed by the type of their field.  Values below model.args are parsed as JSON, or kept as text if they
    are not JSON.  ValueError for an unknown key or an invalid value.
    """
    data = config.to_dict()
    for key, text in assignments.items():
        *path, last = key.split(".")
        node = data
        for i, part in enumerate(path):
            if not isinstance(node.get(part), dict):
                raise ValueError(_unknown_section(".".join(path[: i + 1])))
            node = node[part]
        is_data = re.fullmatch(POWER_OF_TEN, text) or text.startswith("[") or path[:2] == ["model", "args"]
        node[last] = parse_json_or_text(text) if is_data else text
    return config_from_dict(data)


def parse_json_or_text(text: str) -> Any:
    """Parse JSON text; return text that is not JSON unchanged."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _unknown_section(key: str) -> str:
    sections = [f.name for f in dataclasses.fields(RunConfig) if f.name not in ("track", "seed")]
    return f"unknown key {key!r}; {did_you_mean(key, sections)}"
