"""Who works on a run: a lease in its folder that holds on any shared file system, without lock files of the kernel.

claim-000001.json, claim-000002.json, ...: the highest generation is the holder's.  A new one is made by an
exclusive link, so that of two processes exactly one has it; its holder counts up `beat` in it.  A claimant
makes the next generation when the holder has let go or is dead: by its process id where both run in one
place, by SLURM's word of a restart, or else because the beat stood still for a minute by the claimant's own
clock (clocks of two hosts are never compared).  One that was only asleep finds out from `check`, which is to
be called before anything is written; what it may still write between that and its end are the same bytes,
because every stage is a pure function of the config.  Imports no torch.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.storage import process_identity
from bench.storage.atomic import disk_errors_explained, partial_path

HEARTBEAT_SECONDS = 10.0
EXPIRY_SECONDS = 60.0
POLL_SECONDS = 0.2
RELEASED = "released".ljust(10)
NO_HARD_LINK_ERRORS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EXDEV)


class LeaseHeld(ValueError):
    """Another process that is alive holds the run."""


class LeaseLost(RuntimeError):
    """Another process holds the run now; this one must end without writing anything more."""


@dataclass(frozen=True, kw_only=True)
class LeaseHolder:
    """A process that claims."""

    host: str
    pid: int
    place: str
    """Where the process id holds (bench/storage/process_identity.py)."""
    started: str
    job: str
    """SLURM's id, ARRAY_TASK for a task of an array; "" outside of SLURM."""
    unique: str
    """SLURM's id that no other task shares, with the cluster's name."""
    restarts: int
    """How often SLURM has started this job again."""
    nonce: str
    beat: str

    def words(self) -> str:
        job = f"job {self.job} on " if self.job else ""
        return f"{job}{self.host}, process {self.pid}"

    def how_to_end(self) -> str:
        return f"scancel {self.job}" if self.job else f"kill {self.pid} on {self.host}"


def this_process() -> LeaseHolder:
    """This process; `words` of it are fit for a log."""
    env = os.environ
    array, own = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_JOB_ID", "")
    return LeaseHolder(
        host=socket.gethostname(),
        pid=os.getpid(),
        place=process_identity.pid_namespace_id(),
        started=process_identity.start_time(os.getpid()),
        job=f"{array}_{env.get('SLURM_ARRAY_TASK_ID', '')}" if array else own,
        unique=f"{env.get('SLURM_CLUSTER_NAME', '')}/{own}" if own else "",
        restarts=int(env.get("SLURM_RESTART_COUNT") or 0),
        nonce=uuid.uuid4().hex,
        beat="0" * 10,
    )


def parse_holder(text: str) -> LeaseHolder | None:
    """The holder that a claim's content tells; None where it is no claim of this version."""
    try:
        return LeaseHolder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def lease_path(folder: Path, generation: int) -> Path:
    return folder / f"claim-{generation:06d}.json"


def list_generations(folder: Path) -> list[int]:
    """The generations that are there, ascending."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(found[1]) for name in names if (found := re.fullmatch(r"claim-(\d{6,})\.json", name)))


def read_latest_lease(folder: Path) -> tuple[int, str]:
    """(generation, content) of the holder's claim; (0, "") where there was never one."""
    while there := list_generations(folder):
        try:
            return there[-1], lease_path(folder, there[-1]).read_text(errors="replace")
        except OSError as error:  # a higher one has come, and this was cleaned up
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
    return 0, ""


class Lease:
    """A run that this process holds, until `release`."""

    def __init__(self, folder: Path, generation: int, holder: LeaseHolder) -> None:
        self.folder, self.generation, self.holder = folder, generation, holder
        self.path = lease_path(folder, generation)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """TakenOver when another process holds the run now."""
        generation, text = read_latest_lease(self.folder)
        if generation != self.generation or self.holder.nonce not in text:
            other = parse_holder(text)
            who = f"was taken over by {other.words()}" if other else "has been removed"
            raise LeaseLost(f"{self.folder} {who}; this process writes nothing more")

    def release(self) -> None:
        """Let go.  The file stays, so that generations never repeat."""
        self._ended.set()
        self._thread.join(5)
        with suppress(OSError):  # what cannot be written is found out by the next claimant
            self._write(RELEASED)

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(HEARTBEAT_SECONDS):
            count += 1
            with suppress(OSError):  # `check` tells whether it cost the run
                self._write(f"{count:010d}")

    def _write(self, beat: str) -> None:
        """In place and of one width, which needs no space and cannot bring back what was cleaned up."""
        with self.path.open("r+b", buffering=0) as f:
            text = f.read().decode(errors="replace")
            if self.holder.nonce in text:
                f.seek(text.rindex('"beat": "') + len('"beat": "'))
                f.write(beat.encode())
                os.fsync(f.fileno())


