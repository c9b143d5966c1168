"""A real SLURM: slurm/dev-cluster, and what our code asks of it.  Skipped where it cannot be started."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from helpers import SMALLEST, TINY, ask, state_of, until

from bench import run, submit
from bench.job import Job

ROOT = Path(__file__).parent.parent
NODES = [f"node{i}" for i in range(1, 5)]


def dev_cluster(state, *words):
    command = [str(ROOT / "slurm" / "dev-cluster"), *words, "--state", str(state)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def processes_of(state):
    """What runs with this cluster's configuration in its environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"SLURM_CONF={state}/slurm.conf".encode() in path.read_bytes().split(b"\0"):
                found.append((path.parent / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_the_cluster_has_idle_nodes_with_fake_gpus_in_two_partitions(slurm):
    rows = {tuple(line.split()) for line in ask("sinfo", "-h", "-N", "-o", "%N %R %T %G").splitlines()}
    assert rows == {(node, part, "idle", "gpu:2") for node in NODES for part in ("normal", "preemptable")}
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


def test_up_twice_changes_nothing_and_a_node_that_was_killed_comes_back(slurm):
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
    assert done.returncode == 2 and "holds other things" in done.stderr
    assert (short_path / "thesis.tex").read_text() == "years of work"


def test_a_job_of_the_preemptable_partition_is_signalled_and_makes_room(slurm, tmp_path):
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
    text = submit.executor("slurm", tmp_path)._executor._make_submission_file_text("true", "uid")
    (tmp_path / "request.sh").write_text(text)
    subprocess.run(["sbatch", "--test-only", str(tmp_path / "request.sh")], check=True, timeout=30)


def test_a_request_that_no_node_can_meet_is_refused_at_once(slurm, tmp_path):
    made = submit.executor("slurm", tmp_path)
    made.update_parameters(gpus_per_node=3)
    queue = submit.Queue(made, parallel=1)
    queue.add("much", Job(str(tmp_path)))
    with pytest.raises(ValueError, match=r"does not take much: .*node configuration is not available"):
        queue.advance()


def test_the_command_of_a_login_node_ends_in_a_record_made_on_a_node(slurm, results, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = [word for k, v in {**TINY, **SMALLEST["dit"]}.items() for word in ("--set", f"{k}={v}")]
    words = ["--arch", "dit", "--data", "digits", "--results", str(results), *settings]
    assert run.main([*words, "--cluster", "auto"]) == 0
    name, job, log = re.search(r"submitted (\S+) as job (\d+), log (\S+)", capsys.readouterr().out).groups()
    assert until(lambda: state_of(job) not in ("", "PENDING", "RUNNING"), 120)
    told = Path(log).read_text() + Path(log).with_suffix(".err").read_text()
    assert state_of(job) == "COMPLETED", told
    assert (results / "runs" / name / "record.json").is_file(), told
    assert "\ndone" in told
    fields = ask("sacct", "-X", "-n", "-P", "-o", "AllocTRES,Timelimit,NodeList", "-j", job).split("|")
    assert "gres/gpu=1" in fields[0] and fields[1] == "1-00:00:00" and fields[2] in NODES
    events = [json.loads(line) for line in (results / "runs" / name / "log.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events].count("start") == 1
    assert run.main(words) == 0
    assert "done already" in capsys.readouterr().out


def test_sbatch_without_a_configuration_is_no_cluster(slurm, monkeypatch):
    assert submit.resolve_cluster("auto") == "slurm"
    monkeypatch.setenv("SLURM_CONF", "/nonexistent")
    assert submit.resolve_cluster("auto") == "local"
    with pytest.raises(ValueError, match="finds no configuration"):
        submit.resolve_cluster("slurm")
