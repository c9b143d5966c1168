"""python -m bench.leaderboard --check: what is right passes, and each thing that is wrong is said."""

import contextlib
import dataclasses
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from factories import config_of, full_record, plain, short_record
from helpers import replaced
from submissions import check, data_of, drop, put, signed

from bench import leaderboard
from bench.config.overrides import config_from_dict
from bench.experiments import presets
from bench.records import failures, protocol, record, submission_check
from bench.records.protocol import fingerprint

REPOSITORY = Path(__file__).parents[2] / "results"


def matched():
    """A config whose size was solved."""
    return replaced(config_of(), "model", size="", match="macs:unet:nano", solved={"depth": 4, "width": 104})


@pytest.fixture(autouse=True)
def uncounted(request, monkeypatch):
    """Networks are counted only where a test is about that: it starts a process with torch."""
    if "recount" not in request.node.name:
        monkeypatch.setattr(submission_check, "recount_networks", lambda paths: {})


GOOD = {
    "shared": lambda: full_record(),
    "matched": lambda: full_record(matched()),
    "unguided": lambda: full_record(config_of("uvit", evaluation__guidance=1)),
    "guided within an interval": lambda: full_record(config_of(evaluation__guidance_interval="[0.1,0.7]")),
    "one evaluation point": lambda: full_record(config_of("unet", budget__points=1)),
    "seeds": lambda: full_record(config_of(seed=7)),
    "another batch and other paths": lambda: full_record(config_of(evaluation__batch=3, data__root="/home/anne/data")),
}


@pytest.mark.parametrize("kind", GOOD)
def test_good_record_is_told_its_rank(kind, tmp_path, capsys):
    one, results = GOOD[kind](), tmp_path / "results"
    record.publish_record(results, dataclasses.replace(full_record(config_of(seed=9), fid=0.1)))
    status, wrong, said = check(data_of(one), results, capsys)
    assert (status, wrong) == (0, []) and said.count("\n") == 1
    assert f"{one.label}, rank " in said and one.fingerprint in said
    assert not (results / "leaderboard.md").exists()


def test_a_record_of_native_recipe_is_good(tmp_path, capsys):
    config = presets.compose_config(presets.RunRequest(arch="unet", size="DDPM-32", track="native", data="shapes"))
    one = full_record(config, more={})
    status, wrong, said = check(data_of(one), tmp_path / "results", capsys)
    assert status == 2 and all("other features than the protocol's shapes-cnn" in line for line in wrong)
    data = data_of(one)
    rename = lambda names: {k.replace("digits", "shapes"): v for k, v in names.items()}  # noqa: E731
    data["metrics"] = rename(data["metrics"])
    data["curve"] = [{**p, "metrics": rename(p["metrics"])} for p in data["curve"]]
    status, wrong, said = check(data, tmp_path / "results", capsys)
    assert (status, wrong) == (0, []) and "no other record names shapes" in said


def test_a_record_of_published_weights_is_good(tmp_path, capsys):
    io = {"channels": 1, "size": 8, "num_classes": 10, "null_label": True, "variance": "fixed"}
    io |= {"text_dim": 0, "text_tokens": 0, "image_channels": 0}
    config = config_of(evaluation__guidance=1).to_dict()
    config["model"] |= {"weights": "c" * 64, "io": io}
    config = config_from_dict({**config, "track": "published", "budget": {"images": 0, "points": 1}})
    data = data_of(dataclasses.replace(base(config)))
    status, wrong, said = check(data, tmp_path / "results", capsys)
    assert (status, wrong) == (0, []) and "unranked" in said


