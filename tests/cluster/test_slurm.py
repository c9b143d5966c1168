"""Job states from recorded answers of SLURM 22.05.8, and from a real SLURM where one can be started."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from helpers import until

from bench.cluster import slurm as queries

RECORDED = json.loads((Path(__file__).parents[1] / "goldens" / "slurm-22.05.json").read_text())["situations"]

MEANING = {
    "array just submitted": {"6_0": "PENDING alive", "6_6": "PENDING alive"},
    "array partly pending": {"6_1": "RUNNING alive on node1", "6_4": "PENDING alive: JobArrayTaskLimit"},
    "job just submitted": {"14": "RUNNING alive on node1"},
    "tasks cancelled, running and pending": {
        **{"6_0": "CANCELLED on node1: by root", "6_5": "CANCELLED: before it started"},
        **{"6_2": "RUNNING alive on node1", "6_3": "PENDING alive: JobArrayTaskLimit"},
    },
    "pending job cancelled": {"16": "CANCELLED: by root"},
    "requeued, right after": {
        **{"17_1": "PENDING alive: BeginTime after 1 REQUEUED", "17_0": "RUNNING alive on node1"},
    },
    "requeued, after 5 s": {"17_1": "PENDING alive: BeginTime after 1 REQUEUED"},
    "requeued, running again": {"17_1": "RUNNING alive on node1 after 1 REQUEUED"},
    "requeued, ended": {"17_1": "COMPLETED on node1 after 1 REQUEUED", "17_0": "COMPLETED on node1"},
    "running jobs cancelled": {"9": "CANCELLED on node1: by root", "11": "CANCELLED on node1: by root"},
    "dependency waits": {"20": "PENDING alive", "21": "PENDING alive: Dependency"},
    "afterok of a failed job": {
        **{"20": "FAILED on node1", "21": "CANCELLED: Dependency"},
        "22": "PENDING alive: DependencyNeverSatisfied",
    },
    "aftercorr and afterok of an array with a failure": {
        **{"24_1": "FAILED on node1", "24_3": "COMPLETED on node1"},
        **{"25_0": "COMPLETED on node1", "25_1": "CANCELLED: Dependency", "25_2": "COMPLETED on node1"},
        **{"26_0": "CANCELLED: Dependency", "26_3": "CANCELLED: Dependency"},
        "27_1": "PENDING alive: DependencyNeverSatisfied",
    },
    "aftercorr of a requeued task": {
        **{"37_1": "PENDING alive: BeginTime after 1 REQUEUED", "38_1": "PENDING alive: Dependency"},
        "38_0": "COMPLETED on node1",
    },
    "time limit": {"7": "TIMEOUT on node1: TimeLimit"},
    "killed for its memory": {"1": "FAILED on node3"},
    "preempted": {
        **{"6": "PENDING alive: BeginTime after 1 PREEMPTED", "4_0": "RUNNING alive on node3"},
        "4_1": "PENDING alive: Resources",
    },
    "node off, unnoticed": {"2": "RUNNING alive on node2", "6": "RUNNING alive on node4 after 1 PREEMPTED"},
    "node failed": {"2": "PENDING alive: BeginTime after 1 NODE_FAIL"},
    "node failed, long ago": {
        "2": "PENDING alive: ReqNodeNotAvail, UnavailableNodes:node2 after 1 NODE_FAIL",
        "6": "COMPLETED on node4 after 1 PREEMPTED",
    },
    "pending task cancelled, right after": {
        **{"53_2": "CANCELLED: before it started", "54_2": "PENDING alive: Dependency"},
    },
    "pending task cancelled, after 6 s": {"53_2": "CANCELLED: before it started", "53_1": "RUNNING alive on node1"},
    "tasks cancelled, dependents": {"54_1": "CANCELLED: Dependency", "54_2": "CANCELLED: Dependency"},
    "node of a task failed": {"10_1": "PENDING alive after 1 NODE_FAIL", "11_1": "PENDING alive: Dependency"},
}


def words(state):
    text = state.state + " alive" * state.alive
    text += f" on {state.node}" if state.node else ""
    text += f": {state.reason}" if state.reason else ""
    return text + (f" after {state.restarts} {state.previous_end}" if state.restarts else "")


@pytest.mark.parametrize("situation", RECORDED)
def test_recorded_answers_are_understood(situation, fake):
    fake.answer("sacct", "\n".join(RECORDED[situation]["sacct"]))
    fake.answer("squeue", "\n".join(RECORDED[situation]["squeue"]))
    wanted = MEANING[situation]
    assert {id_: words(state) for id_, state in queries.query_job_states(wanted).items()} == wanted
    assert len(fake.calls("sacct")) == 1 and len(fake.calls("squeue")) <= 1


def test_tasks_are_queried_by_the_id_of_their_array(fake):
    fake.answer("sacct", "7_[0-499]|2026-11-23T03:00:00|CANCELLED by 0|0:0|0|None assigned|None\n" * 2)
    states = queries.query_job_states(f"7_{i}" for i in range(500))
    assert len(states) == 500 and {s.state for s in states.values()} == {"CANCELLED"}
    assert len(fake.calls("sacct")) == 1 and fake.calls("sacct")[0].endswith(" -j 7")
    assert not fake.calls("squeue"), "all is over for certain, so the queue has nothing to add"


def test_many_jobs_need_few_command_lines(fake):
    fake.answer("squeue", "\n".join(f"{i}|PENDING||0:00|Priority" for i in range(10_000_000, 10_001_000)))
    states = queries.query_job_states(str(i) for i in range(10_000_000, 10_001_000))
    assert {s.reason for s in states.values()} == {"Priority"}
    assert len(fake.calls("sacct")) == 1
    assert [len(some) for some in queries.split_arguments(["1" * 9] * 25_000)] == [10_000, 10_000, 5_000]


@pytest.mark.parametrize(
    ("job", "ids"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("123_[4-6,12%2]", ["123_4", "123_5", "123_6", "123_12"]),
        ("1_[0-6:3]", ["1_0", "1_3", "1_6"]),
    ],
)
def test_ranges_of_tasks_are_expanded(job, ids):
    assert list(queries.expand_job_ids(job)) == ids


def test_without_accounting_only_squeue_is_asked(fake):
    fake.answer("sacct", "", error="Slurm accounting storage is disabled\n", status=1)
    fake.answer("squeue", "3|RUNNING|node1|1-02:03:04|None\n4|FAILED|node2|0:07|NonZeroExitCode")
    states = queries.query_job_states(["3", "4", "5"])
    expected = ["RUNNING alive on node1", "FAILED on node2: NonZeroExitCode", "UNKNOWN"]
    assert [words(s) for s in states.values()] == expected
    assert states["3"].elapsed_seconds == 93784


def test_a_job_only_sacct_believes_in_is_unknown(fake):
    fake.answer("sacct", "3|2026-11-23T03:00:00|RUNNING|0:0|60|node1|None")
    fake.answer("squeue", "", error="slurm_load_jobs error: Invalid job id specified\n", status=1)
    assert words(queries.query_job_states(["3"])["3"]) == "UNKNOWN on node1"


@pytest.mark.parametrize("word", sorted(queries.REQUEUABLE_STATES))
def test_an_interrupted_job_is_alive_if_it_is_queued(word, fake):
    fake.answer("sacct", f"3|2026-11-23T03:00:00|{word}|0:0|60|node1|None")
    assert words(queries.query_job_states(["3"])["3"]) == f"{word} on node1"
    fake.answer("squeue", "3|PENDING||0:00|BeginTime")
    assert words(queries.query_job_states(["3"])["3"]) == f"PENDING alive: BeginTime after 1 {word}"


def test_a_silent_controller_is_named(fake, monkeypatch):
    fake.answer("squeue", "", error="slurm_load_jobs error: Unable to contact slurm controller\n", status=1)
    with pytest.raises(queries.SlurmUnavailable, match=r"^squeue failed \(.*slurm controller\); is SLURM up\?$"):
        queries.query_job_states(["3"])
    monkeypatch.setattr(queries, "TIMEOUT_SECONDS", 0.2)
    fake.answer("squeue", "", seconds=2)
    with pytest.raises(queries.SlurmUnavailable, match="squeue gave no answer in 0 s"):
        queries.query_job_states(["3"])
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(queries.SlurmUnavailable, match="squeue is not on PATH"):
        queries.query_job_states(["3"])


def test_many_jobs_are_cancelled_by_one_scancel(fake):
    queries.cancel_jobs(["7_1", "7_2", "9", "8_5", "8_5"])
    assert fake.calls("scancel") == ["scancel 7_[1,2] 9 8_[5]"]
    queries.cancel_jobs([])
    assert len(fake.calls("scancel")) == 1


def test_cancelling_an_ended_job_is_no_error(fake):
    gone = "scancel: error: Kill job error on job id 9: Invalid job id specified\n"
    fake.answer("scancel", "", error=gone, status=1)
    queries.cancel_jobs(["9"])
    fake.answer("scancel", "", error=f"scancel: error: job id 8: Access/permission denied\n{gone}", status=1)
    with pytest.raises(queries.SlurmUnavailable, match="permission denied"):
        queries.cancel_jobs(["8", "9"])


def test_the_array_limit_is_the_smaller_of_two(fake):
    text = "MaxArraySize            = 1001\nMaxJobCount             = 10000\nSchedulerParameters     = {}\n"
    fake.answer("scontrol", text.format("(null)"))
    assert queries.query_limits() == queries.ClusterLimits(array=1001, jobs=10000)
    fake.answer("scontrol", text.format("bf_interval=2,max_array_tasks=50"))
    assert queries.query_limits().array == 50


def sbatch(*words):
    command = ["sbatch", "--parsable", "-o", "/dev/null", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def state(id_):
    return queries.query_job_states([id_])[id_]


def test_real_slurm_job_from_start_to_end(slurm):
    good, bad = sbatch("--wrap", "true"), sbatch("--wrap", "exit 3")
    assert state(bad).state != "UNKNOWN"
    assert until(lambda: state(good).finished)
    assert until(lambda: state(bad).exit_code == "3:0") and state(bad).state == "FAILED"
    assert words(state("999999")) == "UNKNOWN"


def test_real_slurm_requeue_and_cancel(slurm, monkeypatch):
    monkeypatch.setenv("SQUEUE_PARTITION", "preemptable")
    monkeypatch.setenv("SCANCEL_INTERACTIVE", "1")
    array = sbatch("-a", "0-2%1", "--wrap", "sleep 60")
    ids = [f"{array}_{i}" for i in range(3)]
    assert until(lambda: state(ids[0]).state == "RUNNING")
    assert all(s.alive for s in queries.query_job_states(ids).values())
    subprocess.run(["scontrol", "requeue", ids[0]], check=True, timeout=30)
    assert until(lambda: state(ids[0]).restarts == 1) and state(ids[0]).alive
    queries.cancel_jobs(ids)
    assert until(lambda: not any(s.alive for s in queries.query_job_states(ids).values()))
    assert {s.state for s in queries.query_job_states(ids).values()} == {"CANCELLED"}


def test_real_slurm_cancels_unmet_dependencies(slurm):
    train = sbatch("-a", "0-1", "--wrap", "test $SLURM_ARRAY_TASK_ID = 0")
    evaluate = sbatch("-a", "0-1", "--kill-on-invalid-dep=yes", "-d", f"aftercorr:{train}", "--wrap", "true")
    assert until(lambda: state(f"{evaluate}_0").finished)
    assert until(lambda: state(f"{evaluate}_1").state == "CANCELLED")
    assert state(f"{evaluate}_1").elapsed_seconds == 0
    assert state(f"{train}_1").state == "FAILED"


@pytest.mark.parametrize("tasks", [range(0, 600, 3), [i * i for i in range(30)]])
def test_real_slurm_ranges_of_tasks_are_complete(tasks, slurm):
    array = sbatch("-H", "-a", ",".join(map(str, tasks)), "--wrap", "true")
    ids = [f"{array}_{i}" for i in tasks]
    assert {words(s) for s in queries.query_job_states(ids).values()} == {"PENDING alive: JobHeldUser"}
    assert until(lambda: sorted(queries.query_sacct([array])) == sorted(ids))


@pytest.mark.slow
def test_real_slurm_node_failure_requeues_the_task(slurm):
    array = sbatch("-a", "0-1", "-w", "node3", "--wrap", "sleep 20")
    task = f"{array}_1"
    assert until(lambda: state(task).state == "RUNNING")
    os.kill(int((slurm / "run" / "node3.pid").read_text().split()[0]), signal.SIGKILL)
    seen = []

    def watched():
        seen.append(state(task))
        return seen[-1].restarts

    assert until(watched)
    assert all(s.alive for s in seen) and seen[-1].previous_end == "NODE_FAIL"
    root = Path(__file__).parents[2]
    subprocess.run([root / "slurm" / "dev-cluster", "up", "--state", slurm], check=True, timeout=120)
    assert until(lambda: state(task).finished)
