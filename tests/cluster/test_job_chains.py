"""Chains of jobs on a real SLURM, with jobs that do next to nothing; requests also where there is none."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
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
            results=tmp_path, profile=profile, code=code, make=Stub, label=label, parallel=parallel
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
    assert until(lambda: not any(row.alive for row in run_status.query_runs(runs, reap=False)[0])), ask("sacct", "-X")


def queue():
    return ask("squeue", "-h", "-o", "%j").splitlines()


def test_a_suite_is_two_arrays_and_each_evaluation_waits_for_its_own_training(slurm, submission, tmp_path):
    runs = folders(tmp_path, "a", "b", "c")
    (runs[1].path / "broken").touch()
    lines = list(job_chains.submit_runs(submission(parallel=2), runs, []))
    assert [line.partition(":")[0] for line in lines] == ["a", "b", "c"]
    assert all(row.alive for row in run_status.query_runs(runs)[0])
    ids = [jobs(one) for one in runs]
    base = ids[0]["train"]["id"].partition("_")[0]
    assert [own["train"]["id"] for own in ids] == [f"{base}_{i}" for i in range(3)]
    assert "ArrayTaskThrottle=2" in ask("scontrol", "show", "job", base)
    over(*runs)
    assert [(one.path / "evaluate.txt").exists() for one in runs] == [True, False, True]
    assert state_of(ids[1]["train"]["id"]) == "FAILED"
    (row,) = run_status.query_runs(runs[1:2], reap=False)[0]
    assert row.state == "failed" and "RuntimeError: this one is broken" in row.error
    assert row.error[-1] == "its evaluation is cancelled: its training failed"


def test_a_single_run_is_two_jobs_and_a_failure_cancels_the_second(slurm, submission, tmp_path):
    (one,) = runs = folders(tmp_path, "a")
    (one.path / "broken").touch()
    list(job_chains.submit_runs(submission(), runs, []))
    over(one)
    assert state_of(jobs(one)["train"]["id"]) == "FAILED"
    assert state_of(jobs(one)["evaluate"]["id"]).startswith("CANCELLED")
    assert not (one.path / "evaluate.txt").exists()


def test_what_is_trained_is_only_evaluated(slurm, submission, tmp_path):
    (one,) = runs = folders(tmp_path, "a")
    list(job_chains.submit_runs(submission(**{"evaluate.signal_seconds": "77"}), [], runs))
    assert set(jobs(one)) == {"evaluate"}
    over(one)
    assert (one.path / "evaluate.txt").read_text().endswith(" 77")


@pytest.mark.parametrize("parallel", [None, 1])
def test_arrays_keep_to_the_limits_of_the_cluster(slurm, submission, tmp_path, monkeypatch, parallel):
    monkeypatch.setattr("bench.cluster.job_chains.slurm.query_limits", lambda: slurm_limits(2))
    runs = folders(tmp_path, *"abc")
    list(job_chains.submit_runs(submission(parallel=parallel), runs, []))
    first, second, last = (jobs(one)["train"]["id"] for one in runs)
    assert first.endswith("_0") and second == first.replace("_0", "_1") and "_" not in last
    waits = ask("squeue", "-h", "-o", "%E", "-j", last)
    assert ("afterany:" in waits) == (parallel is not None)
    if parallel:  # the other is as any suite
        over(*runs)
        assert all((one.path / "evaluate.txt").exists() for one in runs)


def slurm_limits(array):
    return slurm.ClusterLimits(array=array, jobs=100)


def test_a_request_that_no_node_can_meet_is_refused_and_leaves_nothing(slurm, submission, tmp_path):
    runs = folders(tmp_path, "a", "b")
    with pytest.raises(ValueError, match=r"does not take train-some-\w+: .*node configuration is not available"):
        list(job_chains.submit_runs(submission(gpus_per_node="3"), runs, []))
    with pytest.raises(ValueError, match=r"does not take evaluate-some-\w+: .*node configuration is not available"):
        list(job_chains.submit_runs(submission(**{"evaluate.gpus_per_node": "3"}), runs, []))
    assert until(lambda: not queue())
    assert not list((tmp_path / "runs").glob("*/jobs.json")) and job_chains.cancel_orphans(tmp_path) == []


def test_a_submission_that_was_killed_is_cancelled_when_it_is_made_again(slurm, submission, tmp_path):
    runs = folders(tmp_path, "a", "b")
    made = submission(**{"options.begin": "now+1hour"})

    def killed():
        job_chains.write_jobs_files = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        list(job_chains.submit_runs(made, runs, []))

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and len(set(queue())) == 2
    assert job_chains.cancel_orphans(tmp_path) == ["a", "b"]
    assert until(lambda: not queue())
    assert job_chains.cancel_orphans(tmp_path) == []


def test_what_could_not_be_cancelled_yet_stays_announced(submission, tmp_path, monkeypatch):
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


def test_editing_the_checkout_does_not_change_what_is_queued(slurm, submission, tmp_path, monkeypatch):
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
    assert (code / "bench" / "job.py").is_file() and (code / "architectures" / "dit.py").is_file()
    assert code_snapshot.copy_code(job_chains.jobs_folder(tmp_path), ["wares"]) != code


def test_a_copy_of_the_code_still_knows_its_commit(tmp_path):
    code = code_snapshot.copy_code(tmp_path)
    words = "from bench.cluster import code_snapshot; import json; print(json.dumps(code_snapshot.code_version()))"
    env = {**os.environ, "PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", words], env=env, capture_output=True, text=True, check=True, cwd="/")
    assert json.loads(done.stdout) == code_snapshot.code_version()


def test_a_module_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(ValueError, match="no module 'nowhere' can be found"):
        code_snapshot.copy_code(tmp_path, ["nowhere"])


WORDS = ["--arch", "dit", "--data", "digits", "--dry-run", "--cluster", "slurm"]


@pytest.mark.parametrize("name", sorted(path.stem for path in profiles.PROFILES_FOLDER.glob("*.toml")))
def test_every_profile_becomes_a_request_that_is_shown_in_full(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.chdir(tmp_path)
    assert run.main([*WORDS, "--profile", name, "--set", "slurm.time=1-2:30", "--set", "slurm.account=mine"]) == 0
    train, evaluate = capsys.readouterr().out.split("# ---- train: sbatch ----")[1].split("# ---- evaluate")
    for line in ("#SBATCH --time=1590", "#SBATCH --account=mine", "#SBATCH --requeue", "--signal=USR2@", "\nsrun "):
        assert line in train
    assert "--dependency=afterok:ID_OF_TRAINING" in evaluate and "--kill-on-invalid-dep=yes" in evaluate
    assert not list(tmp_path.iterdir())


def test_a_suite_is_shown_as_arrays(capsys, tmp_path, monkeypatch):
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
def test_each_style_asks_for_what_it_is_named_for(name, tmp_path):
    found = job_chains.submission_scripts(tmp_path, profiles.load_profile(name), 1, None, "one")
    for line in STYLES[name]:
        assert line in found["train"]
    assert "#SBATCH --nodes=1" in found["evaluate"] and "#SBATCH --gpus-per-node=1\n" in found["evaluate"]


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
    "time=2": "no longer than the notice",
    "env.1A=x": "no name of an environment variable",
    "env=A=x": "write slurm.env.NAME=VALUE",
    "options.signal=USR1@5": "slurm.options.signal is not free",
    "partition=a\nb": "holds a line break",
}


@pytest.mark.parametrize("setting", MISTAKES)
def test_a_mistaken_setting_gets_one_sentence(setting, capsys):
    assert run.main([*WORDS, "--set", f"slurm.{setting}"]) == 2
    err = capsys.readouterr().err
    assert MISTAKES[setting] in err and err.count("\n") == 1


@pytest.mark.parametrize("words", [["--set", "slurm=3"], ["--set", "compute.processes=2"]])
def test_settings_that_are_slurms_are_asked_for_in_its_words(words, capsys):
    assert run.main([*WORDS, *words]) == 2
    assert "slurm." in capsys.readouterr().err


def test_lists_and_tables_can_be_set(tmp_path):
    settings = {"setup": '["a", "b"]', "srun": "--mpi=pmix", "env.X": "1 2", "options.exclusive": "true"}
    text = job_chains.submission_scripts(tmp_path, profiles.load_profile("default", settings), 1, None, "one")["train"]
    for line in ("\na\nb\n", " --mpi=pmix ", "\nexport X='1 2'\n", "#SBATCH --exclusive\n"):
        assert line in text
