import subprocess
from functools import partial

import pytest

from bench.cluster import local_queue
from bench.runs.job import Job, require_progress
from bench.storage.process_identity import is_running
from bench.storage.run_folder import RunFolder


def test_auto_is_slurm_only_with_sbatch(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert local_queue.resolve_cluster("auto") == "local"
    with pytest.raises(ValueError, match="needs sbatch"):
        local_queue.resolve_cluster("slurm")
    (tmp_path / "sbatch").write_text("#!/bin/sh\n")
    (tmp_path / "sbatch").chmod(0o755)
    assert local_queue.resolve_cluster("auto") == "slurm"


def test_a_local_queue_keeps_its_limit(tmp_path):
    queue = local_queue.LocalQueue(local_queue.make_local_executor("local", tmp_path / "logs"), parallel=2)
    for i in range(3):
        queue.add(str(i), partial((tmp_path / f"{i}.txt").write_text, "done"))
    queue.advance()
    assert len(queue.jobs) == 2
    while queue.advance():
        pass
    assert [(tmp_path / f"{i}.txt").read_text() for i in range(3)] == ["done"] * 3


def test_a_preempted_job_is_submitted_again():
    job = Job("somewhere", "train", 7.0)
    delayed = job.checkpoint()
    assert delayed.function is job


def test_a_dead_process_is_not_running():
    process = subprocess.Popen(["true"])
    process.wait()
    assert not is_running(process.pid)
    assert is_running(1)


def test_a_run_that_makes_no_progress_fails(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    for _ in range(5):
        require_progress(run)
        run.log("start")
    require_progress(run)  # not on SLURM
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    with pytest.raises(ValueError, match=r"5 attempts in a row ended before a step was reported; raise slurm\.time"):
        require_progress(run)
    run.log("failed", error="that")
    require_progress(run)  # --retry-failed starts counting again


def test_sbatch_without_a_cluster_is_reported(tmp_path, monkeypatch, caplog):
    (tmp_path / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_CONF", raising=False)
    assert local_queue.resolve_cluster("auto") == "local"
    assert "is SLURM_CONF right?); running on this machine instead" in caplog.text
