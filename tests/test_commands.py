"""Tests of all commands: their flags equal the golden, and --help imports no heavy package."""

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import evalspeed, match, throughput
from bench.benchmarks import evaluation_speed, reference_speed
from bench.benchmarks import throughput as throughput_library
from bench.config.metric_specs import FID_EXTRACTORS
from bench.costs.matching import COST_KEYS
from bench.evaluation.extractors.extractor_registry import EXTRACTORS

FLAGS = json.loads((Path(__file__).parent / "goldens" / "flags.json").read_text())
"""Flags of every command at ff2ada1, and those that were added since.  A flag that scripts use is never removed."""
COMMANDS = sorted(path.stem for path in (Path(__file__).parents[1] / "bench").glob("[!_]*.py"))
HEAVY = ["torch", "sklearn", "matplotlib", "pandas", "diffusers", "datasets", "timm", "torchvision", "torch_fidelity"]


class ParserFound(Exception):
    """Carries the parser of a command out of its main."""


def flags_of(command, monkeypatch):
    """{name: properties} of the flags of a command."""

    def parse_args(parser, *_):
        raise ParserFound(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    with pytest.raises(ParserFound) as parser:
        importlib.import_module(f"bench.{command}").main([])
    return {
        " ".join(action.option_strings) or action.dest: {
            "action": type(action).__name__,
            "nargs": action.nargs,
            "choices": None if action.choices is None else list(action.choices),
            "default": str(action.default) if isinstance(action.default, Path) else action.default,
            "required": action.required,
        }
        for action in parser.value.args[0]._actions
        if not isinstance(action, argparse._HelpAction)
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_are_those_of_the_golden(command, monkeypatch):
    assert flags_of(command, monkeypatch) == FLAGS[command]


def test_every_command_of_the_golden_exists():
    assert set(FLAGS) == set(COMMANDS)


def test_help_imports_nothing_heavy():
    """All commands share a process, so an import is reported for the first command that makes it."""
    code = f"""
import contextlib, importlib, io, sys
heavy = set({HEAVY})
for command in {["run", *COMMANDS]}:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        importlib.import_module("bench." + command).main(["--help"])
    assert out.getvalue().startswith("usage: python -m bench." + command), out.getvalue()
    if command == "run":
        with contextlib.redirect_stdout(io.StringIO()):
            importlib.import_module("bench.run").main(["--list"])
    print(command, sorted(heavy & set(sys.modules)))
    heavy -= set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if not line.endswith("[]")] == []
    assert len(done.stdout.splitlines()) == len(COMMANDS) + 1


@pytest.mark.parametrize("command", ["status", "cancel"])
def test_status_and_cancel_start_at_once(command):
    code = f"import sys, bench.{command}; print(sorted(set(sys.modules) & {{'numpy', 'submitit'}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_choices_of_flags_are_those_of_the_libraries():
    """The commands repeat them, so that --help need not import torch."""
    assert tuple(evaluation_speed.EVALUATION_PARTS) == evalspeed.PARTS
    assert tuple(reference_speed.SIZES) == ("small", "large")
    assert (*COST_KEYS, "time") == match.COSTS
    assert throughput.MODES == throughput_library.MODES and set(throughput_library.SUITES) == {"small", "h100"}
    assert tuple(name for name, e in EXTRACTORS.items() if "fid" in e.layers) == FID_EXTRACTORS