def base(config):
    """The record of weights that others trained: no images, so no training cost."""
    trained = full_record(config_of(evaluation__guidance=1))
    parts = {
        "evaluation": trained.protocol["evaluation"],
        "training": protocol.training_protocol(config, native={}, match_target=None),
    }
    identity, print_ = plain(config.identity()), fingerprint(parts)
    cost = dataclasses.replace(trained.cost, training_flops=None, images_per_second=None, accelerator_hours=0.0)
    return dataclasses.replace(
        trained,
        id=record.record_id(config.model.label, identity, print_),
        label=config.model.label,
        config=identity,
        protocol=parts,
        fingerprint=print_,
        cost=cost,
        curve=[{"images": 0, "metrics": {k: m.value for k, m in trained.metrics.items()}}],
        losses=[],
        checkpoint={"crc32": "01234567", "images": 0, "weights": "c" * 64},
    )


def test_a_record_of_a_failure_is_good(tmp_path, capsys):
    config = matched()
    parts = failures.unfinished_protocol(config)
    parts, identity = plain(parts), plain(config.identity())
    print_ = fingerprint(parts)
    one = dataclasses.replace(
        full_record(config),
        **dict(id=record.record_id(config.model.label, identity, print_), protocol=parts, fingerprint=print_),
        **dict(evaluation_fingerprint=fingerprint(parts["evaluation"]), status="failed", error="the loss is nan"),
        **dict(metrics={}, cost=None, curve=[], losses=[], checkpoint=None),
    )
    assert check(data_of(one), tmp_path / "results", capsys)[:2] == (0, [])


def test_every_committed_record_is_good(capsys):
    paths = sorted(map(str, record.records_folder(REPOSITORY).glob("*.json")))
    status = leaderboard.main(["--results", str(REPOSITORY), "--check", *paths])
    said = capsys.readouterr()
    assert (status, said.err) == (0, "") and said.out.count("is good") == len(paths) > 0


