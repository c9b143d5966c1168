import dataclasses
import json
import multiprocessing
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import get_type_hints

import made_records
import pandas as pd
import pytest
from helpers import make_run, replaced, tiny_config
from made_records import made, metric
from typing_extensions import is_typeddict

from bench import leaderboard
from bench.config.identity import RESOLVED, SEED, ConfigIdentity, configuration_key
from bench.config.overrides import load_config
from bench.config.schema import RunConfig
from bench.experiments import presets, suites
from bench.records import failures, leaderboard_files, protocol, record, text_tables
from bench.records.protocol import fingerprint
from bench.storage.atomic import write_json


def test_a_record_survives_the_way_to_disk_and_back(tmp_path):
    one = made()
    assert record.read_record(record.publish_record(tmp_path, one)) == one


ALTERED = {
    "fingerprint": (lambda d: d.update(fingerprint="0" * 12), "fingerprint is not that of the protocol"),
    "protocol": (lambda d: d["protocol"]["evaluation"].update(samples=5), "fingerprint is not that"),
    "config": (lambda d: d["config"].update(seed=9), "id is not that of config"),
    "nan": (lambda d: d["metrics"]["fid[digits-cnn]"].update(value=float("nan")), "NaN is not allowed"),
    "unknown field": (lambda d: d.update(hello=1), "hello"),
    "text for a number": (lambda d: d["cost"].update(macs="many"), "cost.macs"),
    "done with an error": (lambda d: d.update(error="no"), "status done has no error"),
    "failed without one": (lambda d: d.update(status="failed"), "needs its error"),
    "no cost": (lambda d: d.update(cost=None), "needs its cost"),
    "no metrics": (lambda d: d.update(metrics={}), "needs metrics"),
    "another schema": (lambda d: d.update(schema=2), "this version reads 1"),
}


@pytest.mark.parametrize("change", ALTERED)
def test_an_altered_record_is_refused_in_a_sentence(tmp_path, change):
    path = record.publish_record(tmp_path, made())
    data = json.loads(path.read_text())
    alter, sentence = ALTERED[change]
    alter(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError) as caught:
        record.read_record(path)
    assert sentence in str(caught.value) and path.name in str(caught.value)


def test_a_truncated_record_is_refused(tmp_path):
    path = record.publish_record(tmp_path, made())
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match="no valid record"):
        record.read_record(path)


def test_a_record_under_another_name_is_refused(tmp_path):
    path = record.publish_record(tmp_path, made())
    other = path.rename(path.with_name("other.json"))
    with pytest.raises(ValueError, match="its id is"):
        record.read_record(other)


def test_nan_is_never_written(tmp_path):
    bad = dataclasses.replace(made(), metrics={"fid[digits-cnn]": metric(float("nan"))})
    with pytest.raises(ValueError):
        record.publish_record(tmp_path, bad)
    assert not list(record.records_folder(tmp_path).glob("*")) if record.records_folder(tmp_path).exists() else True


def test_seeds_are_records_of_their_own():
    assert len({made(seed=s).id for s in range(3)}) == 3


def test_the_command_answers_a_missing_folder_in_a_sentence(tmp_path, capsys):
    assert leaderboard.main(["--results", str(tmp_path / "nowhere")]) == 2
    assert "is no folder" in capsys.readouterr().err


REPOSITORY = Path(__file__).parents[2] / "results"


def test_the_committed_leaderboard_is_fresh():
    csv, text = leaderboard_files.build_leaderboard(REPOSITORY)
    assert (REPOSITORY / "leaderboard.csv").read_text() == csv, "run python -m bench.leaderboard"
    assert (REPOSITORY / "leaderboard.md").read_text() == text, "run python -m bench.leaderboard"


