"""A real SLURM: slurm/dev-cluster, and what our code asks of it.  Skipped where it cannot be started."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALLEST, TINY, ask, state_of, until, words_of

from bench import run, status
from bench.cluster import job_chains, local_queue, profiles
from bench.records.record import read_records
from bench.storage.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
NODES = [f"node{i}" for i in range(1, 5)]


def dev_cluster(state, *words):
    command = [str(ROOT / "slurm" / "dev-cluster"), *words, "--state", str(state)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def processes_of(state):
    """What runs with this cluster's configuration in its environment."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"SLURM_CONF={state}/slurm.conf".encode() in path.read_bytes().split(b"\0"):
                lines.append((path.parent / "cmdline").read_text())
        except OSError:
            continue
    return lines


def test_the_dev_cluster_has_two_partitions_with_gpus(slurm):
    def node_rows():
        return {tuple(line.split()) for line in ask("sinfo", "-h", "-N", "-o", "%N %R %T %G").splitlines()}

    idle = {(node, part, "idle", "gpu:2") for node in NODES for part in ("normal", "preemptable")}
    until(lambda: node_rows() == idle)
    assert node_rows() == idle
    assert ask("srun", "--gpus-per-node=2", "printenv", "CUDA_VISIBLE_DEVICES") == "0,1"
    assert set(ask("srun", "-N", "4", "hostname").split()) == set(NODES)


def test_the_cluster_listens_on_the_loopback_only(slurm):
    base = int((slurm / "port").read_text())
    heard = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            (address, port), kind = line.split()[1].split(":"), line.split()[3]
            if kind == "0A" and base <= int(port, 16) < base + 2 + len(NODES):
                heard[int(port, 16)] = address
    assert heard == {base + i: "0100007F" for i in range(2 + len(NODES))}


def test_dev_cluster_up_restores_a_killed_node(slurm):
    before = {path.name: path.read_text() for path in (slurm / "run").glob("*.pid")}
    os.kill(int(before["node4.pid"].split()[0]), signal.SIGKILL)
    assert until(lambda: dev_cluster(slurm, "status").returncode == 1)
    assert dev_cluster(slurm, "up").returncode == 0
    after = {path.name: path.read_text() for path in (slurm / "run").glob("*.pid")}
    assert {name for name in before if before[name] != after[name]} == {"node4.pid"}
    assert dev_cluster(slurm, "status").returncode == 0
    assert ask("srun", "-w", "node4", "hostname") == "node4"


def test_down_ends_everything_also_after_a_crash_of_up(slurm, short_path):
    other = short_path / "other"
    with subprocess.Popen([ROOT / "slurm" / "dev-cluster", "up", "--state", other, "--nodes", "1"]) as up:
        assert until(lambda: (other / "run" / "slurmdbd.pid").exists())
        up.kill()
    assert processes_of(other)
    for _ in range(2):
        assert dev_cluster(other, "down").returncode == 0
        assert not processes_of(other) and not list(short_path.iterdir())
    assert dev_cluster(slurm, "status").returncode == 0, "another cluster was hit"


def test_down_leaves_a_folder_alone_that_is_no_cluster(slurm, short_path):
    (short_path / "thesis.tex").write_text("years of work")
    done = dev_cluster(short_path, "down")
    assert done.returncode == 2 and "holds files of another program" in done.stderr
    assert (short_path / "thesis.tex").read_text() == "years of work"


def test_a_preemptable_job_is_signalled_and_makes_room(slurm, tmp_path):
    script = "#!/bin/bash\ntrap 'echo signalled; exit' USR2\necho started\nwhile true; do sleep 0.1; done\n"
    (tmp_path / "job.sh").write_text(script)
    log = tmp_path / "log"
    flags = ["--parsable", "-w", "node1", "--exclusive", "-t", "60"]
    ask("sbatch", *flags, "-p", "preemptable", "--signal=B:USR2@60", "-o", str(log), str(tmp_path / "job.sh"))
    assert until(lambda: log.exists() and "started" in log.read_text())
    urgent = ask("sbatch", *flags, "--wrap", "true", "-o", "/dev/null")
    assert until(lambda: state_of(urgent) == "COMPLETED")
    assert "signalled" in log.read_text()


def test_the_request_of_the_default_profile_is_accepted(slurm, tmp_path):
    for stage, text in job_chains.submission_scripts(
        tmp_path, profiles.load_profile("default"), 1, None, "one"
    ).items():
        script = [line for line in text.splitlines() if "--dependency" not in line]
        (tmp_path / stage).write_text("\n".join(script))
        subprocess.run(["sbatch", "--test-only", str(tmp_path / stage)], check=True, timeout=30)


