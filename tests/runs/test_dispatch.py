"""What is submitted, and what is not; SLURM's answers are made up."""

import dataclasses

import pytest
from helpers import make_run, tiny_config

from bench.cluster import profiles, run_status
from bench.cluster.run_status import RunStatus
from bench.runs import dispatch
from bench.storage.atomic import write_json


@pytest.fixture
def wanted(tmp_path):
    return dispatch.DispatchOptions(
        results=tmp_path, cluster="slurm", profile=profiles.load_profile("default"), parallel=None, label="x"
    )


def runs(tmp_path, *seeds):
    run_folders = [make_run(tmp_path, tiny_config(seed=seed)) for seed in seeds]
    return {run.path.name: run for run in run_folders}


@pytest.fixture
def standing(monkeypatch):
    """Says how runs stand, in the order given."""

    def stand(*rows, note=""):
        def look(asked, **_):
            statuses = [RunStatus(run=run.path.name, **row) for run, row in zip(asked, rows, strict=True)]
            return statuses, note

        monkeypatch.setattr(run_status, "query_runs", look)

    return stand


ROWS = {
    "queued": (dict(state="queued", jobs={"train": "7_0"}, alive=["7_0"]), "is in the queue already: train 7_0"),
    "failed": (dict(state="failed", error=["no disk"]), "failed (no disk); --retry-failed submits it again"),
    "diverged": (dict(state="diverged"), "diverged, which it would do again; --fresh starts it over"),
    "cancelled": (dict(state="cancelled"), ""),
    "stopped": (dict(state="stopped", why="train job: TIMEOUT"), ""),
    "lost": (dict(state="lost"), ""),
}


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("state", ROWS)
def test_only_what_is_neither_queued_nor_failed_is_submitted(tmp_path, standing, capsys, state, retry):
    row, words = ROWS[state]
    standing(row)
    there, free = dispatch.select_for_submission(runs(tmp_path, 0), retry)
    submitted = not words or (state == "failed" and retry)
    assert len(free) == submitted and len(there) == (state == "queued")
    assert ("" if submitted else words) in capsys.readouterr().out


def test_no_submission_while_slurm_does_not_answer(tmp_path, standing, wanted):
    standing({}, note="sacct gave no answer in 30 s")
    run_folders = runs(tmp_path, 0)
    with pytest.raises(ValueError, match="gave no answer in 30 s; nothing was submitted or removed"):
        dispatch.submit_to_slurm(run_folders, wanted)
    write_json(next(iter(run_folders.values())).path / "jobs.json", {"jobs": {}})
    with pytest.raises(ValueError, match="nothing was submitted or removed"):
        dispatch.require_not_queued(run_folders, "")


def test_what_slurm_works_on_is_not_thrown_away(tmp_path, standing):
    run_folders = runs(tmp_path, 0)
    dispatch.require_not_queued(run_folders, "")  # never submitted: SLURM is not asked
    write_json(next(iter(run_folders.values())).path / "jobs.json", {"jobs": {}})
    standing(ROWS["queued"][0])
    with pytest.raises(ValueError, match=r"is in the queue: train 7_0; python -m bench\.cancel .* first, then --fresh"):
        dispatch.require_not_queued(run_folders, "then --fresh")


def test_a_ctrl_c_while_submitting_asks_about_what_was_submitted(tmp_path, standing, wanted, monkeypatch, capsys):
    def submit(_, train, evaluate):
        write_json(train[0].path / "jobs.json", {"jobs": {}})
        yield f"{train[0].path.name}: train 7_0"
        raise KeyboardInterrupt

    asked = []
    monkeypatch.setattr("bench.cluster.job_chains.submit_runs", submit)
    monkeypatch.setattr("bench.cluster.cancellation.ask_and_cancel", asked.append)
    standing({}, {})
    run_folders = runs(tmp_path, 0, 1)
    with pytest.raises(KeyboardInterrupt):
        dispatch.submit_to_slurm(run_folders, wanted)
    one, two = run_folders.values()
    assert asked == [[one]] and one.path.exists()
    assert not two.path.exists(), "what was not submitted is no run"


def test_a_ctrl_c_while_watching_asks_about_all(tmp_path, wanted, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    asked = []
    monkeypatch.setattr("bench.cluster.live_table.watch_runs", interrupted)
    monkeypatch.setattr("bench.cluster.cancellation.ask_and_cancel", asked.append)
    run_folders = list(runs(tmp_path, 0, 1).values())
    assert dispatch.watch_runs(run_folders, wanted) is False and asked == [run_folders]


def test_a_run_that_slurm_has_is_not_also_done_here(tmp_path, standing, wanted):
    run_folders = runs(tmp_path, 0)
    write_json(next(iter(run_folders.values())).path / "jobs.json", {"jobs": {}})
    standing(ROWS["queued"][0])
    local = dataclasses.replace(wanted, cluster="local")
    with pytest.raises(ValueError, match=r"is in the queue: train 7_0; .* or leave it to SLURM"):
        dispatch.dispatch_runs(run_folders, local, stay=False)


def test_a_refused_submission_leaves_no_run(tmp_path, standing, wanted, monkeypatch):
    def refused(*_):
        raise ValueError("SLURM does not take it")
        yield

    monkeypatch.setattr("bench.cluster.job_chains.submit_runs", refused)
    standing({}, {})
    new, old = runs(tmp_path, 0, 1).values()
    old.log("start")
    with pytest.raises(ValueError, match="does not take it"):
        dispatch.submit_to_slurm({run.path.name: run for run in (new, old)}, wanted)
    assert not new.path.exists() and old.path.exists()


def test_failed_runs_are_not_submitted_again(tmp_path, standing, wanted, capsys):
    standing(dict(state="failed", error=["no disk", "its evaluation is cancelled: its training failed"]))
    assert dispatch.dispatch_runs(runs(tmp_path, 0), wanted, stay=False) == 1
    assert "failed (no disk); --retry-failed" in capsys.readouterr().out


def test_runs_that_are_trained_are_told_from_those_that_are_not(tmp_path):
    one, two = runs(tmp_path, 0, 1).values()
    for images in (48, 96):
        path = two.snapshot_path(images)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert dispatch.split_by_stage([one, two]) == ([one], [two])
