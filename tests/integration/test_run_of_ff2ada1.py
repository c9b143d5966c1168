"""A run begun before modules were moved into packages goes on after it."""

import json
import shutil
from pathlib import Path

import pytest

from bench.config.overrides import load_config
from bench.records.protocol import fingerprint
from bench.records.record import read_record, record_id
from bench.runs import job
from bench.storage.run_folder import RunFolder
from bench.storage.stage_results import read_training_result
from bench.training import trainer
from bench.training.metrics_logger import MetricsLogger

GOLDEN = Path(__file__).parents[1] / "goldens" / "run-ff2ada1"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


@pytest.fixture
def run(results):
    folder = results / "runs" / "dit"
    shutil.copytree(GOLDEN, folder, ignore=shutil.ignore_patterns("README.md", "expected.json"))
    config = load_config(folder)
    folder = folder.rename(folder.parent / config.name)
    return RunFolder(folder)


def test_it_goes_on_and_ends_with_the_same_record(run, monkeypatch):
    steps, step = [], trainer.train_step

    def counted(state, *rest):
        steps.append(state.images)
        return step(state, *rest)

    monkeypatch.setattr(trainer, "train_step", counted)
    monkeypatch.setattr(MetricsLogger, "due", lambda self: True)
    assert job.execute_run(run)
    assert steps == [64, 80]
    record = read_record(run.record_path)
    for key in ("label", "config", "incidents"):
        assert getattr(record, key) == EXPECTED[key], key
    assert record_id(record.label, record.config, fingerprint(EXPECTED["protocol"])) == EXPECTED["id"]
    protocol, expected = json.loads(run.record_path.read_text())["protocol"], EXPECTED["protocol"]
    if protocol["evaluation"].pop("extractor_hash") == expected["evaluation"]["extractor_hash"]:
        assert record.id == EXPECTED["id"]  # the digits CNN trained here has the same bits
    assert protocol["training"] == expected["training"]
    assert protocol["evaluation"].items() <= expected["evaluation"].items()
    assert {key: getattr(record.cost, key) for key in EXPECTED["cost"]} == EXPECTED["cost"]
    assert [(p["images"], sorted(p["metrics"])) for p in record.curve] == [
        (p["images"], p["metrics"]) for p in EXPECTED["curve"]
    ]
    assert record.checkpoint["images"] == 96
    assert [images for images, _ in record.losses] == [images for images, _ in EXPECTED["losses"]]
    assert [loss for _, loss in record.losses] == pytest.approx([loss for _, loss in EXPECTED["losses"]], rel=1e-3)


def test_its_training_before_the_move_is_counted(run):
    before = [e for e in run.events()[0] if e["event"] == "train"]
    assert job.execute_run(run)
    events = [e for e in run.events()[0] if e["event"] == "train"]
    assert events[: len(before)] == before
    result = read_training_result(run)
    assert result.images == 96 and result.seconds == pytest.approx(sum(e["seconds"] for e in events))
    assert read_record(run.record_path).cost.accelerator_hours == result.accelerator_seconds / 3600