FID = "metrics/fid[digits-cnn]"
SOON = (datetime.now(UTC) + timedelta(days=2)).isoformat(timespec="seconds")
WRONG = {
    "another version": (put("protocol/evaluation/version", 2), "version is 2; this version measures by 3"),
    "protocol against config": (put("protocol/evaluation/steps", 32), "steps is 32; by its config it would be 16"),
    "a recipe that config lacks": (put("protocol/training/recipe/lr", 0.1), "recipe.lr is 0.1; by its config"),
    "protocol without a field": (drop("protocol/evaluation/eta"), "protocol.evaluation.eta is missing"),
    "protocol with another": (put("protocol/training/luck", 1), "protocol.training.luck is unknown"),
    "no hash": (put("protocol/evaluation/extractor_hash", ""), "extractor_hash is ''"),
    "another extractor": (put("protocol/evaluation/extractor_hash", "f" * 64), "extractor_hash of digits-cnn is ffff"),
    "another reference": (put("protocol/evaluation/reference_hash", "f" * 64), "reference_hash of digits is ffff"),
    "another count": (put("protocol/evaluation/reference_count", 9), "reference_count of digits is 9; the committed"),
    "an impossible config": (put("config/recipe/lr", -1), "recipe.lr is -1.0; it must be greater than 0"),
    "an unknown key": (put("config/recipe/luck", 1), "unknown key 'recipe.luck'"),
    "a setting too few": (drop("config/recipe/lr"), "config.recipe.lr is missing"),
    "another label": (put("label", "dit XL/2"), "label is 'dit XL/2'; that of its config is 'dit nano/2'"),
    "no such size": (put("config/model/size", "nano/9"), "unknown size 'nano/9' of dit; did you mean nano/"),
    "another direction": (put(f"{FID}/direction", "higher"), "direction is higher; of fid lower is better"),
    "a value beyond all": (put("metrics/recall[digits-cnn]/value", 1.2), "value is 1.2; it must be from 0 to 1"),
    "below zero": (put(f"{FID}/value", -1.0), "value is -1; it must be from 0 to inf"),
    "outside its interval": (put(f"{FID}/interval/low", 2.0), "interval is 2 to 1.05; it must hold the value, 1"),
    "no interval": (put(f"{FID}/interval", None), "fid[digits-cnn] has no interval"),
    "other samples": (put(f"{FID}/samples", 50_000), "samples is 50000; the protocol says 1000"),
    "an unknown metric": (
        lambda d: d["metrics"].update({"fod[digits-cnn]": d["metrics"]["fid[digits-cnn]"]}),
        "metrics.fod[digits-cnn] is unknown; did you mean fid",
    ),
    "no fid": (drop(FID), "metrics have no fid, which rows are ranked by"),
    "another end of the curve": (
        put("curve/2/metrics/fid[digits-cnn]", 1.5),
        "last point of curve is not what metrics",
    ),
    "a point too few": (drop("curve/0"), "there should be 3, rising"),
    "a curve that goes on": (put("curve/2/images", 200_000), "curve ends at 200000 images; the budget is 111000"),
    "a curve beyond all": (
        put("curve/0/metrics/recall[digits-cnn]", 7),
        "curve has recall[digits-cnn] 7 at 37000 images",
    ),
    "losses that fall back": (put("losses/3", [1, 0.5]), "losses are not at rising numbers of images"),
    "flops": (put("cost/flops", 7), "cost.flops is 7; from the rest of the record it would be 2000000"),
    "training flops": (put("cost/training_flops", 10**12), "cost.training_flops is 1000000000000; from the rest"),
    "sampling flops": (put("cost/sampling_flops_per_image", 1), "cost.sampling_flops_per_image is 1; from the rest"),
    "guidance": (put("cost/guidance_multiplier", 1), "cost.guidance_multiplier is 1; from the rest"),
    "no speed": (put("cost/images_per_second", None), "both must be above 0"),
    "too little time": (put("cost/accelerator_hours", 0.01), "images a second for 36 s are 18,000 of 111,000"),
    "impossible speed": (
        lambda d: d["cost"].update(images_per_second=1e12, accelerator_hours=1e-9),
        "none computes above 5e+15",
    ),
    "more than the peak": (put("cost/mfu", 1.5), "cost.mfu is 1.5; it is a share of the peak"),
    "no memory": (put("cost/peak_memory_bytes", 0), "cost.peak_memory_bytes is 0"),
    "other weights": (put("checkpoint/images", 5), "checkpoint.images is 5; by its config it would be 111000"),
    "no checksum": (put("checkpoint/crc32", "abc"), "checkpoint.crc32 is no checksum"),
    "tomorrow": (put("created", SOON), "in the future"),
    "no date": (put("created", "yesterday"), "created is 'yesterday'; it must be a date and time"),
    "no offset": (put("created", "2026-11-22T00:00:00"), "without its offset from UTC"),
    "no commit": (put("environment/commit", None), "environment.commit is None; run from a checkout"),
    "a changed checkout": (put("environment/dirty", True), "the code had changes that no commit has"),
    "a path": (
        put("environment/device", "see /home/anne/gpu"),
        "environment.device names a folder of a machine, /home/anne",
    ),
    "an unknown field": (lambda d: d.update(luck=1), "unknown key 'luck'; known: "),
    "a text for a number": (put("cost/macs", "many"), "cost.macs is 'many'; it should be a valid integer"),
    "no cost": (put("cost", None), "a model's record needs its cost"),
    "no evaluation": (drop("protocol/evaluation"), "protocol has no evaluation"),
    "no training": (drop("protocol/training"), "it is not laid out as a record: KeyError 'training'"),
    "a config that is none": (put("config/model", 3), "config.model is 3; it should be a valid dictionary"),
    "an architecture of their own": (put("config/model/arch", "spy:Net"), "'spy:Net', which is not registered in"),
    "no such architecture": (put("config/model/arch", "ditt"), "'ditt', which is not registered in"),
    "no network": (put("config/model/size", ""), "neither size nor arguments, so nobody can build"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_each_fault_is_reported_in_a_line(fault, tmp_path, capsys):
    change, sentence = WRONG[fault]
    record.publish_record(tmp_path / "results", full_record(config_of(seed=9)))
    data = data_of(full_record())
    change(data)
    with contextlib.suppress(KeyError):  # signed anew: this is about what a signature does not show
        signed(data)
    status, wrong, said = check(data, tmp_path / "results", capsys)
    assert (status, said) == (2, "") and any(sentence in line for line in wrong), wrong
    assert len(wrong) <= 4 and all(wrong)


def test_edited_number_contradicts_the_others(tmp_path, capsys):
    data = data_of(full_record())
    data["metrics"]["fid[digits-cnn]"]["value"] = 0.5
    _, wrong, _ = check(data, tmp_path / "results", capsys)
    assert sorted(wrong) == [
        "metrics.fid[digits-cnn].interval is 0.95 to 1.05; it must hold the value, 0.5, from 0 to inf",
        "the last point of curve is not what metrics say",
    ]


def test_all_faults_are_reported_at_once(tmp_path, capsys):
    data = data_of(full_record())
    data["fingerprint"] = "0" * 12
    data["environment"]["dirty"] = True
    data["cost"]["flops"] += 1
    data["created"] = SOON
    _, wrong, _ = check(data, tmp_path / "results", capsys)
    assert len(wrong) == 4
    for words in ("fingerprint is '000000000000'", "dirty is not false", "cost.flops", "in the future"):
        assert sum(words in line for line in wrong) == 1, words


ALTERED = {
    "id": (put("id", "dit-000000000000"), "id is 'dit-000000000000'; that of its content is "),
    "config": (put("config/seed", 5), "id is "),
    "protocol": (put("protocol/evaluation/seed", 5), "fingerprint is "),
    "evaluation": (put("evaluation_fingerprint", "f" * 12), "evaluation_fingerprint is 'ffffffffffff'"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_altered_record_is_found_by_its_hashes(what, tmp_path, capsys):
    change, sentence = ALTERED[what]
    data = data_of(full_record())
    change(data)
    status, wrong, _ = check(data, tmp_path / "results", capsys)
    assert status == 2 and any(line.startswith(sentence) for line in wrong), wrong


UNREADABLE = {
    "no JSON": ("{", "it is no record: it is no JSON (expecting property name enclosed in double quotes, line 1, "),
    "NaN": ('{"schema": NaN}', "it is no record: NaN is not allowed"),
    "infinity": ('{"schema": 1e999}', "it is no record: a number in it is too large"),
    "a list": ("[1]", "it is no record: it must be an object"),
    "too deep": ("[" * 100_000, "it is no record: nested too deeply"),
    "too long": (" " * (5 * 2**20), "it is no record: it has 5,242,880 bytes"),
    "nothing of a record": ("{}", "id is missing"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_no_record_is_said_to_be_none(kind, tmp_path, capsys):
    text, sentence = UNREADABLE[kind]
    status, wrong, _ = check(text, tmp_path / "results", capsys, name="a")
    assert status == 2 and any(line.startswith(sentence) for line in wrong), wrong


def leaves(data, where=()):
    """Every place in plain data."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*where, str(key))
        yield from leaves(value, (*where, str(key)))


def test_junk_anywhere_in_a_record_is_no_traceback(tmp_path):
    path, good = tmp_path / "record.json", data_of(full_record(matched()))
    committed = [full_record(config_of(seed=9))]
    good["losses"], silent = good["losses"][:1], []
    places = list(leaves(good))
    for i, place in enumerate(places):
        for junk in (None, "junk", -1, [], {}, 1e300)[i % 2 :: 2]:
            data = plain(good)
            put("/".join(place), junk)(data)
            with contextlib.suppress(KeyError, TypeError, AttributeError):
                signed(data)
            path.write_text(json.dumps(data))
            wrong, _ = submission_check.find_problems(path, committed)
            if not wrong:
                silent.append("/".join(place))
    assert len(places) > 150
    assert {s for s in silent if not s.startswith(FREE) and not s.endswith("interval/method")} == SIGNED


FREE = (
    "environment/device",
    "environment/packages",
    "config/model/solved",
    "config/model/args",
    "cost/mfu",
    "losses/0/1",
)
"""Words, what only building the network shows, and losses, which may be anything."""
SIGNED = {"id", "fingerprint", "evaluation_fingerprint", *(f"curve/{i}/metrics/fid[digits-cnn]" for i in (0, 1))}
"""Made right again after the junk; and the FID of an earlier point, which has no bound."""


NO_FILE = {"there": "it is a folder; name the files in it", "a": "there is no such file"}


@pytest.mark.parametrize("name, why", NO_FILE.items())
def test_a_path_without_a_file_is_said_to_have_none(name, why, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    assert leaderboard.main(["--results", str(tmp_path), "--check", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err == f"{tmp_path / name}: it is no record: {why}\n"


def test_a_file_is_to_have_its_records_name(tmp_path, capsys):
    data = data_of(full_record())
    assert check(data, tmp_path / "results", capsys, name="mine")[1] == [f"its file must be called {data['id']}.json"]


def test_nothing_that_a_record_names_is_imported(tmp_path, capsys, monkeypatch):
    (tmp_path / "spy.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    data = data_of(full_record())
    data["config"]["model"].update(arch="spy:Net", size="")
    assert check(signed(data), tmp_path / "results", capsys)[0] == 2
    assert "spy" not in sys.modules


@pytest.mark.parametrize(("macs", "status"), [(1_019_000, 0), (1_021_000, 2), (979_000, 2)])
def test_a_matched_network_is_as_large_as_it_was_to_be(macs, status, tmp_path, capsys):
    data = data_of(full_record(matched(), macs=macs))
    data["protocol"]["training"]["match"]["target"] = 1_000_000
    assert check(signed(data), tmp_path / "results", capsys)[0] == status


def test_a_recount_finds_what_a_network_really_costs(tmp_path, capsys):
    """A committed record as it is, one with other parameters and what follows, and one that cannot be built."""
    results = tmp_path / "results"
    results.mkdir()
    names = [("dit", {}), ("uvit", {"macs": -1}), ("unet", {})]
    paths = []
    for i, (label, change) in enumerate(names):
        one = next(
            r for r in record.read_records(REPOSITORY) if r.label == label and r.protocol["training"]["match"]["to"]
        )
        data = data_of(one)
        if change:
            cost, images = data["cost"], data["config"]["budget"]["images"]
            cost["macs"] -= 1
            cost["flops"] = 2 * cost["macs"]
            cost["training_flops"] = 3 * cost["flops"] * images
            cost["sampling_flops_per_image"] = cost["flops"] * 16 * cost["guidance_multiplier"]
        if i == 2:
            data["config"]["model"]["solved"] = {"height": 3}
        paths.append(str(tmp_path / f"{signed(data)['id']}.json"))
        Path(paths[-1]).write_text(json.dumps(data))
    assert leaderboard.main(["--results", str(results), "--check", *paths]) == 2
    said = capsys.readouterr()
    macs, built = said.err.splitlines()
    assert paths[1] in macs and "cost.macs is" in macs and "; counted again it is " in macs
    assert paths[2] in built and "its network cannot be built: unet cannot be built" in built
    assert said.out.startswith(f"{paths[0]} is good")


def test_the_same_network_has_the_committed_records_parameters(tmp_path, capsys):
    record.publish_record(tmp_path / "results", full_record(config_of(seed=9)))
    data = data_of(full_record())
    data["cost"]["params"] += 1
    (line,) = check(data, tmp_path / "results", capsys)[1]
    assert line.startswith("params of dit nano/2 on digits") and line.endswith(
        "is 100001; the committed records have 100000"
    )


def test_checked_record_may_replace_the_committed_one(tmp_path, capsys):
    record.publish_record(tmp_path / "results", full_record(fid=2.0))
    assert "it replaces the committed one" in check(data_of(full_record()), tmp_path / "results", capsys)[2]


def test_a_reference_row_is_held_to_its_evaluation(tmp_path, capsys):
    _, wrong, _ = check(data_of(short_record("noise", kind="reference")), tmp_path / "results", capsys)
    assert any(line.startswith("protocol.evaluation.version is None") for line in wrong)
    assert "protocol.evaluation.eta is missing" in wrong