def test_the_committed_quickstart_keeps_its_bars():
    """FID below a tenth of noise's and accuracy above 90 % for three backbones of equal cost."""
    records = list(record.read_records(REPOSITORY))
    noise = next(r for r in records if r.label == "noise").metrics["fid[digits-cnn]"].value
    keys = suites.variant_keys("quickstart", "digits").values()
    models = {r.label: r for r in records if r.kind == "model" and configuration_key(r.config, SEED + RESOLVED) in keys}
    assert set(models) == {"dit", "uvit", "unet"}
    for r in models.values():
        assert r.metrics["fid[digits-cnn]"].value < noise / 10
        assert r.metrics["class_accuracy[digits-cnn]"].value > 0.9
        assert abs(r.cost.macs / models["unet"].cost.macs - 1) <= 0.02


WORDS = "RuntimeError: the loss is nan | at image 512;\na lower recipe.lr may help"


@pytest.fixture
def broken(tmp_path):
    """A run of 96 images that came to 64, was restarted from a damaged checkpoint, and rolled back."""
    run = make_run(tmp_path / "results", tiny_config())
    damaged = f"{run.path}/checkpoints/000000000048.safetensors cannot be read"
    run.log("start", stage="all")
    run.log("train", images=32, of=96, loss=1.0, rate=5.0, seconds=1.0)
    run.log("requeued")
    run.log("start", stage="all")
    run.log("resume", images=16, warnings=[damaged])
    run.log("rollback", images=48, to=16, why="nan", nth=1)
    run.log("train", images=64, of=96, loss=1.0, rate=5.0, seconds=1.0)
    return run


def finished(run, seed=0):
    """A finished record of a run's config."""
    config = load_config(run.path)
    whole = {
        "evaluation": protocol.evaluation_protocol(config, extractor_hash="a", reference_hash="b", reference_count=3),
        "training": protocol.training_protocol(config, native=presets.native_preset(config), match_target=7),
    }
    print_ = fingerprint(whole)
    return dataclasses.replace(
        made(),
        label=config.model.label,
        config=config.identity(),
        protocol=whole,
        fingerprint=print_,
        evaluation_fingerprint=fingerprint(whole["evaluation"]),
        id=record.record_id(config.model.label, config.identity(), print_),
    )


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_run_that_does_not_finish_leaves_a_record_that_says_how_far_it_came_and_why(broken, status):
    path = failures.publish_failure(broken, load_config(broken.path), status, WORDS)
    one = record.read_record(path)
    assert (one.status, one.error, one.metrics, one.cost, one.checkpoint) == (status, WORDS, {}, None, None)
    warning = f"runs/{broken.path.name}/checkpoints/000000000048.safetensors cannot be read"
    assert one.incidents == [
        {"kind": "restart", "stage": "all", "after": "notice", "images": 16, "warnings": [warning]},
        {"kind": "rollback", "images": 48, "to": 16, "why": "nan", "nth": 1},
        {"kind": status, "images": 64},
    ]
    again = failures.publish_failure(broken, load_config(broken.path), "failed", ValueError("something else"))
    assert again == path and record.read_record(path).error == "something else"


@pytest.mark.parametrize("matched", [False, True])
def test_a_finished_record_takes_the_failed_one_away_and_is_never_replaced_by_one(broken, tmp_path, matched):
    results, config = broken.results, load_config(broken.path)
    if matched:  # what it was matched to is known only to the finished run
        config = replaced(config, "model", match="macs:unet:nano", solved={"depth": 1})
        write_json(broken.path / "config.json", config.to_dict())
    failures.publish_failure(broken, config, "failed", "first")
    other = make_run(results, dataclasses.replace(config, seed=1))
    failures.publish_failure(other, load_config(other.path), "failed", "of another seed")
    good = record.publish_record(results, finished(broken))
    assert [r.status for r in record.read_records(results)].count("failed") == 1 and good.is_file()
    for _ in ("as it is", "after --fresh"):
        assert failures.publish_failure(broken, config, "failed", "later") is None
        broken.clear()
    assert {r.error for r in record.read_records(results)} == {None, "of another seed"}


