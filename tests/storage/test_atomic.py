"""A disk that is full, read-only or broken: one sentence, what was there is intact, and the same command goes on."""

import json
import os
import resource
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from helpers import make_run, tiny_config
from made_records import made

from bench import run
from bench.records import record
from bench.runs import job
from bench.storage import atomic, run_folder, shards, tensor_files
from bench.storage.lease import hold_lease
from bench.storage.run_folder import RunFolder

BIG = 400_000
"""Bytes of what is written below, and of what there is room for:"""
ROOM = 150_000


@contextmanager
def file_limit(size):
    """No file of this process may grow beyond `size`: what a container without mounts can do for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Disk:
    """A small file system of its own."""

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
WHY = {"folder of arrays": "the disk took only a part of it; it, or your quota, is full"}
"""numpy does not tell more."""


def check_refused(writer, path, why):
    """The writer is refused with a sentence, and leaves nothing that was not there."""
    there = sorted(p.name for p in path.parent.iterdir())
    with pytest.raises(ValueError) as caught:
        WRITERS[writer](path)
    assert str(caught.value).startswith(f"cannot write {path}") and f": {why}; " in str(caught.value)
    left = sorted(str(p.relative_to(path.parent)) for p in path.parent.rglob("*"))
    assert left == there or (left == [*there, path.name] and (path.is_dir() or writer == "a line"))


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_larger_than_allowed_is_refused_whole(writer, tmp_path):
    with file_limit(ROOM):
        check_refused(writer, tmp_path / "new", WHY.get(writer, "the file would be larger than is allowed"))


@pytest.mark.parametrize("writer", WRITERS)
def test_what_a_full_disk_has_no_room_for_is_refused_whole(writer, disk):
    disk.fill(ROOM)
    check_refused(writer, disk.path / "new", WHY.get(writer, "the disk is full"))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_read_only_disk_takes_nothing(writer, disk):
    disk.read_only(True)
    check_refused(writer, disk.path / "new", "the file system is read-only")


@pytest.mark.parametrize("number", atomic.DISK_ERRORS)
def test_every_refusal_is_a_sentence_with_what_to_do_and_the_old_file_stays(number, tmp_path, monkeypatch):
    atomic.write_json(tmp_path / "x.json", "old")

    def refuse(_):
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ValueError) as caught:
        atomic.write_json(tmp_path / "x.json", "new")
    assert str(caught.value) == f"cannot write {tmp_path / 'x.json'}: {'; '.join(atomic.DISK_ERRORS[number])}"
    assert json.loads((tmp_path / "x.json").read_text()) == "old" and len(list(tmp_path.iterdir())) == 1


def test_other_errors_are_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError), atomic.atomic_write(tmp_path / "x"):
        (tmp_path / "nothing").read_text()
    with pytest.raises(ValueError, match=r"^a mistake$"), atomic.atomic_write(tmp_path / "x"):
        raise ValueError("a mistake")


def test_a_refused_record_leaves_the_one_before(disk):
    old = made(fid=2.0)
    path = record.publish_record(disk.path, old)
    disk.fill()
    with pytest.raises(ValueError, match=r"cannot write .*json: the disk is full; free some space"):
        record.publish_record(disk.path, made(fid=1.0))
    assert record.read_record(path) == old and [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_beat_of_a_claim_and_its_release_need_no_space(disk):
    with hold_lease(disk.path / "run", 0) as own:
        disk.fill()
        own._write(f"{7:010d}")
        assert own.path.read_text().endswith('"beat": "0000000007"}')
    with pytest.raises(ValueError, match=r"claim-000002.json: the disk is full"), hold_lease(disk.path / "run", 0):
        pass


def test_a_torn_line_costs_only_itself(tmp_path):
    one = RunFolder(tmp_path)
    one.log("first")
    with (tmp_path / "log.jsonl").open("a") as f:
        f.write('{"event": "tor')
    one.log("second")
    assert [e["event"] for e in one.events()[0]] == ["first", "second"]


QUIET = {}


@pytest.fixture
def quiet(tmp_path, cache):
    """The record of an undisturbed run of tiny_config()."""
    if not QUIET:
        results = tmp_path / "quiet"
        results.mkdir()
        (results / "cache").symlink_to(cache)
        own = make_run(results, tiny_config())
        job.execute_run(own)
        QUIET["record"] = record.read_record(own.record_path)
    return QUIET["record"]


def when(monkeypatch, fragment, nth, do):
    """Do something as the nth file whose path has a fragment in it begins to be written."""
    seen, beside = [], atomic.partial_path

    def watched(path):
        if fragment in str(path):
            seen.append(path)
            if len(seen) == nth:
                do()
        return beside(path)

    monkeypatch.setattr(atomic, "partial_path", watched)


def check_ends_as(own, quiet):
    job.execute_run(own)
    found = record.read_record(own.record_path)
    assert (found.id, found.checkpoint, found.metrics) == (quiet.id, quiet.checkpoint, quiet.metrics)


@pytest.fixture
def own(disk, cache):
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
def test_a_disk_that_becomes_full_stops_a_run_in_a_sentence_and_then_it_goes_on(
    own, disk, quiet, moment, monkeypatch, capsys
):
    fragment, nth, left = MOMENTS[moment]
    with monkeypatch.context() as patch, pytest.raises(ValueError) as caught:
        when(patch, fragment, nth, lambda: disk.fill(left))
        job.execute_run(own)
    assert "the disk is full; free some space, and the same command goes on from the last checkpoint" in str(
        caught.value
    )
    assert fragment in str(caught.value) and not list(own.path.rglob(".*"))
    _, _, warnings = tensor_files.load_newest_checkpoint(own.path / "checkpoints")
    assert not warnings
    disk.free()
    check_ends_as(own, quiet)


def test_a_full_disk_under_the_log_loses_no_error(own, disk, quiet, monkeypatch, capsys, caplog):
    def append(path, line, real=atomic.append_line):
        if '"train"' in line and not disk.ballast.exists():
            pad = '{"event": "pad", "x": "%s"}'
            room = path.stat().st_size + len(pad) - 2 + 1 + 30
            real(path, pad % ("x" * (-room % 4096)))
            disk.fill()  # 30 bytes are left in the last block of the log
        real(path, line)

    with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"log.jsonl: the disk is full"):
        patch.setattr(run_folder, "append_line", append)
        job.execute_run(own)
    assert (own.path / "log.jsonl").stat().st_size == 4096 and len(
        (own.path / "log.jsonl").read_text().splitlines()[-1]
    ) == 30
    err = capsys.readouterr().err + caplog.text
    assert "error.txt: the disk is full" in err and "Traceback" in err and "no record of this failure" in err
    disk.free()
    check_ends_as(own, quiet)
    assert own.events()[0][-1]["event"] == "done"


def test_a_run_continues_after_a_read_only_disk(own, disk, quiet, monkeypatch, caplog):
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="the file system is read-only; make it writ"):
        when(patch, "/checkpoints/", 2, lambda: disk.read_only(True))
        job.execute_run(own)
    assert "error.txt: the file system is read-only" in caplog.text
    disk.read_only(False)
    for claim in own.path.glob("claim-*"):  # of this very process, which in life is gone by now
        claim.unlink()
    check_ends_as(own, quiet)


def test_the_door_answers_a_read_only_results_folder_in_a_sentence(disk, capsys):
    disk.read_only(True)
    assert run.main(["--data", "digits", "--results", str(disk.path / "results")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "choose another folder with --results" in err


def test_of_two_that_make_a_folder_the_first_stays(tmp_path):
    with atomic.atomic_folder(tmp_path / "x") as late:
        (late / "name").write_text("late")
        with atomic.atomic_folder(tmp_path / "x") as early:
            (early / "name").write_text("early")
    assert (tmp_path / "x" / "name").read_text() == "early" and len(list(tmp_path.iterdir())) == 1
