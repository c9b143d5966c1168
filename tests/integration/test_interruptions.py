"""One run after the other way of being interrupted, all at once on a real SLURM; each ends as a quiet one does.

The cluster takes a minute over time limits and dead nodes, so the stories are told at the same time, and tests read
how they ended.
"""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import TINY, ask, state_of, until, words_of

from bench import run
from bench.records.record import read_record
from bench.storage import tensor_files
from bench.storage.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
SETTINGS = {
    **TINY,
    "budget.images": 16 * 150,
    "model.args.width": 16,
    "compute.checkpoint_seconds": 2,
    "slurm.gpus_per_node": 0,
    "slurm.cpus_per_task": 1,
    "slurm.mem_gb": 1,
    "slurm.env.NAP": 0.15,
}
STORIES = {
    "quiet": {},
    "time limit": {"slurm.time": 1, "slurm.signal_seconds": 10, "slurm.env.NAP": 0.4},
    "preempted": {"slurm.partition": "preemptable", "slurm.options.nodelist": "node1"},
    "requeued": {},
    "node failure": {"slurm.options.exclude": "node1,node2"},
    "one process": {"slurm.tasks_per_node": 4, "slurm.options.nodelist": "node2"},
    "controller": {},
}
"""Each with 22 seconds of training, but for those that have to wait for SLURM.

The last is told when the others are over: what the controller has not written down when it dies, a job's end among
it, it forgets, and runs that job again.
"""


class Story:
    """A run in a results folder of its own."""

    def __init__(self, results, cache, settings):
        self.results = results
        results.mkdir()
        (results / "cache").symlink_to(cache)
        words = ["--arch", "slownet:Slow", "--data", "digits", "--results", str(results), "--cluster", "slurm"]
        others = {} if "slurm.options.nodelist" in settings else {"slurm.options.exclude": "node1"}
        assert run.main([*words, *words_of({**SETTINGS, **others, **settings})]) == 0
        (path,) = (results / "runs").glob("slow*")
        self.run = RunFolder(path)
        jobs = json.loads((path / "jobs.json").read_text())["jobs"]
        self.train, self.evaluate = jobs["train"]["id"], jobs["evaluate"]["id"]

    def saved(self):
        return any((self.run.path / "checkpoints").glob("*.safetensors"))

    def over(self, job):
        return state_of(job) not in ("", "PENDING", "RUNNING", "REQUEUED")

    def turns(self):
        """How often training has started."""
        return sum(e["event"] == "start" and e["stage"] == "train" for e in self.run.events()[0])

    def stories_by_name(self):
        """Everything that may explain a failure."""
        logs = sorted(p for p in (self.results / "runs" / "jobs").glob("*/*.err"))
        accounts = ask("sacct", "-X", "-D", "-n", "-P", "-o", "JobID,State,ExitCode,NodeList,Start,End")
        return "\n".join([accounts, *(p.read_text() for p in logs), (self.run.path / "log.jsonl").read_text()])

    def tensors(self):
        return tensor_files.load_tensors(self.run.snapshot_path(SETTINGS["budget.images"]))[0]

    def weights(self):
        return tensor_files.tensors_crc32(self.tensors())


@pytest.fixture(scope="module")
def stories(slurm_cluster, tmp_path_factory, cache):
    """All of them, interrupted and ended."""
    folder, before = tmp_path_factory.mktemp("stories"), os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(slurm_cluster / "slurm.conf")
    stories_by_name = {}
    try:
        for name, settings in STORIES.items():
            if name == "controller":
                interrupt(stories_by_name, slurm_cluster)
            stories_by_name[name] = Story(folder / name.replace(" ", "-"), cache, settings)
        last = stories_by_name["controller"]
        assert until(last.saved) and not last.over(last.train), last.told()
        kill(slurm_cluster, "slurmctld")
        up(slurm_cluster)
        until(lambda: last.over(last.evaluate))
        yield stories_by_name
    finally:
        subprocess.run(["scancel", "-u", "root"], timeout=60)
        up(slurm_cluster)
        os.environ.pop("SLURM_CONF") if before is None else os.environ.update(SLURM_CONF=before)