def test_a_run_from_a_login_node_ends_in_a_record(slurm, results, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["--arch", "dit", "--data", "digits", "--results", str(results)]
    words += [*words_of({**TINY, **SMALLEST["dit"]}), "--cluster", "auto"]
    assert run.main(words) == 0
    pattern = r"submitted (\S+): train (\d+) -> evaluate (\d+)"
    name, train, evaluate = re.search(pattern, capsys.readouterr().out).groups()
    folder = results / "runs" / name
    assert run.main(words) == 0
    assert f"{name} is in the queue already: train {train}" in capsys.readouterr().out
    assert until(lambda: state_of(evaluate) not in ("", "PENDING", "RUNNING"))
    logs = {stage: Path(job["log"]) for stage, job in json.loads((folder / "jobs.json").read_text())["jobs"].items()}
    logged = "\n".join(log.read_text() + log.with_suffix(".err").read_text() for log in logs.values() if log.exists())
    assert [state_of(job) for job in (train, evaluate)] == ["COMPLETED"] * 2, logged
    assert "\ntrained" in logs["train"].read_text() and "\ndone" in logs["evaluate"].read_text()
    fields = ask("sacct", "-X", "-n", "-P", "-o", "AllocTRES,Timelimit,NodeList", "-j", train).split("|")
    assert "gres/gpu=1" in fields[0] and fields[1] == "1-00:00:00" and fields[2] in NODES
    starts = [e for e in RunFolder(folder).events()[0] if e["event"] == "start"]
    assert [(e["stage"], e["job"]) for e in starts] == [("train", train), ("evaluate", evaluate)]
    assert (results / "leaderboard.md").is_file(), "the row is there when the last job ends"
    assert run.main(words) == 0
    assert "done already" in capsys.readouterr().out


def test_two_nodes_of_two_ranks_match_one_rank(slurm, results, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["--arch", "dit", "--data", "digits", *words_of({**TINY, **SMALLEST["dit"], "budget.images": 480})]
    assert run.main([*words, "--results", str(results), "--cluster", "debug"]) == 0
    (results.parent / "four").mkdir()
    (results.parent / "four" / "cache").symlink_to(results / "cache")
    four = {"slurm.nodes": 2, "slurm.tasks_per_node": 2, "slurm.gpus_per_node": 0, "slurm.cpus_per_task": 1}
    words += [*words_of(four), "--results", str(results.parent / "four"), "--cluster", "slurm"]
    assert run.main(words) == 0
    job = re.search(r"evaluate (\d+)", capsys.readouterr().out)[1]
    assert until(lambda: state_of(job) not in ("", "PENDING", "RUNNING"))
    one, many = (RunFolder(next((folder / "runs").glob("dit*"))) for folder in (results, results.parent / "four"))
    assert state_of(job) == "COMPLETED", (many.path / "log.jsonl").read_text()
    assert mean_loss(many) == pytest.approx(mean_loss(one), rel=1e-5)
    assert {e["processes"] for e in many.events()[0] if e["event"] == "train"} == {4}
    images = [np.load(run.export_path(480, "npz"))["arr_0"].astype(int) for run in (one, many)]
    assert np.abs(images[0] - images[1]).max() <= 1 and (images[0] == images[1]).mean() > 0.999


def mean_loss(run):
    """Over all of training, from the log."""
    events = [e for e in run.events()[0] if e["event"] == "train"]
    counts = np.diff([0, *(e["images"] for e in events)])
    return np.average([e["loss"] for e in events], weights=counts)


FAILING = {"recipe.lr": "1e30", "recipe.warmup": "0", "recipe.clip": "0", "slurm.gpus_per_node": 0}


def test_a_failed_job_leaves_a_record_and_is_not_retried(slurm, results, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["--arch", "dit", "--data", "digits", "--results", str(results), "--cluster", "slurm"]
    words += words_of({**TINY, **SMALLEST["dit"], **FAILING})
    assert run.main(words) == 0
    train, evaluate = re.search(r"train (\d+) -> evaluate (\d+)", capsys.readouterr().out).groups()
    assert until(lambda: state_of(evaluate).startswith("CANCELLED")), state_of(train)
    assert state_of(train) == "FAILED"
    (one,) = read_records(results)
    assert one.status == "diverged" and "a lower recipe.lr may help" in one.error
    assert [i["kind"] for i in one.incidents] == ["rollback"] * 3 + ["diverged"]
    assert status.main(["--results", str(results), "--failed"]) == 1
    out = capsys.readouterr().out
    assert "diverged" in out and "a lower recipe.lr may help" in out and "evaluation is cancelled" in out
    assert run.main(words) == 1
    assert "diverged, which it would do again; --fresh starts it over" in capsys.readouterr().out


def test_sbatch_without_a_configuration_is_no_cluster(slurm, monkeypatch):
    assert local_queue.resolve_cluster("auto") == "slurm"
    monkeypatch.setenv("SLURM_CONF", "/nonexistent")
    assert local_queue.resolve_cluster("auto") == "local"
    with pytest.raises(ValueError, match="finds no configuration"):
        local_queue.resolve_cluster("slurm")