def test_the_record_of_a_failure_needs_no_torch(broken):
    code = (
        "import sys; from pathlib import Path; from bench.records import failures\n"
        "from bench.storage.run_folder import RunFolder\n"
        "from bench.config.overrides import load_config\n"
        "run = RunFolder(Path(sys.argv[1]))\n"
        "assert failures.publish_failure(run, load_config(run.path), 'failed', 'NODE_FAIL')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(broken.path)], check=True)


SAID = {
    "ValueError: recipe.lr is 0": "recipe.lr is 0",
    "Traceback\n  File x\n\nKeyError: 'a'\n": "Traceback\n  File x\nKeyError: 'a'",
    "1\n2\n3\n4": "2\n3\n4",
    "cannot write RESULTS/runs/a/log.jsonl: full": "cannot write runs/a/log.jsonl: full",
    'File "CHECKOUT/bench/training/trainer.py", line 3': 'File "bench/training/trainer.py", line 3',
    "no /home/anne/data/x.npz, /scratch/y z": "no .../x.npz, .../y z",
    "see https://example.org/a/b or dit:XL/2 at 3/4 and ../shared/x": None,
    "": "no error message",
    "x" * 600: "x" * 500,
}


@pytest.mark.parametrize("said", SAID, ids=range(len(SAID)))
def test_the_error_of_a_record_is_short_and_names_no_machines_paths(said, tmp_path):
    text = said.replace("RESULTS", str(tmp_path)).replace("CHECKOUT", str(REPOSITORY.parent))
    assert failures.summarize_error(text, tmp_path) == (said if SAID[said] is None else SAID[said])


def test_what_did_not_finish_is_listed_and_neither_ranked_nor_averaged(broken, tmp_path):
    results = broken.results
    record.publish_record(results, made("a", 1.0))
    before = leaderboard_files.build_leaderboard(results)
    failed = record.read_record(failures.publish_failure(broken, load_config(broken.path), "diverged", WORDS))
    csv, text = leaderboard_files.build_leaderboard(results)
    head, _, tail = text.partition("## Did not finish\n")
    assert head == before[1] + "\n"
    cells = [c.strip() for c in tail.splitlines()[-1].split("|")[1:-1]]
    told = "RuntimeError: the loss is nan / at image 512; a lower recipe.lr may help"
    assert cells[:6] == [failed.label, "digits", "diverged", "64 of 96", told, "0"] and failed.id in cells[7]
    table, old = (pd.read_csv(StringIO(x)) for x in (csv, before[0]))
    assert list(table.columns) == list(old.columns) and set(table["status"]) == {"done", "diverged"}
    (row,) = table[table["status"] == "diverged"].to_dict("records")
    assert pd.isna(row["rank"]) and pd.isna(row["fid[digits-cnn] ↓"]) and row["record"] == failed.id
    pd.testing.assert_frame_equal(table[table["status"] == "done"].reset_index(drop=True), old, check_dtype=False)


def test_a_ledger_of_failures_alone_has_a_leaderboard(broken):
    failures.publish_failure(broken, load_config(broken.path), "failed", WORDS)
    assert "Did not finish" in leaderboard_files.write_leaderboard(broken.results)


def test_a_failure_that_was_written_while_its_run_was_finished_is_not_shown(broken):
    failed = failures.publish_failure(broken, load_config(broken.path), "failed", WORDS)
    text = failed.read_text()
    record.publish_record(broken.results, finished(broken))
    failed.write_text(text)
    assert "Did not finish" not in leaderboard_files.build_leaderboard(broken.results)[1]


def publish_many(results, who, go):
    go.wait()
    for i in range(25):
        record.publish_record(results, made("all", float(i + 1), seed=-1))  # which every process writes
        record.publish_record(results, made(f"process {who}", float(i + 1), seed=i))
    leaderboard_files.write_leaderboard(results)


def test_records_written_by_many_processes_at_once_are_neither_torn_nor_lost(tmp_path):
    """8 processes with 25 records each, and one that all of them write, while this one reads."""
    fork = multiprocessing.get_context("fork")
    go = fork.Event()
    many = [fork.Process(target=publish_many, args=(tmp_path, who, go)) for who in range(8)]
    for p in many:
        p.start()
    leaderboard_files.write_leaderboard(tmp_path)
    go.set()
    seen = []
    while any(p.is_alive() for p in many):
        seen.append(len(list(record.read_records(tmp_path))))  # a torn one is a ValueError
        text = (tmp_path / "leaderboard.md").read_text()
        assert text.startswith("# Leaderboard") and text.endswith(text_tables.LEGEND)
        csv = (tmp_path / "leaderboard.csv").read_text()
        assert not csv.strip() or len(pd.read_csv(StringIO(csv))) > 0
    assert all(p.exitcode == 0 for p in many)
    assert seen == sorted(seen) and len(set(seen)) > 3  # they were watched while they came, and none went
    assert len(list(record.read_records(tmp_path))) == 8 * 25 + 1
    shown = [(tmp_path / f"leaderboard.{ending}").read_text() for ending in ("csv", "md")]
    assert shown == list(leaderboard_files.build_leaderboard(tmp_path))
    assert len(pd.read_csv(tmp_path / "leaderboard.csv")) == 8 * 25 + 1
    assert {p.suffix for p in record.records_folder(tmp_path).iterdir()} == {".json"}


def test_a_leaderboard_that_was_overtaken_while_it_was_made_is_made_again(tmp_path, monkeypatch):
    record.publish_record(tmp_path, made("a"))
    build = leaderboard_files.build_leaderboard

    def overtaken(results):
        found = build(results)
        record.publish_record(tmp_path, made("b"))
        monkeypatch.setattr(leaderboard_files, "build_leaderboard", build)
        return found

    monkeypatch.setattr(leaderboard_files, "build_leaderboard", overtaken)
    leaderboard_files.write_leaderboard(tmp_path)
    assert set(pd.read_csv(tmp_path / "leaderboard.csv")["model"]) == {"a", "b"}


def typed_keys(type_):
    fields = get_type_hints(type_)
    return {k: None if not is_typeddict(v) else typed_keys(v) for k, v in fields.items()}


def test_config_types_have_the_keys_of_a_run_config():
    identity = RunConfig().identity()
    assert {k: set(v) if isinstance(v, dict) else None for k, v in identity.items()} == {
        k: set(v) if v else None for k, v in typed_keys(ConfigIdentity).items()
    }


def test_protocol_types_have_the_keys_of_a_protocol():
    types, whole_ = (
        typed_keys(protocol.Protocol),
        made_records.whole(replaced(made_records.config_of(), "model", match="macs:unet:nano")),
    )
    assert set(whole_.protocol["evaluation"]) == set(types["evaluation"])
    assert set(whole_.protocol["training"]) == set(types["training"])


@pytest.mark.parametrize(
    ("path", "value"),
    [("config/model/arch", 3), ("config/recipe/lr", "fast"), ("protocol/evaluation/steps", "many"), ("config", [])],
)
def test_a_wrong_type_in_config_or_protocol_is_refused(path, value):
    data = dataclasses.asdict(made_records.whole())
    *parents, last = path.split("/")
    node = data
    for key in parents:
        node = node[key]
    node[last] = value
    with pytest.raises(ValueError, match=path.replace("/", r"\.")):
        record.parse_record(data, "x.json")


def test_committed_records_are_written_as_they_were_read(tmp_path):
    for path in record.records_folder(REPOSITORY).glob("*.json"):
        record.write_record(tmp_path / path.name, record.read_record(path))
        data = json.loads(path.read_text())
        if "losses" in data:  # two reference rows are older than this field
            assert (tmp_path / path.name).read_bytes() == path.read_bytes()
        assert json.loads((tmp_path / path.name).read_text()) == {"losses": [], **data}


def test_records_of_older_protocols_are_read():
    old = made("dit", version=1)  # without eta, decoder, data hash and most settings
    assert record.parse_record(dataclasses.asdict(old), "old.json") == old
