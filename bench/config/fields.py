"""The settings of a configuration with type, default and docstring, from pydantic's JSON schema.  Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bench.config.validation import adapter


class Setting(NamedTuple):
    """One setting, as `--set KEY=VALUE` takes it."""

    key: str
    """Key with its section, e.g. recipe.lr."""
    type: str
    """int, float, text, true|false, key=value, list, [low,high], or the choices a|b|c."""
    default: Any
    """Default value; {} for key=value."""
    doc: str
    """The docstring under the field, on one line."""


def iterate_settings(cls: type) -> Iterator[Setting]:
    """Yield every setting of a configuration class; sections are expanded in place."""
    schema = adapter(cls).json_schema()
    yield from _settings(schema, schema.get("$defs", {}), "")


def _settings(schema: Mapping[str, Any], sections: Mapping[str, Any], prefix: str) -> Iterator[Setting]:
    for name, entry in schema["properties"].items():
        if "$ref" in entry:
            section = sections[entry["$ref"].rpartition("/")[2]]
            yield from _settings(section, sections, f"{prefix}{name}.")
        else:
            doc = " ".join(entry.get("description", "").split())
            yield Setting(prefix + name, _type_name(entry), entry.get("default", {}), doc)


def _type_name(entry: Mapping[str, Any]) -> str:
    if "enum" in entry:
        return "|".join(map(str, entry["enum"]))
    if entry["type"] == "array":
        return "[low,high]" if "prefixItems" in entry else "list"
    names = {"integer": "int", "number": "float", "boolean": "true|false", "string": "text", "object": "key=value"}
    return names[entry["type"]]