def up(cluster):
    command = [ROOT / "slurm" / "dev-cluster", "up", "--state", cluster]
    subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def kill(cluster, name):
    os.kill(int((cluster / "run" / f"{name}.pid").read_text().split()[0]), signal.SIGKILL)


def interrupt(stories_by_name, cluster):
    """Each its own way, once it has a checkpoint; then they come to their ends."""
    train = {name: story.train for name, story in stories_by_name.items()}
    exclusive = ["-p", "normal", "-w", "node1", "--exclusive", "-t", "60", "-o", "/dev/null", "--wrap", "sleep 2"]
    ways = {
        "preempted": lambda: ask("sbatch", *exclusive),
        "node failure": lambda: kill(cluster, ask("squeue", "-h", "-o", "%N", "-j", train["node failure"])),
        "requeued": lambda: ask("scontrol", "requeue", train["requeued"]),
        "one process": lambda: os.kill(task(train["one process"], 3), signal.SIGUSR2),
    }
    while ways:
        name = until(lambda: next((name for name in ways if stories_by_name[name].saved()), ""))
        assert name, "\n".join(stories_by_name[name].told() for name in ways)
        ways.pop(name)()
    for story in stories_by_name.values():
        assert until(lambda story=story: story.over(story.evaluate)), story.told()


def task(job, rank):
    """The process id of one task of a job."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode(), b"SUBMITIT_EXECUTOR=slurm"}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted <= set((path / "environ").read_bytes().split(b"\0")) and "python" in os.readlink(path / "exe"):
                return int(path.name)
    raise AssertionError(f"task {rank} of job {job} does not run")


def test_all_stories_end_in_a_record(stories):
    for name, story in stories.items():
        assert state_of(story.evaluate) == "COMPLETED", f"{name}\n{story.told()}"
        assert read_record(story.run.record_path).status == "done"


@pytest.mark.parametrize("name", [name for name in STORIES if name not in ("quiet", "one process")])
def test_an_interrupted_run_equals_an_uninterrupted_one(stories, name):
    quiet, other = stories["quiet"], stories[name]
    one, two = read_record(quiet.run.record_path), read_record(other.run.record_path)
    assert other.weights() == quiet.weights() and two.checkpoint == one.checkpoint
    assert two.metrics == one.metrics and two.id == one.id
    assert not one.incidents, "the quiet run was disturbed"


ENDS = {
    "preempted": "notice",
    "time limit": "notice",
    "requeued": "notice",
    "one process": "notice",
    "node failure": "death",
}


@pytest.mark.parametrize("name", ENDS)
def test_an_interruption_is_recorded_and_progress_kept(stories, name):
    story = stories[name]
    incidents = read_record(story.run.record_path).incidents
    incident = next(i for i in incidents if i["images"])  # on a busy machine an attempt may end before its first step
    events = [e for e in story.run.events()[0] if e["event"] in ("train", "stopped", "requeued", "resume")]
    at = next(i for i, e in enumerate(events) if e["event"] == "resume")
    assert incident["kind"] == "restart" and incident["after"] == ENDS[name], story.told()
    assert incident["images"] == events[at]["images"] > 0
    if ENDS[name] == "notice":
        assert events[at - 1]["event"] in ("stopped", "requeued")
        assert events[at]["images"] == events[at - 2]["images"], "the notice did not suffice to save"


def test_four_ranks_stop_together_and_match_one_rank(stories):
    one, four = ({**story.tensors()} for story in (stories["quiet"], stories["one process"]))
    assert all(torch.allclose(one[k], four[k], rtol=1e-3, atol=1e-5) for k in one)
    record = read_record(stories["one process"].run.record_path)
    assert record.environment["world_size"] == 4
    started = [e for e in stories["one process"].run.events()[0] if e["event"] == "start" and e["stage"] == "train"]
    assert len(started) == 2, "all processes of a turn are one start"


def test_a_running_job_does_not_notice_a_new_controller(stories):
    assert not read_record(stories["controller"].run.record_path).incidents and stories["controller"].turns() == 1


def test_the_dead_node_is_not_where_the_run_ended(stories):
    hosts = [e["host"] for e in stories["node failure"].run.events()[0] if e["event"] == "start"]
    assert len(set(hosts[:2])) == 2
