"""SIGKILL at any moment: the run ends with exactly the weights, metrics and record of one that nobody disturbed."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import LONG, make_run, tiny_config

from bench.config.overrides import load_config
from bench.records import record
from bench.storage import tensor_files

KILLS = []
"""(story, moment) of every SIGKILL that ended a process at work."""
LENGTH = {"dit": "2400", "uvit": "1200", "unet": "240"}
RANDOM = {"dit": 8, "uvit": 3, "unet": 2}


class Victims:
    """Processes at work on runs, forked from one that has imported torch already."""

    def __init__(self):
        env = {**os.environ, "PYTHONPATH": f".:{Path(__file__).parents[1]}", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, Path(__file__).parents[1] / "victims.py"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        assert self.process.stdout.readline() == "ready\n"

    def _ask(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, run, at=None, mark=""):
        return self._ask(start=str(run.path), at=at, mark=str(mark))

    def wait(self, pid):
        return self._ask(wait=pid)

    def finish(self, run):
        assert self.wait(self.start(run)) == 0, Path(f"{run.path}.out").read_text()[-3000:]

    def kill(self, pid, story, moment):
        """Kill, and count it if the process had not ended by itself; whether it had not."""
        os.kill(pid, signal.SIGKILL)  # it is a zombie until it is waited for, so the id is still its own
        killed = self.wait(pid) == -signal.SIGKILL
        if killed:
            KILLS.append((story, moment))
        return killed

    def kill_at(self, run, story, moment, path, nth, how):
        """Let it work until it stands at a moment, and kill it there."""
        mark = run.path.with_name(f"mark {time.monotonic_ns()}")
        pid = self.start(run, {"path": path, "nth": nth, "how": how}, mark)
        until(lambda: mark.exists() or ended(pid), f"{moment} never came")
        assert mark.exists(), Path(f"{run.path}.out").read_text()[-3000:]
        assert self.kill(pid, story, moment)


def ended(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def until(true, what, seconds=LONG):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


@pytest.fixture(scope="module")
def victims():
    victims = Victims()
    yield victims
    victims.process.stdin.close()
    victims.process.wait(timeout=20)


@pytest.fixture(scope="module")
def place(tmp_path_factory, cache):
    """Makes a run in a results folder of its own."""

    def make(arch):
        results = tmp_path_factory.mktemp("kills")
        (results / "cache").symlink_to(cache)
        return make_run(results, tiny_config(arch, budget__images=LENGTH[arch], compute__export="npz"))

    return make


@pytest.fixture(scope="module")
def quiet(victims, place):
    """What is left of an undisturbed run, by architecture."""
    outcomes = {}

    def one(arch):
        if arch not in outcomes:
            run = place(arch)
            victims.finish(run)
            outcomes[arch] = outcome(run)
            assert not record.read_record(run.record_path).incidents
        return outcomes[arch]

    return one


def outcome(run):
    """The record without what is of a day and of a machine, the whole training state, and the bytes of all samples."""
    one = dataclasses.asdict(record.read_record(run.record_path))
    (published,) = (r for r in record.read_records(run.results) if r.kind == "model")
    assert dataclasses.asdict(published) == one and one["status"] == "done"
    state, metadata, warnings = tensor_files.load_newest_checkpoint(run.path / "checkpoints")
    assert not warnings and not list(run.path.rglob(".*")) and not list(run.path.rglob("*.parts"))
    assert len(list((run.path / "checkpoints").iterdir())) <= load_config(run.path).compute.keep
    samples = {
        str(p.relative_to(run.path)): p.read_bytes()
        for stage in ("features", "samples")
        for p in sorted((run.path / stage).rglob("*.np?"))
    }
    fields = {k: one[k] for k in ("id", "config", "protocol", "metrics", "curve", "checkpoint")}
    return {**fields, "state": tensor_files.tensors_crc32(state), "step": metadata["step"], "samples": samples}


@pytest.mark.parametrize("arch", RANDOM)
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(arch, victims, place, quiet):
    run, rng, killed = place(arch), random.Random(f"{arch} 5"), 0
    expected = quiet(arch)
    for _ in range(4 * RANDOM[arch]):
        before = len(run.events()[0])
        pid, ahead = victims.start(run), before + rng.randint(1, 6)
        until(lambda pid=pid, ahead=ahead: ended(pid) or len(run.events()[0]) >= ahead, "no progress")
        time.sleep(rng.uniform(0, 0.03))
        killed += victims.kill(pid, arch, (run.events()[0] or [{"event": "start"}])[-1]["event"])
        if killed == RANDOM[arch] or run.record_path.is_file():
            break
    victims.finish(run)
    assert outcome(run) == expected
    restarts = [i for i in record.read_record(run.record_path).incidents if i["kind"] == "restart"]
    assert killed >= RANDOM[arch] // 2 and len(restarts) <= killed + 1


MOMENTS = {
    "half a checkpoint": ("*/checkpoints/*", 2, "torn"),
    "a checkpoint without its name": ("*/checkpoints/*", 2, "whole"),
    "a checkpoint before others are pruned": ("*/checkpoints/*", 3, "after"),
    "half a snapshot": ("*/snapshots/*", 2, "torn"),
    "half a shard": ("*/features/*.parts/*", 2, "torn"),
    "half a feature store": ("*/features/*0", 1, "torn"),
    "an export before its shards are removed": ("*/samples/*.npz", 1, "after"),
    "an evaluation without its name": ("*/evaluation/*", 2, "whole"),
    "half a record": ("*/records/v1/dit*", 1, "torn"),
    "a record that the run does not know of": ("*/records/v1/dit*", 1, "after"),
    "half a status": ("*/status.json", 3, "torn"),
    "a claim that is not made yet": ("*/claim-*", 1, "whole"),
    "a claim that was just made": ("*/claim-*", 1, "after"),
}


@pytest.mark.parametrize("moments", [list(MOMENTS)[:3], list(MOMENTS)[3:8], list(MOMENTS)[8:]], ids=["1", "2", "3"])
def test_a_run_killed_within_a_write_is_bit_exact(moments, victims, place, quiet):
    run = place("dit")
    for moment in moments:
        victims.kill_at(run, "moments", moment, *MOMENTS[moment])
    victims.finish(run)
    assert outcome(run) == quiet("dit")


def test_a_checkpoint_cut_by_the_kernel_is_bit_exact(victims, place, quiet):
    run = place("dit")
    pid = victims.start(run, {"path": "*/checkpoints/*", "nth": 2, "how": "limit"})
    assert victims.wait(pid) == -signal.SIGXFSZ
    assert [p for p in (run.path / "checkpoints").iterdir() if p.name.startswith(".")]
    victims.finish(run)
    assert outcome(run) == quiet("dit")


def test_a_damaged_checkpoint_falls_back_to_the_one_before(victims, place, quiet):
    run = place("dit")
    victims.kill_at(run, "damage", "a checkpoint", *MOMENTS["a checkpoint before others are pruned"])
    newest = max((run.path / "checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    victims.finish(run)
    assert outcome(run) == quiet("dit")
    (restart,) = record.read_record(run.record_path).incidents
    (warning,) = restart["warnings"]
    assert restart["images"] < int(newest.stem)
    assert warning.startswith(f"runs/{run.path.name}/checkpoints/{newest.name} ") and "damaged" in warning


def test_a_missing_last_snapshot_is_made_after_a_kill(victims, place, quiet):
    run = place("dit")
    victims.finish(run)
    point = f"{int(LENGTH['dit']):012d}"
    assert (run.path / "checkpoints" / f"{point}.safetensors").is_file()
    (run.path / "record.json").unlink()
    for path in [*run.path.glob(f"[fse]*/{point}*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert len(list((run.path / "snapshots").iterdir())) == 1
    victims.finish(run)
    assert outcome(run) == quiet("dit")


def test_a_second_kill_during_takeover_is_survived(victims, place, quiet):
    run = place("dit")
    victims.kill_at(run, "takeover", "at work", *MOMENTS["a checkpoint without its name"])
    victims.kill_at(run, "takeover", "its claim made", *MOMENTS["a claim that was just made"])
    assert sorted(p.name for p in run.path.glob("claim-*")) == ["claim-000001.json", "claim-000002.json"]
    rivals = [victims.start(run) for _ in range(2)]
    statuses = sorted(victims.wait(pid) for pid in rivals)
    assert statuses in ([0, 0], [0, 1]), "the second waits for 20 s, then finds all done or names the holder"
    assert outcome(run) == quiet("dit") and len(list(run.path.glob("claim-*"))) == 1
    assert [i["kind"] for i in record.read_record(run.record_path).incidents] == ["restart"]


def test_there_were_at_least_twenty_kills():
    """The last of this file; SIGKILLs of processes at work, as waitpid tells."""
    print(f"{len(KILLS)} kills: {KILLS}")
    assert len(KILLS) >= 20 and sum("checkpoint" in moment for _, moment in KILLS) >= 3
