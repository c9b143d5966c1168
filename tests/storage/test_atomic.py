"""Atomic writes on a full, read-only or failing disk raise one sentence and keep the old file; a run can continue."""

import json
import os
import resource
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from factories import short_record
from helpers import make_run, tiny_config

from bench import run as bench_run
from bench.records import record
from bench.runs import job
from bench.storage import atomic, run_folder, shards, tensor_files
from bench.storage.lease import hold_lease
from bench.storage.run_folder import RunFolder

BIG = 400_000
"""Bytes that the writers below write."""
ROOM = 150_000


@contextmanager
def file_limit(size):
    """Limit the size of the files that this process writes; works without a mount."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Disk:
    """A small tmpfs, which a test fills or makes read-only."""

    def __init__(self, path, size):
        self.path, self.ballast = path, path / "ballast"
        mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", path)

    def fill(self, left=0):
        stat = os.statvfs(self.path)
        self.ballast.write_bytes(b"\0" * max(0, (stat.f_bavail - left // stat.f_frsize) * stat.f_frsize))

    def free(self):
        self.ballast.unlink()

    def read_only(self, on):
        mount("-o", f"remount,{'ro' if on else 'rw'}", self.path)


def mount(*words):
    subprocess.run(["mount", *words], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    try:
        small = Disk(path, "24m")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no file system can be mounted here ({error}); the limit on file sizes is tested instead")
    yield small
    subprocess.run(["umount", "-l", path], check=True)


def write_folder(path):
    with atomic.atomic_folder(path) as folder:
        np.save(folder / "x.npy", np.zeros(BIG // 8))


WRITERS = {
    "json": lambda path: atomic.write_json(path, ["x" * BIG]),
    "a line": lambda path: atomic.append_line(path, "x" * BIG),
    "checkpoint": lambda path: tensor_files.save_tensors(path, {"x": torch.zeros(BIG // 4)}),
    "folder of arrays": write_folder,
    "shard": lambda path: shards.ArrayShards(path, 10).add(np.arange(10), images=np.zeros((10, BIG // 80))),
}
WHY = {"folder of arrays": "only part of the file was written; the disk or your quota is full"}
"""numpy hides the errno."""


def check_refused(writer, path, why):
    """The writer raises one sentence and leaves no new file."""
    there = sorted(p.name for p in path.parent.iterdir())
    with pytest.raises(ValueError) as caught:
        WRITERS[writer](path)
    assert str(caught.value).startswith(f"cannot write {path}") and f": {why}; " in str(caught.value)
    left = sorted(str(p.relative_to(path.parent)) for p in path.parent.rglob("*"))
    assert left == there or (left == [*there, path.name] and (path.is_dir() or writer == "a line"))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_above_the_size_limit_leaves_nothing(writer, tmp_path):
    with file_limit(ROOM):
        check_refused(writer, tmp_path / "new", WHY.get(writer, "the file would exceed the size limit"))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_to_a_full_disk_leaves_nothing(writer, disk):
    disk.fill(ROOM)
    check_refused(writer, disk.path / "new", WHY.get(writer, "the disk is full"))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_to_a_read_only_disk_leaves_nothing(writer, disk):
    disk.read_only(True)
    check_refused(writer, disk.path / "new", "the file system is read-only")


@pytest.mark.parametrize("number", atomic.DISK_ERRORS)
def test_disk_errors_name_a_remedy_and_keep_the_old_file(number, tmp_path, monkeypatch):
    atomic.write_json(tmp_path / "x.json", "old")

    def refuse(_):
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ValueError) as caught:
        atomic.write_json(tmp_path / "x.json", "new")
    assert str(caught.value) == f"cannot write {tmp_path / 'x.json'}: {'; '.join(atomic.DISK_ERRORS[number])}"
    assert json.loads((tmp_path / "x.json").read_text()) == "old" and len(list(tmp_path.iterdir())) == 1


def test_other_errors_are_not_changed(tmp_path):
    with pytest.raises(FileNotFoundError), atomic.atomic_write(tmp_path / "x"):
        (tmp_path / "nothing").read_text()
    with pytest.raises(ValueError, match=r"^a mistake$"), atomic.atomic_write(tmp_path / "x"):
        raise ValueError("a mistake")


def test_a_failed_record_write_keeps_the_old_record(disk):
    old = short_record(fid=2.0)
    path = record.publish_record(disk.path, old)
    disk.fill()
    with pytest.raises(ValueError, match=r"cannot write .*json: the disk is full; free some space"):
        record.publish_record(disk.path, short_record(fid=1.0))
    assert record.read_record(path) == old and [p.name for p in path.parent.iterdir()] == [path.name]


def test_heartbeat_and_release_need_no_disk_space(disk):
    with hold_lease(disk.path / "run", 0) as lease:
        disk.fill()
        lease._write_beat(f"{7:010d}")
        assert lease.path.read_text().endswith('"beat": "0000000007"}')
    with pytest.raises(ValueError, match=r"claim-000002.json: the disk is full"), hold_lease(disk.path / "run", 0):
        pass


def test_an_incomplete_line_is_skipped(tmp_path):
    one = RunFolder(tmp_path)
    one.log("first")
    with (tmp_path / "log.jsonl").open("a") as f:
        f.write('{"event": "tor')
    one.log("second")
    assert [e["event"] for e in one.events()[0]] == ["first", "second"]


BASELINE = {}


@pytest.fixture
def baseline(tmp_path, cache):
    """The record of an undisturbed run of tiny_config()."""
    if not BASELINE:
        results = tmp_path / "baseline"
        results.mkdir()
        (results / "cache").symlink_to(cache)
        run = make_run(results, tiny_config())
        job.execute_run(run)
        BASELINE["record"] = record.read_record(run.record_path)
    return BASELINE["record"]


def when(monkeypatch, fragment, nth, do):
    """Call `do` when the nth file whose path contains `fragment` begins to be written."""
    seen, partial_path = [], atomic.partial_path

    def watched(path):
        if fragment in str(path):
            seen.append(path)
            if len(seen) == nth:
                do()
        return partial_path(path)

    monkeypatch.setattr(atomic, "partial_path", watched)


def check_ends_as(run, baseline):
    job.execute_run(run)
    finished = record.read_record(run.record_path)
    assert (finished.id, finished.checkpoint, finished.metrics) == (
        baseline.id,
        baseline.checkpoint,
        baseline.metrics,
    )


@pytest.fixture
def run(disk, cache):
    (disk.path / "cache").symlink_to(cache)
    return make_run(disk.path, tiny_config())


MOMENTS = {
    "checkpoint": ("/checkpoints/", 2, 60_000),
    "snapshot": ("/snapshots/", 2, 10_000),
    "shard": ("features/000000000096.parts/", 1, 4096),
    "features": ("features/000000000096", 3, 4096),
    "evaluation": ("/evaluation/", 2, 0),
    "record": ("/records/v1/dit", 1, 4096),
    "record beside it": ("/record.json", 1, 0),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_continues_after_a_full_disk(run, disk, baseline, moment, monkeypatch, capsys):
    fragment, nth, left = MOMENTS[moment]
    with monkeypatch.context() as patch, pytest.raises(ValueError) as caught:
        when(patch, fragment, nth, lambda: disk.fill(left))
        job.execute_run(run)
    assert (
        "the disk is full; free some space and run the same command again; it continues from the last checkpoint"
        in str(caught.value)
    )
    assert fragment in str(caught.value) and not list(run.path.rglob(".*"))
    _, _, warnings = tensor_files.load_newest_checkpoint(run.path / "checkpoints")
    assert not warnings
    disk.free()
    check_ends_as(run, baseline)


def test_a_full_disk_under_the_log_loses_no_error(run, disk, baseline, monkeypatch, capsys, caplog):
    def append(path, line, real=atomic.append_line):
        if '"train"' in line and not disk.ballast.exists():
            pad = '{"event": "pad", "x": "%s"}'
            room = path.stat().st_size + len(pad) - 2 + 1 + 30
            real(path, pad % ("x" * (-room % 4096)))
            disk.fill()  # 30 bytes of the log's last block stay free
        real(path, line)

    with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"log.jsonl: the disk is full"):
        patch.setattr(run_folder, "append_line", append)
        job.execute_run(run)
    assert (run.path / "log.jsonl").stat().st_size == 4096 and len(
        (run.path / "log.jsonl").read_text().splitlines()[-1]
    ) == 30
    err = capsys.readouterr().err + caplog.text
    assert "error.txt: the disk is full" in err and "Traceback" in err and "no record of this failure" in err
    disk.free()
    check_ends_as(run, baseline)
    assert run.events()[0][-1]["event"] == "done"


def test_a_run_continues_after_a_read_only_disk(run, disk, baseline, monkeypatch, caplog):
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="the file system is read-only; make it writ"):
        when(patch, "/checkpoints/", 2, lambda: disk.read_only(True))
        job.execute_run(run)
    assert "error.txt: the file system is read-only" in caplog.text
    disk.read_only(False)
    for path in run.path.glob("claim-*"):  # held by this test's own process, which still runs
        path.unlink()
    check_ends_as(run, baseline)


def test_bench_run_names_a_read_only_results_folder(disk, capsys):
    disk.read_only(True)
    assert bench_run.main(["--data", "digits", "--cluster", "local", "--results", str(disk.path / "results")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "choose another folder with --results" in err


def test_the_first_of_two_atomic_folders_stays(tmp_path):
    with atomic.atomic_folder(tmp_path / "x") as late:
        (late / "name").write_text("late")
        with atomic.atomic_folder(tmp_path / "x") as early:
            (early / "name").write_text("early")
    assert (tmp_path / "x" / "name").read_text() == "early" and len(list(tmp_path.iterdir())) == 1
