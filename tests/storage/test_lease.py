"""Leases held by real processes that start, sleep and are killed."""

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

from bench.runs import summary
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
QUICK = {"HEARTBEAT_SECONDS": 0.05, "EXPIRY_SECONDS": 2.0, "POLL_SECONDS": 0.02}
SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_CLUSTER_NAME")


class Process:
    """A process that acquires, or tries to acquire, a lease."""

    def __init__(self, folder, env=None, **options):
        clean = {k: v for k, v in os.environ.items() if k not in SLURM}
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder), json.dumps(options)],
            env={**clean, "PYTHONPATH": ".", **(env or {})},
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
    processes = []

    def start_process(folder=None, **options):
        processes.append(Process(folder or tmp_path / "run", **options))
        return processes[-1]

    yield start_process
    for p in processes:
        p.process.kill()
        p.process.communicate()


@pytest.fixture
def quick(monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setattr(lease, name, value)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_one_of_six_processes_gets_the_lease(start, tmp_path):
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
    assert time.monotonic() - began < lease.EXPIRY_SECONDS / 2, "it waited for the heartbeat to expire"
    assert len(names(tmp_path / "run")) == 1


def test_current_holder_is_shown_by_bench_run(start, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    assert lease.current_holder(folder.path) is None
    holder = start()
    holder.says()
    assert lease.current_holder(folder.path).pid == holder.pid
    assert summary.explain_unfinished("dit", folder) == 1
    assert f"dit is being worked on by {lease.this_process().host}, process {holder.pid}" in capsys.readouterr().err
    holder.signal(signal.SIGKILL)
    assert lease.current_holder(folder.path) is None


def test_one_of_six_processes_follows_a_dead_holder(start):
    dead = start()
    dead.says()
    dead.signal(signal.SIGKILL)
    words = [p.says() for p in [start() for _ in range(6)]]
    assert sum(w.startswith("holds") for w in words) == 1 and sum("wait for it" in w for w in words) == 5


def test_a_released_lease_is_free_at_once(tmp_path):
    for generation in (1, 2, 3):
        with lease.hold_lease(tmp_path, 0) as held:
            held.check()
            assert held.generation == generation and names(tmp_path) == [f"claim-{generation:06d}.json"]


def test_acquiring_waits_for_the_holder_to_end(start, tmp_path):
    first = start()
    first.says()
    second = start(wait=20)
    time.sleep(0.5)
    assert first.end() == 0
    assert second.says().startswith("holds 2")


def test_a_remote_holder_is_alive_while_its_heartbeat_changes(start, quick, tmp_path):
    far = start(place="elsewhere", seconds=QUICK)
    far.says()
    with pytest.raises(ValueError, match=f"process {far.pid}; wait for it"):
        lease.acquire_lease(tmp_path / "run", 0)
    assert far.asked() == "still"


def test_a_suspended_remote_holder_loses_its_lease(start, quick, tmp_path):
    far = start(place="elsewhere", seconds=QUICK)
    far.says()
    far.signal(signal.SIGSTOP)
    began = time.monotonic()
    held = lease.acquire_lease(tmp_path / "run", 0)
    assert time.monotonic() - began >= QUICK["EXPIRY_SECONDS"] and held.generation == 2
    far.signal(signal.SIGCONT)
    assert f"was taken over by {held.holder.describe()}; this process writes nothing more" in far.asked()
    assert far.end() == 2
    held.check()  # the end of the other process changed nothing
    held.release()
    assert names(tmp_path / "run") == ["claim-000002.json"]


def test_a_suspended_local_holder_keeps_its_lease(start, quick, tmp_path):
    asleep = start(seconds=QUICK)
    asleep.says()
    asleep.signal(signal.SIGSTOP)
    with pytest.raises(ValueError, match=f"process {asleep.pid}"):
        lease.acquire_lease(tmp_path / "run", 2 * QUICK["EXPIRY_SECONDS"])


def test_a_zombie_does_not_hold_a_lease(start):
    child = start()
    child.says()
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert os.path.exists(f"/proc/{child.pid}") and not process_identity.start_time(child.pid)
    assert start().says().startswith("holds 2")


JOB = {"SLURM_JOB_ID": "70", "SLURM_CLUSTER_NAME": "c", "SLURM_ARRAY_JOB_ID": "68", "SLURM_ARRAY_TASK_ID": "3"}


def test_a_restarted_job_gets_its_lease_back_at_once(start):
    before = start(place="a node that is gone", env=JOB)
    before.says()
    assert start(env={**JOB, "SLURM_RESTART_COUNT": "1"}).says().startswith("holds 2")
    assert "was taken over by job 68_3 on" in before.asked()


@pytest.mark.parametrize("other", [{"SLURM_JOB_ID": "71"}, {"SLURM_CLUSTER_NAME": "d"}])
def test_another_job_waits_for_the_holder(start, other):
    first = start(place="elsewhere", env=JOB, seconds=QUICK)
    first.says()
    second = start(env={**JOB, **other, "SLURM_RESTART_COUNT": "1"}, seconds=QUICK)
    assert "wait for it, or end it (scancel 68_3)" in second.says()
    assert first.asked() == "still"


def test_an_unreadable_lease_expires(quick, tmp_path):
    (tmp_path / "claim-000007.json").write_text('{"host": "x"')
    began = time.monotonic()
    with lease.hold_lease(tmp_path, 0) as held:
        assert held.generation == 8 and time.monotonic() - began >= QUICK["EXPIRY_SECONDS"]


def test_an_old_generation_is_not_created_again(tmp_path):
    held = lease.create_lease(tmp_path, 3)
    assert lease.create_lease(tmp_path, 2) is None and lease.create_lease(tmp_path, 3) is None
    held.check()
    held.release()
    assert names(tmp_path) == ["claim-000003.json"]


@pytest.mark.parametrize("answer", [errno.EPERM, errno.ENOTSUP, "after success"])
def test_leases_without_hard_links_and_with_nfs_retries(tmp_path, monkeypatch, answer):
    real = os.link

    def link(old, new):
        if answer == "after success":  # NFS: the reply was lost, and the retry finds the link
            real(old, new)
            raise FileExistsError(errno.EEXIST, "there")
        raise OSError(answer, "no links here")

    monkeypatch.setattr(os, "link", link)
    with lease.hold_lease(tmp_path, 0) as held:
        held.check()
        assert lease.create_lease(tmp_path, 1) is None
    assert names(tmp_path) == ["claim-000001.json"]


def test_a_removed_lease_is_lost(tmp_path):
    with lease.hold_lease(tmp_path / "run", 0) as held:
        held.path.unlink()
        with pytest.raises(lease.LeaseLost, match="has been removed"):
            held.check()
        other = lease.create_lease(tmp_path / "run", 1)
        with pytest.raises(lease.LeaseLost, match="was taken over by"):
            held.check()
    other.check()  # the release of the lost lease changed nothing
    assert lease.parse_holder(other.path.read_text()).beat == "0" * 10
    other.release()


def test_clear_refuses_a_run_that_is_worked_on(start, tmp_path):
    run = RunFolder(tmp_path / "results" / "runs" / "a")
    (run.path / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "checkpoints/1.safetensors"):
        (run.path / name).write_text("x")
    worker = start(run.path)
    worker.says()
    with pytest.raises(ValueError, match="is being worked on by"):
        run.clear()
    assert (run.path / "config.json").exists()
    worker.end()
    run.clear()
    assert names(run.path) == ["claim-000002.json"]


def test_acquiring_removes_partials_of_dead_processes_only(start, tmp_path):
    run = RunFolder(tmp_path / "runs" / "a")
    dead = start()
    dead.says()
    dead.signal(signal.SIGKILL)
    here, elsewhere = f"{process_identity.pid_namespace_id()}-{os.getpid()}-", "0123abcd-1-"
    live, stale = [], []
    for folder in ("evaluation", "features/000000000096.parts", "."):
        path = run.path / folder / "x"
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = str(partial_path(path))
        live += [mine, mine.replace(here, elsewhere), str(path)]
        stale += [mine.replace(here, f"{process_identity.pid_namespace_id()}-{dead.pid}-")]
    for path in (*live, *stale):
        open(path, "w").close()
    old = str(partial_path(run.path / "old")).replace(here, elsewhere)
    (folder := run.path / os.path.basename(stale[0].replace("x", "y"))).mkdir()
    (folder / "0.png").touch()
    open(old, "w").close()
    os.utime(old, (time.time() - 7200,) * 2)
    inside = run.path / "checkpoints" / ".tmpA1b2C3"  # a temporary file of safetensors, without a process id
    inside.parent.mkdir()
    inside.touch()
    stale.append(inside)
    with run.lease(0):
        assert all(map(os.path.exists, live)) and not any(map(os.path.exists, [*stale, old, folder]))


def compete(folder, counted):
    """Acquire the lease again and again; `inside` exists while a process holds it."""
    for name, value in (("POLL_SECONDS", 0.001), ("HEARTBEAT_SECONDS", 0.01)):
        setattr(lease, name, value)
    while True:
        with lease.hold_lease(folder, 60) as held:
            inside = folder / "inside"
            if inside.is_symlink() and not process_identity.start_time(int(os.readlink(inside))):
                inside.unlink()  # left by a killed holder
            inside.symlink_to(str(os.getpid()))
            held.check()
            os.write(counted, b".")
            time.sleep(0.001)
            inside.unlink()


def test_killed_processes_never_share_a_lease(tmp_path):
    """Six processes compete, and one of them at a time is killed at a random moment and replaced."""
    fork, rng = multiprocessing.get_context("fork"), random.Random(5)
    reader, writer = os.pipe()

    def start_one():
        process = fork.Process(target=compete, args=(tmp_path, writer))
        process.start()
        return process

    processes = [start_one() for _ in range(6)]
    for _ in range(25):
        time.sleep(rng.uniform(0.02, 0.15))
        assert all(p.exitcode is None for p in processes), "one saw another inside"
        victim = processes.pop(rng.randrange(6))
        victim.kill()
        victim.join()
        processes.append(start_one())
    os.set_blocking(reader, False)
    assert len(os.read(reader, 65536)) >= 10, "the lease was hardly ever held"
    for p in processes:
        p.kill()
        p.join()
    os.close(writer)
    assert len(lease.list_generations(tmp_path)) <= 2
