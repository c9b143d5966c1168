"""Messages for plain data that does not match a dataclass."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from bench.config.validation import STRICT, adapter, setting_names, validate, validate_json


@dataclass(frozen=True, kw_only=True)
class Part:
    __pydantic_config__ = STRICT
    rate: float = 1.0

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"part.rate is {self.rate}; it must be at least 0")


@dataclass(frozen=True, kw_only=True)
class Whole:
    __pydantic_config__ = STRICT
    name: str
    part: Part = field(default_factory=Part)
    parts: Mapping[str, Part | None] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({}, "name is missing"),
        ({"name": 1}, "name is 1; it should be a valid string"),
        ({"name": "a" * 99, "part": {"rate": "b" * 99}}, "part.rate: it should be a valid number"),
        ({"name": "a", "part": {"rate": float("nan")}}, "part.rate is nan; it should be a finite number"),
        ({"name": "a", "part": {"rate": -1}}, "part.rate is -1.0; it must be at least 0"),
        ({"name": "a", "part": {"rat": 1}}, "unknown key 'part.rat'; did you mean part.rate?"),
        ({"name": "a", "rate": 1}, "unknown key 'rate'; did you mean part.rate"),
        ({"name": "a", "luck": 1}, "unknown key 'luck'; known: name, part, parts"),
        ({"name": "a", "parts": {"x": {"rat": 1}}}, "unknown key 'parts.x.rat'; did you mean parts.x.rate?"),
    ],
)
def test_the_first_problem_is_a_sentence(data, sentence):
    with pytest.raises(ValueError) as error:
        validate(Whole, data)
    assert str(error.value).startswith(sentence)


def test_a_prefix_stands_before_keys_and_suggestions():
    with pytest.raises(ValueError, match=r"unknown key 'slurm\.nam'; did you mean slurm\.name\?"):
        validate(Whole, {"name": "a", "nam": "a"}, prefix="slurm.")


def test_json_is_validated_too():
    assert validate_json(Whole, '{"name": "a"}') == Whole(name="a")
    with pytest.raises(ValueError, match=r"^invalid JSON: "):
        validate_json(Whole, "{")


def test_names_of_settings_include_those_of_sections():
    assert list(setting_names(Whole)) == ["name", "part", "part.rate", "parts"]
    assert adapter(Whole) is adapter(Whole)
