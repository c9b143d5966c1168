"""Submissions of trivial jobs to a real SLURM; sbatch scripts also without SLURM."""

import dataclasses
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from helpers import ask, state_of, until
from stubjob import Stub

from bench import run
from bench.cluster import code_snapshot, job_chains, profiles, run_status, slurm
from bench.storage.run_folder import RunFolder

TESTS = Path(__file__).parents[1]
SMALL = {"gpus_per_node": "0", "cpus_per_task": "1", "mem_gb": "1"}


@pytest.fixture
def submission(tmp_path, monkeypatch):
    """A submission of stub jobs."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))

    def make(label="some", parallel=None, code=Path("/nonexistent"), **settings):
        profile = profiles.load_profile("default", {**SMALL, **settings})
        return job_chains.Submission(
            results=tmp_path, profile=profile, code=code, job_factory=Stub, label=label, parallel=parallel
        )

    return make


def folders(results, *names):
    runs = [RunFolder(results / "runs" / name) for name in names]
    for one in runs:
        one.path.mkdir(parents=True, exist_ok=True)
    return runs


def jobs(one):
    return json.loads((one.path / "jobs.json").read_text())["jobs"]


def over(*runs):
    """Wait until nothing of these runs is in the queue."""
    assert until(lambda: not any(row.alive for row in run_status.query_runs(runs, record_failures=False)[0])), ask(
        "sacct", "-X"
    )


def queue():
    return ask("squeue", "-h", "-o", "%j").splitlines()


def test_a_suite_is_two_arrays_with_task_dependencies(slurm, submission, tmp_path):
    runs = folders(tmp_path, "a", "b", "c")
    (runs[1].path / "broken").touch()
    lines = list(job_chains.submit_runs(submission(parallel=2), runs, []))
    assert [line.partition(":")[0] for line in lines] == ["a", "b", "c"]
    assert all(row.alive for row in run_status.query_runs(runs)[0])
    ids = [jobs(one) for one in runs]
    base = ids[0]["train"]["id"].partition("_")[0]
    assert [of_run["train"]["id"] for of_run in ids] == [f"{base}_{i}" for i in range(3)]
    assert "ArrayTaskThrottle=2" in ask("scontrol", "show", "job", base)
    over(*runs)
    assert [(one.path / "evaluate.txt").exists() for one in runs] == [True, False, True]
    assert state_of(ids[1]["train"]["id"]) == "FAILED"
    (row,) = run_status.query_runs(runs[1:2], record_failures=False)[0]
    assert row.state == "failed" and "RuntimeError: this one is broken" in row.error
    assert row.error[-1] == "its evaluation is cancelled: its training failed"


def test_a_failed_training_cancels_its_evaluation(slurm, submission, tmp_path):
    (one,) = runs = folders(tmp_path, "a")
    (one.path / "broken").touch()
    list(job_chains.submit_runs(submission(), runs, []))
    over(one)
    assert state_of(jobs(one)["train"]["id"]) == "FAILED"
    assert state_of(jobs(one)["evaluate"]["id"]).startswith("CANCELLED")
    assert not (one.path / "evaluate.txt").exists()


def test_a_trained_run_is_only_evaluated(slurm, submission, tmp_path):
    (one,) = runs = folders(tmp_path, "a")
    list(job_chains.submit_runs(submission(**{"evaluate.signal_seconds": "77"}), [], runs))
    assert set(jobs(one)) == {"evaluate"}
    over(one)
    assert (one.path / "evaluate.txt").read_text().endswith(" 77")


@pytest.mark.parametrize("parallel", [None, 1])
def test_arrays_keep_the_limits_of_the_cluster(slurm, submission, tmp_path, monkeypatch, parallel):
    monkeypatch.setattr("bench.cluster.job_chains.slurm.query_limits", lambda: slurm_limits(2))
    runs = folders(tmp_path, *"abc")
    list(job_chains.submit_runs(submission(parallel=parallel), runs, []))
    first, second, last = (jobs(one)["train"]["id"] for one in runs)
    assert first.endswith("_0") and second == first.replace("_0", "_1") and "_" not in last
    waits = ask("squeue", "-h", "-o", "%E", "-j", last)
    assert ("afterany:" in waits) == (parallel is not None)
    if parallel:  # without it, other tests cover the rest
        over(*runs)
        assert all((one.path / "evaluate.txt").exists() for one in runs)


def slurm_limits(array):
    return slurm.ClusterLimits(array=array, jobs=100)


def test_a_refused_request_leaves_nothing(slurm, submission, tmp_path):
    runs = folders(tmp_path, "a", "b")
    with pytest.raises(ValueError, match=r"refused train-some-\w+: .*node configuration is not available"):
        list(job_chains.submit_runs(submission(gpus_per_node="3"), runs, []))
    with pytest.raises(ValueError, match=r"refused evaluate-some-\w+: .*node configuration is not available"):
        list(job_chains.submit_runs(submission(**{"evaluate.gpus_per_node": "3"}), runs, []))
    assert until(lambda: not queue())
    assert not list((tmp_path / "runs").glob("*/jobs.json")) and job_chains.cancel_orphans(tmp_path) == []


def test_jobs_of_a_killed_submission_are_cancelled(slurm, submission, tmp_path):
    runs = folders(tmp_path, "a", "b")
    delayed = submission(**{"options.begin": "now+1hour"})

    def killed():
        job_chains.write_jobs_files = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        list(job_chains.submit_runs(delayed, runs, []))

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and len(set(queue())) == 2
    assert job_chains.cancel_orphans(tmp_path) == ["a", "b"]
    assert until(lambda: not queue())
    assert job_chains.cancel_orphans(tmp_path) == []


def test_orphans_stay_announced_until_cancelled(submission, tmp_path, monkeypatch):
    calls = []

    def ask(*command):
        calls.append(command)
        if len(calls) == 1:
            raise slurm.SlurmUnavailable("scancel gave no answer")
        return ""

    monkeypatch.setattr(slurm, "run_client", ask)
    with pytest.raises(KeyboardInterrupt), job_chains.announced_submission(submission(), folders(tmp_path, "a")):
        raise KeyboardInterrupt
    assert job_chains.cancel_orphans(tmp_path) == ["a"] and job_chains.cancel_orphans(tmp_path) == []
    assert [command[:2] for command in calls[1:]] == [("scancel", "--me")] * 2 and "train-some" in calls[1][2]


def test_editing_the_checkout_does_not_change_queued_jobs(slurm, submission, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    module = tmp_path / "mine" / "wares.py"
    module.write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    code = code_snapshot.copy_code(job_chains.jobs_folder(tmp_path), ["wares.sub"])
    assert code == code_snapshot.copy_code(job_chains.jobs_folder(tmp_path), ["wares"]), "equal code is one folder"
    (one,) = runs = folders(tmp_path, "a")
    list(job_chains.submit_runs(submission(code=code, **{"options.begin": "now+3", "env.SAY": "wares"}), runs, []))
    module.write_text("raise RuntimeError('edited')\n")
    over(one)
    assert (one.path / "train.txt").read_text().startswith(str(code / "wares.py"))
    assert (code / "bench" / "runs" / "job.py").is_file() and (code / "architectures" / "dit.py").is_file()
    assert code_snapshot.copy_code(job_chains.jobs_folder(tmp_path), ["wares"]) != code


WORDS = ["--arch", "dit", "--data", "digits", "--dry-run", "--cluster", "slurm"]


@pytest.mark.parametrize("name", sorted(path.stem for path in profiles.PROFILES_FOLDER.glob("*.toml")))
def test_every_profile_is_a_complete_sbatch_script(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.chdir(tmp_path)
    assert run.main([*WORDS, "--profile", name, "--set", "slurm.time=1-2:30", "--set", "slurm.account=mine"]) == 0
    train, evaluate = capsys.readouterr().out.split("# ---- train: sbatch ----")[1].split("# ---- evaluate")
    for line in ("#SBATCH --time=1590", "#SBATCH --account=mine", "#SBATCH --requeue", "--signal=USR2@", "\nsrun "):
        assert line in train
    assert "--dependency=afterok:ID_OF_TRAINING" in evaluate and "--kill-on-invalid-dep=yes" in evaluate
    assert not list(tmp_path.iterdir())


def test_a_dry_run_shows_a_suite_as_arrays(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--suite", "quickstart", "--dry-run", "--cluster", "slurm", "--parallel", "2"]
    assert run.main(words) == 0
    out = capsys.readouterr().out
    assert out.count("#SBATCH --array=0-2%2") == 2 and "--dependency=aftercorr:ID_OF_TRAINING" in out


STYLES = {
    "modules": ["module load cuda", "source .venv/bin/activate", " python -u -m submitit"],
    "conda": ["conda activate bench", " python -u -m submitit"],
    "apptainer": [" apptainer exec --nv bench.sif python -u -m submitit"],
    "pyxis": ["--container-image=/shared/images/bench.sqsh", "--container-mounts=/shared:/shared"],
    "multinode": ["#SBATCH --nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "#SBATCH --exclusive\n", "NCCL_"],
    "preemptable": ["#SBATCH --partition=preemptable"],
}


@pytest.mark.parametrize("name", STYLES)
def test_each_profile_requests_its_resources(name, tmp_path):
    scripts = job_chains.submission_scripts(tmp_path, profiles.load_profile(name), 1, None, "one")
    for line in STYLES[name]:
        assert line in scripts["train"]
    assert "#SBATCH --nodes=1" in scripts["evaluate"] and "#SBATCH --gpus-per-node=1\n" in scripts["evaluate"]


TIMES = {"90": 90, "1:30:00": 90, "90:01": 91, "1-0": 1440, "2-3:04": 3064, "1-0:0:1": 1441, "0:30:30": 31}


@pytest.mark.parametrize("text", TIMES)
def test_times_are_read_as_sbatch_reads_them(text):
    assert profiles.JobRequest(time=text).time_minutes == TIMES[text]


MISTAKES = {
    "time=soon": "slurm.time is 'soon'; write it as sbatch does",
    "tiem=1": "did you mean slurm.time?",
    "evaluate.partitions=x": "did you mean slurm.partition or",
    "nodes=0": "slurm.nodes is 0; it must be at least 1",
    "nodes=two": "slurm.nodes is 'two'",
    "time=2": "must be longer than slurm.signal_seconds",
    "env.1A=x": "not a valid name of an environment variable",
    "env=A=x": "write slurm.env.NAME=VALUE",
    "options.signal=USR1@5": "slurm.options.signal is set by bench",
    "partition=a\nb": "holds a line break",
}


@pytest.mark.parametrize("setting", MISTAKES)
def test_an_invalid_setting_gets_one_sentence(setting, capsys):
    assert run.main([*WORDS, "--set", f"slurm.{setting}"]) == 2
    err = capsys.readouterr().err
    assert MISTAKES[setting] in err and err.count("\n") == 1


@pytest.mark.parametrize("words", [["--set", "slurm=3"], ["--set", "compute.processes=2"]])
def test_slurm_settings_have_the_slurm_prefix(words, capsys):
    assert run.main([*WORDS, *words]) == 2
    assert "slurm." in capsys.readouterr().err


def test_lists_and_tables_can_be_set(tmp_path):
    settings = {"setup": '["a", "b"]', "srun": "--mpi=pmix", "env.X": "1 2", "options.exclusive": "true"}
    text = job_chains.submission_scripts(tmp_path, profiles.load_profile("default", settings), 1, None, "one")["train"]
    for line in ("\na\nb\n", " --mpi=pmix ", "\nexport X='1 2'\n", "#SBATCH --exclusive\n"):
        assert line in text


def test_every_field_of_a_job_request_reaches_sbatch():
    """`python` is the exception: it starts the job's script, see STYLES."""
    request = profiles.JobRequest()
    for field in (f for f in dataclasses.fields(request) if f.name != "python"):
        value = getattr(request, field.name)
        other = {"time": "1:00:00", "setup": ("true",), "srun": ("--label",)}.get(field.name)
        other = other or ("x" if isinstance(value, str) else {"A": "b"} if isinstance(value, dict) else value + 2)
        changed = dataclasses.replace(request, **{field.name: other})
        assert changed.parameters() != request.parameters(), field.name
