"""The event log of a run and its fold, the status."""

import json

import pytest

from bench.storage import run_folder
from bench.storage.run_folder import RunFolder
from bench.storage.run_log import EMPTY_STATUS

EVENTS = [
    ("start", dict(pid=3, host="node-1", job="12_0")),
    ("train", dict(images=64, of=96, loss=0.5, rate=10.0, seconds=1.0)),
    ("rollback", dict(images=64, to=32, why="nan", nth=1)),
    ("train", dict(images=96, of=96, loss=0.25, rate=20.0, seconds=1.0)),
    ("evaluate", dict(images=1, of=2, point=48, **{"sfid[x]": 2.0, "fid[x]": 3.0, "kid": 1.0})),
    ("failed", dict(error="ValueError: no")),
]
STATUS = {
    "event": "failed",
    "images": 1,
    "of": 2,
    "rate": 20.0,
    "loss": 0.25,
    "fid": {"name": "fid[x]", "value": 3.0, "images": 48},
    "starts": 1,
    "rollbacks": 1,
    "host": "node-1",
    "job": "12_0",
    "pid": 3,
    "error": "ValueError: no",
}


def logged(path, events=EVENTS):
    run = RunFolder(path)
    for event, values in events:
        run.log(event, **values)
    return run


def test_the_status_is_the_fold_of_the_events(tmp_path):
    run = logged(tmp_path)
    status = run.status()
    assert status.pop("time") == run.events()[0][-1]["time"] and status == STATUS
    assert STATUS.keys() | {"time"} == EMPTY_STATUS.keys()


def test_a_restart_continues_the_status_without_its_error(tmp_path):
    logged(tmp_path)
    again = logged(tmp_path, [("start", dict(pid=4, host="node-2", job=None))]).status()
    restarted = {"event": "start", "starts": 2, "rate": None, "error": None, "host": "node-2", "job": None, "pid": 4}
    assert {k: v for k, v in again.items() if k != "time"} == {**STATUS, **restarted}


@pytest.mark.parametrize("lost", [None, "", "[]", '{"event": "tra', '{"event": "train"}'])
def test_a_lost_status_is_folded_from_the_log_again(tmp_path, lost):
    before = logged(tmp_path).status()
    path = tmp_path / "status.json"
    path.unlink() if lost is None else path.write_text(lost)
    assert RunFolder(tmp_path).status() == before
    again = logged(tmp_path, EVENTS[:1]).status()
    assert (again["starts"], again["rollbacks"], again["fid"]) == (2, 1, STATUS["fid"])


def test_frequent_events_are_written_every_two_seconds(tmp_path, monkeypatch):
    now, seen = [0.0], []
    monkeypatch.setattr(run_folder.time, "monotonic", lambda: now[0])
    run = logged(tmp_path, EVENTS[:1])
    for i in range(1, 50):
        now[0] += 0.1
        run.log("train", images=i, of=50, loss=1.0, rate=1.0)
        seen.append(run.status()["images"])
    assert len(set(seen) - {None}) == 2
    run.log("memory", peak_memory_bytes=1)
    assert run.status()["images"] == 49


def test_a_nan_loss_leaves_valid_json(tmp_path):
    logged(tmp_path, [("train", dict(images=1, of=2, loss=float("nan"), rate=1.0))])
    text = (tmp_path / "status.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["loss"] == "nan"


def test_a_folder_without_a_log_has_an_empty_status(tmp_path):
    assert RunFolder(tmp_path / "nothing").status() == EMPTY_STATUS