class HolderWatch:
    """What a claimant has seen of the holder, by its own clock."""

    def __init__(self, own: LeaseHolder) -> None:
        self.own, self.generation, self.text = own, 0, ""
        self.since, self.beating = time.monotonic(), False

    def see(self, generation: int, text: str) -> None:
        if (generation, text) != (self.generation, self.text):
            self.beating = generation == self.generation
            self.since = time.monotonic()
            self.generation, self.text = generation, text

    @property
    def holder(self) -> LeaseHolder | None:
        return parse_holder(self.text)

    def gone(self) -> bool:
        """Whether nobody holds the run."""
        them = self.holder
        if not self.generation or (them and them.beat == RELEASED):
            return True
        if them and them.unique and them.unique == self.own.unique and self._earlier(them):
            return True
        if them and them.place == self.own.place:
            return not process_identity.is_running(them.pid, them.started)
        return time.monotonic() - self.since >= EXPIRY_SECONDS

    def _earlier(self, them: LeaseHolder) -> bool:
        """Whether they are an earlier start of this SLURM job, which a controller that forgot it may leave running."""
        return them.restarts < self.own.restarts or them.place != self.own.place

    def alive(self) -> bool:
        """Whether the holder was seen alive just now; neither this nor `gone` while that is open."""
        them = self.holder
        if them and them.place == self.own.place:
            return True
        return self.beating and time.monotonic() - self.since < 2 * HEARTBEAT_SECONDS


def acquire_lease(folder: Path, wait: float = 20.0) -> Lease:
    """Hold a run.

    Held (a ValueError) when a process that is alive still holds it after `wait` seconds; where that cannot be told
    by then, the answer takes up to a minute.
    """
    began, watch = time.monotonic(), HolderWatch(this_process())
    while True:
        watch.see(*read_latest_lease(folder))
        if watch.gone():
            if made := create_lease(folder, watch.generation + 1):
                return made
            continue
        if watch.alive() and time.monotonic() - began >= wait:
            who = watch.holder
            words = f"{who.words()}; wait for it, or end it ({who.how_to_end()})" if who else "another process"
            raise LeaseHeld(f"{folder} is being worked on by {words}")
        time.sleep(POLL_SECONDS)


def current_holder(folder: Path) -> LeaseHolder | None:
    """Who holds a run as far as one look tells; one of another place that is silent for a minute may be dead."""
    watch = HolderWatch(this_process())
    watch.see(*read_latest_lease(folder))
    return None if watch.gone() else watch.holder


def create_lease(folder: Path, generation: int) -> Lease | None:
    """The claim of this generation; None when another process was first."""
    own, path = this_process(), lease_path(folder, generation)
    with disk_errors_explained(path):
        folder.mkdir(parents=True, exist_ok=True)
        create_exclusively(path, json.dumps(asdict(own)))
    highest, text = read_latest_lease(folder)
    if own.nonce not in text:
        if highest != generation and own.nonce in read_text_or_empty(
            path
        ):  # the holder before was long gone, and cleaned up
            path.unlink(missing_ok=True)
        return None
    for lower in list_generations(folder):
        if lower < generation:
            lease_path(folder, lower).unlink(missing_ok=True)
    return Lease(folder, generation, own)


def create_exclusively(path: Path, text: str) -> None:
    """Make a file with a content at once unless it is there.

    A server may answer that it is there of a link that it has just made: only the content tells.
    """
    partial = partial_path(path)
    try:
        with partial.open("w") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        with suppress(FileExistsError):
            os.link(partial, path)
    except OSError as error:
        if error.errno not in NO_HARD_LINK_ERRORS:
            raise
        with suppress(FileExistsError), path.open("x") as f:
            f.write(text)
    finally:
        with suppress(OSError):
            partial.unlink()


def read_text_or_empty(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


@contextmanager
def hold_lease(folder: Path, wait: float = 20.0) -> Iterator[Lease]:
    """`acquire`, and `release` at the end."""
    own = acquire_lease(folder, wait)
    try:
        yield own
    finally:
        own.release()
