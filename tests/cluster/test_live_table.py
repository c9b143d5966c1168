import os
import time

import pytest
from run_folders import make

from bench.cluster import live_table, run_status
from bench.cluster.run_status import RunStatus
from bench.cluster.status_table import describe_progress
from bench.storage import run_folder
from bench.storage.run_folder import RunFolder


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "STATUS_INTERVAL_SECONDS", 0.0)
    return RunFolder(make(tmp_path, "dit"))


def start(run):
    began = round(time.time(), 3)
    run.log("start", pid=os.getpid())
    return began


def local_status(run, since):
    (status,) = run_status.query_local_runs([run], since)
    return status


def test_progress_has_stage_rate_eta_and_loss(run):
    began = start(run)
    run.log("train", images=500, of=2000, loss=0.25, rate=100.0, seconds=1.0)
    assert describe_progress(local_status(run, began)) == "dit: training 25%, 100 img/s, ETA 15 s, loss 0.25"
    run.log("sample", images=10, of=40, rate=1.0)
    assert describe_progress(local_status(run, began)) == "dit: sampling 25%, 1 img/s, ETA 30 s"
    run.log("done")
    assert describe_progress(local_status(run, began)) == "dit: done"


def test_events_of_an_earlier_attempt_are_not_shown(run):
    run.log("failed", error="OSError: long ago")
    assert local_status(run, time.time() + 1).state == "queued"


def test_a_log_gets_progress_and_the_end_of_a_run(run, capsys):
    events = iter(
        [
            ("start", dict(pid=os.getpid())),
            ("train", dict(images=1, of=2, loss=1.0, rate=1.0, seconds=1.0)),
            ("done", {}),
        ]
    )

    def advance():
        event = next(events, None)
        if event:
            run.log(event[0], **event[1])
        return event is not None

    live_table.watch_local_runs({"dit": run}, advance, seconds=0.0, poll=0.01)
    lines = [line[9:] for line in capsys.readouterr().out.splitlines() if "dit: " in line]
    assert lines == ["dit: training", "dit: training 50%, 1 img/s, ETA 1 s, loss 1", "dit: done"]


def test_a_log_repeats_no_state(tmp_path, capsys):
    display = live_table.RunDisplay(tmp_path, seconds=60.0)
    for state in ("training", "training", "done", "done"):
        display.show([RunStatus(run="dit", state=state), RunStatus(run="unet", state="queued")])
    lines = [line[9:] for line in capsys.readouterr().out.splitlines()]
    before, after = "2 runs: 1 training, 1 queued", "2 runs: 1 queued, 1 done"
    assert lines == ["dit: training", "unet: queued", before, "dit: done", after]


def test_a_log_of_many_runs_has_only_changes(tmp_path, capsys):
    statuses = [RunStatus(run=f"dit-{i}", state="training") for i in range(live_table.MAX_PROGRESS_LINES + 1)]
    display = live_table.RunDisplay(tmp_path, seconds=0.0)
    display.show(statuses)
    capsys.readouterr()
    display.show(statuses)
    assert capsys.readouterr().out == ""


def test_a_note_of_slurm_is_shown_once(tmp_path, capsys):
    display = live_table.RunDisplay(tmp_path, seconds=60.0)
    status = RunStatus(run="dit", state="queued")
    for note in ("", "squeue failed", "squeue failed"):
        display.show([status], note)
    assert capsys.readouterr().out.count("squeue failed") == 1


def test_a_terminal_gets_a_table_that_is_redrawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    with live_table.RunDisplay(tmp_path, seconds=60.0) as display:
        for state in ("training", "done"):
            display.show([RunStatus(run="dit", state=state, log=str(tmp_path / "log.jsonl"))])
    out = capsys.readouterr().out
    assert "\x1b[" in out and "1 run: 1 training" in out and out.rstrip().endswith("\x1b[?25h")
