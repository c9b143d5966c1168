"""Suites: what their cells are, what they share, and that a record finds its cell again."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import get_args

import pytest

from bench import run
from bench.config.identity import RESOLVED, SEED, configuration_key
from bench.config.overrides import config_from_dict
from bench.experiments import presets, resolve, suites
from bench.experiments.presets import RunRequest
from bench.records.record import read_records
from bench.runs import planning

EVERY = [(name, scale) for name, suite in suites.SUITES.items() for scale in suite.shared]
GRIDS = [name for name in suites.SUITES if name != "quickstart"]


def configs(name, scale):
    return {cell.name: presets.compose_config(cell.request) for cell in suites.suite_variants(name, scale)}


@pytest.mark.parametrize("name", GRIDS)
def test_suites_have_every_scale_and_three_seeds(name):
    suite = suites.SUITES[name]
    assert set(suite.shared) == set(get_args(suites.Scale))
    assert min(suite.seeds[scale] for scale in ("digits", "shapes")) >= 3
    assert set(configs(name, "digits")) & set(configs(name, "shapes"))


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_variants_of_a_suite_share_all_but_the_network(name, scale):
    variants = list(configs(name, scale).values())
    for part in ("budget", "data", "evaluation", "track"):
        assert all(getattr(c, part) == getattr(variants[0], part) for c in variants), part
    if scale != "paper":
        assert all(c.recipe == variants[0].recipe and c.diffusion == variants[0].diffusion for c in variants)


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_variants_are_equal_only_if_tables_share_a_row(name, scale):
    shared = {"Table 3: AdaGN", f"Table 2: {suites.UNET_GRIDS[scale].head_channels[1]} channels per head"}
    keys = suites.variant_keys(name, scale)
    assert len(set(keys.values())) == len(keys) - (shared < set(keys))


@pytest.mark.parametrize("name", suites.SUITES)
def test_every_toy_network_can_be_built_and_costs_are_solved(name):
    for config in configs(name, "digits").values():
        solved = resolve.with_solved_size(config)
        assert planning.counting.cost_of_config(solved, presets.network_io(solved)).macs > 0


@pytest.mark.parametrize("name", suites.SUITES)
def test_a_finished_run_has_the_key_of_its_variant(name):
    keys = suites.variant_keys(name, "digits")
    run_keys = []
    for wish in suites.suite_requests(name, "digits", RunRequest(seed=7, track=""), 1):
        config = resolve.with_solved_size(presets.compose_config(wish))
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, hash="filled in"))
        run_keys.append(configuration_key(json.loads(json.dumps(config.identity())), SEED + RESOLVED))
    assert len(run_keys) == len(set(run_keys)) and set(run_keys) == set(keys.values())


def test_a_family_has_one_design_at_all_three_costs():
    """The matcher starts from the laptop size at each cost, with its departures from the paper."""
    uvits = [c for name, c in configs("matched", "digits").items() if name.startswith("uvit")]
    models = [resolve.with_solved_size(c).model for c in uvits]
    assert [(m.solved["time_mlp"], m.solved["init_std"]) for m in models] == [(True, 0.1)] * 3


def test_another_budget_is_another_cell():
    config = presets.compose_config(suites.suite_variants("matched", "digits")[0].request)
    other = config_from_dict({**config.to_dict(), "budget": {"images": 10, "points": 1}})
    assert configuration_key(config.identity(), SEED + RESOLVED) != configuration_key(other.identity(), SEED + RESOLVED)


def test_paper_scale_uses_the_papers_recipes_and_sizes():
    variants = configs("dit-conditioning", "paper")
    assert {c.model.size for c in variants.values()} == {"XL/2"} and {c.track for c in variants.values()} == {"native"}
    assert {c.budget.images for c in variants.values()} == {400_000 * 256}
    assert {c.track for c in configs("matched", "paper").values()} == {"shared"}


def test_seeds_come_one_after_the_other_and_what_is_set_wins():
    base = RunRequest(seed=5, track="", settings={"budget.images": "9"})
    requests = suites.suite_requests("dit-conditioning", "digits", base, 2)
    assert [w.seed for w in requests] == [5] * 4 + [6] * 4
    assert {w.settings["budget.images"] for w in requests} == {"9"}
    assert len(suites.suite_requests("dit-conditioning", "digits", RunRequest(track=""))) == 12


def test_the_quickstart_is_three_backbones_at_one_cost():
    wishes = suites.suite_requests("quickstart", "digits", RunRequest(seed=3, track=""))
    assert [w.arch for w in wishes] == ["dit", "uvit", "unet"]
    assert {(w.match, w.seed, w.data) for w in wishes} == {("macs:unet:nano", 3, "digits")}


WRONG = [
    (["--scale", "digits"], "--scale and --seeds are for a --suite"),
    (["--suite", "matched", "--seeds", "0"], "must be at least 1"),
    (["--suite", "quickstart", "--scale", "paper"], "quickstart has no scale paper; it has digits"),
    (["--suite", "dit-scalling"], "did you mean dit-scaling"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG)
def test_a_contradiction_is_one_sentence(words, sentence, capsys):
    assert run.main([*words, "--dry-run"]) == 2
    assert sentence in capsys.readouterr().err


def test_the_studies_of_the_readme_are_the_committed_records():
    root = Path(__file__).parents[2]
    readme = (root / "results" / "README.md").read_text()
    records = {}
    for r in read_records(root / "results"):
        records.setdefault(configuration_key(r.config, SEED + RESOLVED) if r.config else r.label, []).append(r)
    cells = {name: records[key] for name, key in suites.variant_keys("matched", "digits").items()}
    assert all(len(runs) == suites.SUITES["matched"].seeds["digits"] for runs in cells.values())
    for cost in suites.MATCHED_REFERENCES["digits"]:
        row = []
        for arch in ("dit", "uvit", "unet"):
            fids = [r.metrics["fid[digits-cnn]"].value for r in cells[f"{arch} at {cost}"]]
            row.append(f"{mean(fids):.2f} ± {stdev(fids):.2f}")
        assert f"| {' | '.join(row)} |" in readme, cost


def test_readme_sampling_steps_match_the_records():
    root, fids = Path(__file__).parents[2], {}
    for r in read_records(root / "results"):
        if r.kind == "model" and r.config["model"].get("weights"):
            at = (r.config["model"]["args"]["patch"], round(r.cost.macs / 1e6, 1))
            fids.setdefault(at, {})[r.config["evaluation"]["steps"]] = r.metrics["fid[digits-cnn]"].value
    assert len(fids) == 6 and all(sorted(by_steps) == [4, 8, 16, 32] for by_steps in fids.values())
    for patch in (1, 2):
        by_cost = [by_steps for at, by_steps in sorted(fids.items()) if at[0] == patch]
        assert all(min(less.values()) > more[8] for less, more in pairwise(by_cost))
    words = f"{fids[1, 33.7][4]:.2f} at 33.7 M MACs, {fids[1, 14.8][8]:.2f} at 14.8 M with 8"
    assert words in (root / "results" / "README.md").read_text()
