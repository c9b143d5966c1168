"""Records of runs that failed or diverged."""

import dataclasses
from io import StringIO
from pathlib import Path

import factories
import pandas as pd
import pytest
from factories import short_record
from helpers import make_run, replaced, tiny_config

from bench.config.overrides import load_config
from bench.records import failures, leaderboard_files, record
from bench.storage.atomic import write_json

REPOSITORY = Path(__file__).parents[2] / "results"


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


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_failure_record_has_progress_and_error(broken, status):
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
def test_finished_record_replaces_the_failed_one(broken, tmp_path, matched):
    results, config = broken.results, load_config(broken.path)
    if matched:  # what it was matched to is known only to the finished run
        config = replaced(config, "model", match="macs:unet:nano", solved={"depth": 1})
        write_json(broken.path / "config.json", config.to_dict())
    failures.publish_failure(broken, config, "failed", "first")
    other = make_run(results, dataclasses.replace(config, seed=1))
    failures.publish_failure(other, load_config(other.path), "failed", "of another seed")
    good = record.publish_record(results, factories.full_record(load_config(broken.path)))
    assert [r.status for r in record.read_records(results)].count("failed") == 1 and good.is_file()
    for _ in ("as it is", "after --fresh"):
        assert failures.publish_failure(broken, config, "failed", "later") is None
        broken.clear()
    assert {r.error for r in record.read_records(results)} == {None, "of another seed"}


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
def test_recorded_error_is_short_and_has_no_absolute_path(said, tmp_path):
    text = said.replace("RESULTS", str(tmp_path)).replace("CHECKOUT", str(REPOSITORY.parent))
    assert failures.summarize_error(text, tmp_path) == (said if SAID[said] is None else SAID[said])


def test_unfinished_runs_are_listed_but_not_ranked(broken, tmp_path):
    results = broken.results
    record.publish_record(results, short_record("a", 1.0))
    before = leaderboard_files.build_leaderboard(results)
    failed = record.read_record(failures.publish_failure(broken, load_config(broken.path), "diverged", WORDS))
    csv, text = leaderboard_files.build_leaderboard(results)
    head, _, tail = text.partition("## Did not finish\n")
    assert head == before[1] + "\n"
    cells = [c.strip() for c in tail.splitlines()[-1].split("|")[1:-1]]
    error = "RuntimeError: the loss is nan / at image 512; a lower recipe.lr may help"
    assert cells[:6] == [failed.label, "digits", "diverged", "64 of 96", error, "0"] and failed.id in cells[7]
    table, old = (pd.read_csv(StringIO(x)) for x in (csv, before[0]))
    assert list(table.columns) == list(old.columns) and set(table["status"]) == {"done", "diverged"}
    (row,) = table[table["status"] == "diverged"].to_dict("records")
    assert pd.isna(row["rank"]) and pd.isna(row["fid[digits-cnn] ↓"]) and row["record"] == failed.id
    pd.testing.assert_frame_equal(table[table["status"] == "done"].reset_index(drop=True), old, check_dtype=False)


def test_failures_alone_have_a_leaderboard(broken):
    failures.publish_failure(broken, load_config(broken.path), "failed", WORDS)
    assert "Did not finish" in leaderboard_files.write_leaderboard(broken.results)


def test_superseded_failure_is_not_shown(broken):
    failed = failures.publish_failure(broken, load_config(broken.path), "failed", WORDS)
    text = failed.read_text()
    record.publish_record(broken.results, factories.full_record(load_config(broken.path)))
    failed.write_text(text)
    assert "Did not finish" not in leaderboard_files.build_leaderboard(broken.results)[1]
