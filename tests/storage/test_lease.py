"""Who holds a run: real processes, started, asleep and killed."""

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from bench.runs import launch
from bench.storage import lease, process_identity
from bench.storage.atomic import partial_path
from bench.storage.run_folder import RunFolder

HOLD = """
import json, sys, os
from pathlib import Path

from bench.storage import lease, process_identity
options = json.loads(sys.argv[2])
for name, value in options.get("seconds", {}).items():
    setattr(lease, name, value)
if options.get("place"):
    process_identity.pid_namespace_id = lambda: options["place"]
try:
    with lease.hold_lease(Path(sys.argv[1]), options.get("wait", 0)) as held:
        print("holds", held.generation, os.getpid(), flush=True)
        for word in sys.stdin:
            held.check()
            print("still", flush=True)
except (ValueError, lease.LeaseLost) as error:
    print(error, flush=True)
    sys.exit(2)
"""
QUICK = {"HEARTBEAT_SECONDS": 0.05, "EXPIRY_SECONDS": 1.0, "POLL_SECONDS": 0.02}
SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_CLUSTER_NAME")


class Process:
    """A process that holds, or tries to hold, a run."""

    def __init__(self, folder, env=None, **told):
        own = {k: v for k, v in os.environ.items() if k not in SLURM}
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder), json.dumps(told)],
            env={**own, "PYTHONPATH": ".", **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self):
        return self.process.pid

    def says(self):
        return self.process.stdout.readline().strip()

    def asked(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.says()

    def signal(self, number):
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()

    def end(self):
        self.process.communicate(timeout=20)
        return self.process.returncode


@pytest.fixture
def start(tmp_path):
    made = []

    def one(folder=None, **told):
        made.append(Process(folder or tmp_path / "run", **told))
        return made[-1]

    yield one
    for p in made:
        p.process.kill()
        p.process.communicate()


@pytest.fixture
def quick(monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setattr(lease, name, value)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_of_many_that_start_at_once_one_works_and_the_others_say_who(start, tmp_path):
    many = [start() for _ in range(6)]
    words = {p: p.says() for p in many}
    (winner,) = (p for p in many if words[p].startswith("holds"))
    for p in many:
        if p is not winner:
            assert f"process {winner.pid}; wait for it, or end it (kill {winner.pid} on" in words[p]
            assert p.end() == 2
    assert winner.asked() == "still"
    winner.signal(signal.SIGKILL)
    began = time.monotonic()
    assert start().says().startswith("holds")
    assert time.monotonic() - began < 5  # most of it Python's start; the heartbeat would take 60 s
    assert len(names(tmp_path / "run")) == 1


def test_one_look_tells_who_holds_a_run_and_the_door_says_so(start, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    assert lease.current_holder(folder.path) is None
    holder = start()
    holder.says()
    assert lease.current_holder(folder.path).pid == holder.pid
    assert launch.explain_unfinished("dit", folder) == 1
    assert f"dit is being worked on by {lease.this_process().host}, process {holder.pid}" in capsys.readouterr().err
    holder.signal(signal.SIGKILL)
    assert lease.current_holder(folder.path) is None


def test_of_many_that_take_over_from_a_dead_one_one_works(start):
    dead = start()
    dead.says()
    dead.signal(signal.SIGKILL)
    words = [p.says() for p in [start() for _ in range(6)]]
    assert sum(w.startswith("holds") for w in words) == 1 and sum("wait for it" in w for w in words) == 5


def test_a_released_run_is_free_at_once_and_its_generations_go_on(tmp_path):
    for generation in (1, 2, 3):
        with lease.hold_lease(tmp_path, 0) as own:
            own.check()
            assert own.generation == generation and names(tmp_path) == [f"claim-{generation:06d}.json"]


def test_a_claimant_waits_for_one_that_is_about_to_end(start, tmp_path):
    first = start()
    first.says()
    second = start(wait=20)
    time.sleep(0.5)
    assert first.end() == 0
    assert second.says().startswith("holds 2")


def test_a_holder_elsewhere_is_alive_while_its_beat_advances(start, quick, tmp_path):
    far = start(place="elsewhere", seconds=QUICK)
    far.says()
    with pytest.raises(ValueError, match=f"process {far.pid}; wait for it"):
        lease.acquire_lease(tmp_path / "run", 0)
    assert far.asked() == "still"


def test_a_holder_elsewhere_whose_beat_stands_still_is_followed_and_finds_out(start, quick, tmp_path):
    far = start(place="elsewhere", seconds=QUICK)
    far.says()
    far.signal(signal.SIGSTOP)
    began = time.monotonic()
    own = lease.acquire_lease(tmp_path / "run", 0)
    assert time.monotonic() - began >= QUICK["EXPIRY_SECONDS"] and own.generation == 2
    far.signal(signal.SIGCONT)
    assert f"was taken over by {own.holder.words()}; this process writes nothing more" in far.asked()
    assert far.end() == 2
    own.check()  # what the other did when it ended left this one's claim alone
    own.release()
    assert names(tmp_path / "run") == ["claim-000002.json"]


def test_a_holder_here_that_is_asleep_is_not_dead(start, quick, tmp_path):
    asleep = start(seconds=QUICK)
    asleep.says()
    asleep.signal(signal.SIGSTOP)
    with pytest.raises(ValueError, match=f"process {asleep.pid}"):
        lease.acquire_lease(tmp_path / "run", 2 * QUICK["EXPIRY_SECONDS"])


def test_a_zombie_is_dead(start):
    child = start()
    child.says()
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert os.path.exists(f"/proc/{child.pid}") and not process_identity.start_time(child.pid)
    assert start().says().startswith("holds 2")


JOB = {"SLURM_JOB_ID": "70", "SLURM_CLUSTER_NAME": "c", "SLURM_ARRAY_JOB_ID": "68", "SLURM_ARRAY_TASK_ID": "3"}


def test_a_job_that_slurm_started_again_follows_itself_at_once_wherever_it_was(start):
    before = start(place="a node that is gone", env=JOB)
    before.says()
    assert start(env={**JOB, "SLURM_RESTART_COUNT": "1"}).says().startswith("holds 2")
    assert "was taken over by job 68_3 on" in before.asked()


@pytest.mark.parametrize("other", [{"SLURM_JOB_ID": "71"}, {"SLURM_CLUSTER_NAME": "d"}])
def test_another_job_does_not(start, other):
    first = start(place="elsewhere", env=JOB, seconds=QUICK)
    first.says()
    second = start(env={**JOB, **other, "SLURM_RESTART_COUNT": "1"}, seconds=QUICK)
    assert "wait for it, or end it (scancel 68_3)" in second.says()
    assert first.asked() == "still"


def test_a_claim_that_nobody_can_read_is_followed_when_it_stands_still(quick, tmp_path):
    (tmp_path / "claim-000007.json").write_text('{"host": "x"')
    began = time.monotonic()
    with lease.hold_lease(tmp_path, 0) as own:
        assert own.generation == 8 and time.monotonic() - began >= QUICK["EXPIRY_SECONDS"]


def test_a_late_claimant_of_a_generation_that_was_cleaned_up_does_not_get_it(tmp_path):
    held = lease.create_lease(tmp_path, 3)
    assert lease.create_lease(tmp_path, 2) is None and lease.create_lease(tmp_path, 3) is None
    held.check()
    held.release()
    assert names(tmp_path) == ["claim-000003.json"]


@pytest.mark.parametrize("answer", [errno.EPERM, errno.ENOTSUP, "made it"])
def test_claims_hold_without_hard_links_and_with_a_server_that_answers_twice(tmp_path, monkeypatch, answer):
    real = os.link

    def link(old, new):
        if answer == "made it":  # NFS: the link was made, its answer was lost, and the second try finds it there
            real(old, new)
            raise FileExistsError(errno.EEXIST, "there")
        raise OSError(answer, "no links here")

    monkeypatch.setattr(os, "link", link)
    with lease.hold_lease(tmp_path, 0) as own:
        own.check()
        assert lease.create_lease(tmp_path, 1) is None
    assert names(tmp_path) == ["claim-000001.json"]


def test_one_whose_folder_is_emptied_finds_out(tmp_path):
    with lease.hold_lease(tmp_path / "run", 0) as own:
        own.path.unlink()
        with pytest.raises(lease.LeaseLost, match="has been removed"):
            own.check()
        other = lease.create_lease(tmp_path / "run", 1)
        with pytest.raises(lease.LeaseLost, match="was taken over by"):
            own.check()
    other.check()  # and its release did not touch the other's
    assert lease.parse_holder(other.path.read_text()).beat == "0" * 10
    other.release()


def test_a_run_is_cleared_but_not_under_a_process_that_works_on_it(start, tmp_path):
    own = RunFolder(tmp_path / "results" / "runs" / "a")
    (own.path / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "checkpoints/1.safetensors"):
        (own.path / name).write_text("x")
    worker = start(own.path)
    worker.says()
    with pytest.raises(ValueError, match="is being worked on by"):
        own.clear()
    assert (own.path / "config.json").exists()
    worker.end()
    own.clear()
    assert names(own.path) == ["claim-000002.json"]


def test_a_start_clears_away_the_partials_of_the_dead_alone(start, tmp_path):
    place = RunFolder(tmp_path / "runs" / "a")
    dead = start()
    dead.says()
    dead.signal(signal.SIGKILL)
    own, elsewhere = f"{process_identity.pid_namespace_id()}-{os.getpid()}-", "0123abcd-1-"
    kept, gone = [], []
    for folder in ("evaluation", "features/000000000096.parts", "."):
        path = place.path / folder / "x"
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = str(partial_path(path))
        kept += [mine, mine.replace(own, elsewhere), str(path)]
        gone += [mine.replace(own, f"{process_identity.pid_namespace_id()}-{dead.pid}-")]
    for path in (*kept, *gone):
        open(path, "w").close()
    old = str(partial_path(place.path / "old")).replace(own, elsewhere)
    (folder := place.path / os.path.basename(gone[0].replace("x", "y"))).mkdir()
    (folder / "0.png").touch()
    open(old, "w").close()
    os.utime(old, (time.time() - 7200,) * 2)
    inside = place.path / "checkpoints" / ".tmpA1b2C3"  # safetensors' own, without its maker's name
    inside.parent.mkdir()
    inside.touch()
    gone.append(inside)
    with place.lease(0):
        assert all(map(os.path.exists, kept)) and not any(map(os.path.exists, [*gone, old, folder]))


def compete(folder, counted):
    """Hold the run again and again; in between nobody else may be inside."""
    for name, value in (("POLL_SECONDS", 0.001), ("HEARTBEAT_SECONDS", 0.01)):
        setattr(lease, name, value)
    while True:
        with lease.hold_lease(folder, 60) as own:
            inside = folder / "inside"
            if inside.is_symlink() and not process_identity.start_time(int(os.readlink(inside))):
                inside.unlink()  # of one that was killed there
            inside.symlink_to(str(os.getpid()))
            own.check()
            os.write(counted, b".")
            time.sleep(0.001)
            inside.unlink()


def test_of_many_that_come_and_are_killed_never_two_hold_a_run(tmp_path):
    """Six processes for three seconds, one of which is killed ten times a second wherever it is."""
    fork, rng, killed = multiprocessing.get_context("fork"), random.Random(5), 0
    reader, writer = os.pipe()

    def one():
        process = fork.Process(target=compete, args=(tmp_path, writer))
        process.start()
        return process

    many, ends = [one() for _ in range(6)], time.monotonic() + 3
    while time.monotonic() < ends:
        time.sleep(rng.uniform(0.02, 0.15))
        assert all(p.exitcode is None for p in many), "one found another inside"
        victim = many.pop(rng.randrange(6))
        victim.kill()
        victim.join()
        killed += 1
        many.append(one())
    for p in many:
        p.kill()
        p.join()
    os.close(writer)
    turns = len(os.read(reader, 65536))
    assert killed >= 10 and turns > 50 and len(lease.list_generations(tmp_path)) <= 2
