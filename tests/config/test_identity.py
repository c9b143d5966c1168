"""Comparisons of configurations, checked on every committed record against plain definitions."""

import copy
import csv
import json
from pathlib import Path

import pytest

from bench.config.identity import (
    MATCHED_COST,
    NETWORK,
    RESOLVED,
    SAMPLING_STEPS,
    SEED,
    configuration_key,
    without,
)
from bench.config.overrides import apply_overrides
from bench.config.schema import RunConfig
from bench.experiments import presets
from bench.papers import run_matching
from bench.records.leaderboard import group_id
from bench.records.record import read_records

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def models():
    return [r for r in read_records(RESULTS) if r.kind == "model"]


def dropped(data, *keys):
    """A copy without some keys of one level."""
    return {k: v for k, v in data.items() if k not in keys}


def suite_variant(r):
    c = copy.deepcopy(dict(r.config))
    del c["seed"], c["data"]["hash"], c["evaluation"]["decoder_hash"]
    c["model"] = dropped(c["model"], "solved", "weights", "io")
    return c


def leaderboard_row(r):
    return [r.fingerprint, r.label, dropped(r.config, "seed")]


def shared_axis(r):
    return [r.evaluation_fingerprint, dropped(r.protocol["training"], "match")]


def steps_panel(r):
    return [dropped(r.protocol["evaluation"], "steps"), dropped(r.protocol["training"], "match")]


def steps_curve(r):
    return [steps_panel(r), r.config["model"]]


def published_row(r, trained):
    c = r.config
    hidden = ["decoder", "decoder_hash", "seed", "weights", "batch"]
    hidden += ["guidance_channels", "guidance_interval"] if c["evaluation"]["guidance"] == 1 else []
    model = [c["model"][k] for k in ("arch", "size", "args", "match")]
    row = [model, c["data"]["name"], dropped(c["evaluation"], *hidden)]
    return [*row, c["diffusion"], c["recipe"], c["budget"]["images"]] if trained else row


def without_steps(r, *ignored):
    run = {**r.protocol, "model": r.config["model"], "seed": r.config["seed"]}
    return configuration_key(run, (*SAMPLING_STEPS, *MATCHED_COST, *ignored))


COMPARISONS = {
    "suite variant": (suite_variant, lambda r: configuration_key(r.config, SEED + RESOLVED)),
    "leaderboard row": (leaderboard_row, group_id),
    "shared axis": (shared_axis, lambda r: configuration_key(r.protocol, MATCHED_COST)),
    "panel of sampling steps": (steps_panel, lambda r: without_steps(r, *SEED, *NETWORK)),
    "curve of sampling steps": (steps_curve, lambda r: without_steps(r, *SEED)),
    "published row": (lambda r: published_row(r, True), lambda r: run_matching.setting_key(r.config, trained=True)),
    "published weights": (
        lambda r: published_row(r, False),
        lambda r: run_matching.setting_key(r.config, trained=False),
    ),
}


def groups(records, key):
    by_key = {}
    for r in records:
        by_key.setdefault(key(r), []).append(r.id)
    return sorted(by_key.values())


@pytest.mark.parametrize("name", COMPARISONS)
def test_committed_records_are_grouped_as_defined(name, models):
    definition, key = COMPARISONS[name]
    expected = groups(models, lambda r: json.dumps(definition(r), sort_keys=True))
    assert groups(models, key) == expected and 1 < len(expected) < len(models)


def test_leaderboard_groups_keep_their_ids(models):
    with (RESULTS / "leaderboard.csv").open(newline="") as f:
        committed = {row["record"]: row["group"] for row in csv.DictReader(f)}
    assert all(committed[r.id] == group_id(r) for r in models)


def test_identity_ignores_the_machine():
    config = RunConfig()
    moved = apply_overrides(
        config,
        {
            "data.root": "/elsewhere",
            "evaluation.weights": "w.pth",
            "evaluation.decoder": "vae",
            "evaluation.batch": "3",
            "compute.threads": "2",
        },
    )
    assert moved.identity() == config.identity() and moved.name == config.name
    assert apply_overrides(config, {"evaluation.steps": "50"}).identity() != config.identity()


def test_identity_names_the_data_without_its_folder():
    config = presets.compose_config(presets.RunRequest(data="digits"))
    assert apply_overrides(config, {"data.name": "/home/anne/cats.tar"}).identity()["data"]["name"] == "cats"


def test_without_copies_only_what_it_changes():
    data = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert without(data, ["a.c.d", "e", "no.such", "a.no"]) == {"a": {"b": 1, "c": {}}}
    assert data == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
