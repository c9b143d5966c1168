"""The status of runs, from run folders and recorded answers of SLURM."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_folders import AT_7, BEFORE, CHAIN, DONE, TRAINING, WAITS, make, sacct, thousand

from bench.cluster import run_status
from bench.storage.run_folder import RunFolder

ROOT = Path(__file__).parents[2]


def one(results, *, record_failures=False, **files):
    make(results, "dit", **files)
    rows, _ = run_status.query_runs(run_status.find_runs(results), record_failures=record_failures)
    return rows[0]


SLURM = [
    ("queued", "Priority", None, {}, f"7|PENDING||0:00|Priority\n{WAITS}"),
    ("training", "", None, {"j7": "RUNNING"}, f"7|RUNNING|node1|0:07|None\n{WAITS}"),
    ("training", "", AT_7, {"j7": "RUNNING"}, f"7|RUNNING|node1|0:07|None\n{WAITS}"),
    ("sampling", "", AT_7 | {"event": "sample", "job": "8"}, {"j7": "COMPLETED"}, "8|RUNNING|node1|0:07|None"),
    ("sampling", "", AT_7, {"j7": "COMPLETED"}, "8|RUNNING|node1|0:07|None"),
    ("evaluating", "", AT_7 | {"event": "evaluate", "job": "8"}, {"j7": "COMPLETED"}, "8|RUNNING|node1|0:07|None"),
    ("requeued", "PREEMPTED, BeginTime", AT_7, {"j7": "PREEMPTED"}, f"7|PENDING||0:00|BeginTime\n{WAITS}"),
    ("requeued", "NODE_FAIL, BeginTime", AT_7, {"j7": "NODE_FAIL"}, f"7|PENDING||0:00|BeginTime\n{WAITS}"),
    ("requeued", "BeginTime", AT_7 | {"event": "requeued"}, {}, f"7|PENDING||0:00|BeginTime\n{WAITS}"),
    ("waiting", "for its training", AT_7 | {"event": "trained"}, {"j7": "COMPLETED"}, WAITS),
    ("queued", "Priority", AT_7 | {"event": "trained"}, {"j7": "COMPLETED"}, "8|PENDING||0:00|Priority"),
    ("queued", "Priority", AT_7 | {"event": "trained"}, {}, "8|PENDING||0:00|Priority"),
    ("failed", "train job: FAILED, exit code 1:0 on node1", AT_7, {"j7": "FAILED", "j8": "CANCELLED"}, ""),
    ("failed", "train job: OUT_OF_MEMORY, exit code 1:0 on node1", AT_7, {"j7": "OUT_OF_MEMORY"}, WAITS),
    ("stopped", "train job: NODE_FAIL; run the command again", AT_7, {"j7": "NODE_FAIL", "j8": "CANCELLED"}, ""),
    ("failed", "no disk", AT_7 | {"event": "failed", "error": "no disk"}, {"j7": "FAILED", "j8": "CANCELLED"}, ""),
    ("diverged", "", AT_7 | {"event": "diverged"}, {"j7": "FAILED", "j8": "CANCELLED"}, ""),
    ("cancelled", "by root", AT_7 | {"event": "stopped"}, {"j7": "CANCELLED by 0", "j8": "CANCELLED by 0"}, ""),
    ("stopped", "", AT_7 | {"event": "stopped", "job": "8"}, {"j7": "COMPLETED", "j8": "COMPLETED"}, ""),
    ("lost", "SLURM no longer knows its train job", AT_7, {}, ""),
    ("lost", "its jobs ended without a record", AT_7, {"j7": "COMPLETED", "j8": "COMPLETED"}, ""),
]


@pytest.mark.parametrize(("state", "why", "files", "accounted", "queue"), SLURM)
def test_state_of_a_run_on_slurm(state, why, files, accounted, queue, tmp_path, fake):
    fake.answer("sacct", sacct(**accounted))
    fake.answer("squeue", queue)
    row = one(tmp_path, status=files, jobs=CHAIN)
    assert (row.state, row.why) == (state, why)


def test_the_cases_cover_every_state():
    local = {"done", "training", "stopped", "lost", "failed"}
    assert {case[0] for case in SLURM} | local == set(run_status.RUN_STATES)


def test_a_finished_run_asks_slurm_nothing(tmp_path, fake):
    row = one(tmp_path, status={"event": "done", "job": "8", "starts": 2}, jobs=CHAIN, record=DONE)
    assert (row.state, row.restarts, row.stage_images, row.fid["value"]) == ("done", 0, 111000, 0.8731)
    assert not fake.calls("sacct") and not fake.calls("squeue")


@pytest.mark.parametrize(
    ("state", "files"),
    [
        ("training", TRAINING),
        ("training", {"event": "start"}),
        ("sampling", TRAINING | {"event": "sample"}),
        ("stopped", TRAINING | {"event": "stopped"}),
        ("failed", TRAINING | {"event": "failed", "error": "x"}),
        ("lost", TRAINING | {"host": "elsewhere", "time": time.time() - 7200}),
        ("training", TRAINING | {"host": "elsewhere"}),
        ("stopped", None),
    ],
)
def test_state_of_a_local_run(state, files, tmp_path):
    row = one(tmp_path, status=files)
    assert row.state == state
    assert (row.pid == os.getpid()) == (state in ("training", "sampling") and "host" not in files)


def test_a_dead_or_reused_pid_means_lost(tmp_path, ended):
    assert one(tmp_path / "a", status=TRAINING | {"pid": ended}).state == "lost"
    assert one(tmp_path / "b", status=TRAINING | {"time": time.time() - 10**8}).state == "lost"


def test_a_run_that_left_slurm_is_not_queried(tmp_path, fake):
    row = one(tmp_path, status=TRAINING, jobs=CHAIN, submitted=time.time() - 99)
    assert (row.state, row.jobs) == ("training", {}) and not fake.calls("sacct")


def test_a_lost_status_is_folded_from_the_log_again(tmp_path):
    path = make(tmp_path, "old")
    run = RunFolder(path)
    run.log("start", pid=1)
    for i in range(3000):
        run.log("train", images=i, of=3000, loss=0.5, rate=10.0)
    run.log("evaluate", images=1, of=2, **{"fid[digits-cnn]": 3.25})
    run.log("failed", error="OSError: gone")
    (path / "status.json").unlink()
    row = run_status.query_runs(run_status.find_runs(tmp_path))[0][0]
    assert (row.state, row.loss, row.fid["value"], row.error) == ("failed", 0.5, 3.25, ["OSError: gone"])


def test_incomplete_files_count_as_empty(tmp_path):
    path = make(tmp_path, "dit", status=TRAINING)
    for name in ("status.json", "jobs.json", "record.json"):
        (path / name).write_text('{"event": "tr')
    assert run_status.query_runs(run_status.find_runs(tmp_path))[0][0].state == "stopped"


def test_restarts_do_not_count_the_second_job(tmp_path, fake):
    fake.answer("sacct", f"7|{BEFORE}|PREEMPTED|0:0|9|node1|None\n7|2026-11-23T04:00:00|RUNNING|0:0|9|node2|None")
    fake.answer("squeue", f"7|RUNNING|node2|0:09|None\n{WAITS}")
    row = one(tmp_path / "a", status=AT_7 | {"starts": 2}, jobs=CHAIN)
    assert (row.restarts, row.node) == (1, "node2")
    assert one(tmp_path / "b", status=AT_7 | {"starts": 4, "job": "8"}, jobs=CHAIN).restarts == 2


def failure_calls(monkeypatch):
    """The calls of failures.publish_failure."""
    calls = []
    publish = lambda run, config, word, error: calls.append((run.path.name, word, error))  # noqa: E731
    monkeypatch.setattr("bench.records.failures.publish_failure", publish)
    monkeypatch.setattr(run_status, "load_config", lambda path: None)
    return calls


def test_a_killed_job_gets_one_failed_record(tmp_path, fake, monkeypatch):
    calls = failure_calls(monkeypatch)
    fake.answer("sacct", sacct(j7="OUT_OF_MEMORY", j8="CANCELLED"))
    path = make(tmp_path, "dit", status=AT_7, jobs=CHAIN, log="Killed\n")
    for _ in range(2):
        rows, _ = run_status.query_runs(run_status.find_runs(tmp_path))
    assert calls == [("dit", "failed", "SLURM ended it: train job: OUT_OF_MEMORY, exit code 1:0 on node1")]
    assert rows[0].error[:2] == ["Killed", calls[0][2]]
    assert (path / "error.txt").read_text() == f"Killed\n{calls[0][2]}\n"


def test_a_failed_record_that_cannot_be_written_is_noted(tmp_path, fake, monkeypatch):
    failure_calls(monkeypatch)

    def refused(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("bench.records.failures.publish_failure", refused)
    fake.answer("sacct", sacct(j7="FAILED", j8="CANCELLED"))
    row = one(tmp_path, status=AT_7, jobs=CHAIN, record_failures=True)
    assert row.state == "failed" and row.error[-1].endswith("written: [Errno 30] Read-only file system")
    assert not (tmp_path / "runs" / "dit" / "error.txt").exists()


@pytest.mark.parametrize(
    ("accounted", "queue", "files"),
    [
        ({"j7": "CANCELLED by 0", "j8": "CANCELLED"}, "", AT_7),
        ({"j7": "NODE_FAIL", "j8": "PENDING"}, f"7|PENDING||0:00|BeginTime\n{WAITS}", AT_7),
        ({"j7": "FAILED", "j8": "CANCELLED"}, "", AT_7 | {"event": "failed", "error": "it said so itself"}),
        ({}, "", AT_7),
    ],
)
def test_other_endings_get_no_failed_record(accounted, queue, files, tmp_path, fake, monkeypatch):
    calls = failure_calls(monkeypatch)
    fake.answer("sacct", sacct(**accounted))
    fake.answer("squeue", queue)
    make(tmp_path, "dit", status=files, jobs=CHAIN)
    run_status.query_runs(run_status.find_runs(tmp_path))
    assert not calls


def test_a_thousand_runs_need_one_sacct_call(tmp_path, fake):
    fake.answer("sacct", thousand(tmp_path))
    queue = ["7_[550-999%100]|PENDING||0:00|Priority", "8_[400-999]|PENDING||0:00|Dependency"]
    queue += [f"7_{i}|RUNNING|node1|0:01|None" for i in range(400, 500)]
    fake.answer("squeue", "\n".join(queue))
    command = [sys.executable, "-m", "bench.status", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert "\n1000 runs: 100 training, 450 queued, 50 failed, 400 done; logs" in done.stdout, done.stderr
    assert len(fake.calls("sacct")) == 1 and len(fake.calls("squeue")) == 1
