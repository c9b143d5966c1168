"""A lease file that admits one worker to a run, on any shared file system (NFS), without flock.

The lease is the file claim-000001.json, claim-000002.json, ... with the highest generation.  A process acquires it by
creating the next generation with an exclusive hard link, which succeeds for one process only.  The holder increments
`beat` in its file every HEARTBEAT_SECONDS.

The next generation may be created once the holder has released the lease or no longer runs.  The waiting process
decides whether the holder runs:
- in the same pid namespace, by its process id;
- in the same SLURM job, by the restart count;
- otherwise by its heartbeat, which expires if it does not change for EXPIRY_SECONDS.  Only the clock of the waiting
  process is used, so clocks of two hosts are never compared.

A holder that was suspended for longer loses its lease.  `check`, which is called before every write, then raises
LeaseLost.  A write that is already under way does no harm: every stage is a pure function of the config, so both
processes write the same bytes.  Imports no torch.
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
FIRST_BEAT = "0" * 10
RELEASED = "released".ljust(len(FIRST_BEAT))
"""Value of `beat` in a released lease, padded to the width of a heartbeat count so that it fits in place."""
NO_HARD_LINK_ERRORS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EXDEV)


class LeaseHeld(ValueError):
    """The lease is held by a process that still runs."""


class LeaseLost(RuntimeError):
    """Another process has taken over the lease; this process must end without writing anything more."""


@dataclass(frozen=True, kw_only=True)
class LeaseHolder:
    """The process that holds a lease, as stored in the lease file."""

    host: str
    pid: int
    place: str
    """The pid namespace (process_identity.pid_namespace_id)."""
    started: str
    """process_identity.start_time."""
    job: str
    """SLURM job id, ARRAY_TASK for an array task; "" outside SLURM."""
    unique: str
    """CLUSTER/RAW_JOB_ID, which is unique for each array task; "" outside SLURM."""
    restarts: int
    """Number of times that SLURM restarted this job."""
    nonce: str
    """Random id of this lease."""
    beat: str
    """Heartbeat count (ten digits), or RELEASED."""

    def describe(self) -> str:
        """Return the job, host and process id as text for a message."""
        job = f"job {self.job} on " if self.job else ""
        return f"{job}{self.host}, process {self.pid}"

    def end_command(self) -> str:
        """Return the command that ends the process."""
        return f"scancel {self.job}" if self.job else f"kill {self.pid} on {self.host}"


def this_process() -> LeaseHolder:
    """Return this process as the holder of a new lease."""
    env = os.environ
    array, raw_id = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_JOB_ID", "")
    return LeaseHolder(
        host=socket.gethostname(),
        pid=os.getpid(),
        place=process_identity.pid_namespace_id(),
        started=process_identity.start_time(os.getpid()),
        job=f"{array}_{env.get('SLURM_ARRAY_TASK_ID', '')}" if array else raw_id,
        unique=f"{env.get('SLURM_CLUSTER_NAME', '')}/{raw_id}" if raw_id else "",
        restarts=int(env.get("SLURM_RESTART_COUNT") or 0),
        nonce=uuid.uuid4().hex,
        beat=FIRST_BEAT,
    )


def parse_holder(text: str) -> LeaseHolder | None:
    """Parse the content of a lease file; None if it is incomplete or of another version."""
    try:
        return LeaseHolder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def lease_path(folder: Path, generation: int) -> Path:
    """Return the path of the lease file of a generation."""
    return folder / f"claim-{generation:06d}.json"


def list_generations(folder: Path) -> list[int]:
    """List the generations that have a lease file, ascending."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"claim-(\d{6,})\.json", name)))


def read_latest_lease(folder: Path) -> tuple[int, str]:
    """Return (generation, content) of the newest lease file; (0, "") if there is none."""
    while generations := list_generations(folder):
        try:
            return generations[-1], lease_path(folder, generations[-1]).read_text(errors="replace")
        except OSError as error:  # a newer lease file was created and this one removed in the meantime
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
    return 0, ""


class Lease:
    """A lease that this process holds until `release`.  A daemon thread writes its heartbeat."""

    def __init__(self, folder: Path, generation: int, holder: LeaseHolder) -> None:
        self.folder, self.generation, self.holder = folder, generation, holder
        self.path = lease_path(folder, generation)
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LeaseLost if another process holds the lease now."""
        generation, text = read_latest_lease(self.folder)
        if generation != self.generation or self.holder.nonce not in text:
            other = parse_holder(text)
            reason = f"was taken over by {other.describe()}" if other else "has been removed"
            raise LeaseLost(f"{self.folder} {reason}; this process writes nothing more")

    def release(self) -> None:
        """Release the lease.  The file stays, so that no generation is used twice."""
        self._released.set()
        self._thread.join(5)
        with suppress(OSError):  # others then acquire it once this process has ended
            self._write_beat(RELEASED)

    def _send_heartbeats(self) -> None:
        count = 0
        while not self._released.wait(HEARTBEAT_SECONDS):
            count += 1
            with suppress(OSError):  # `check` raises if the lease has expired because of this
                self._write_beat(f"{count:010d}")

    def _write_beat(self, beat: str) -> None:
        """Overwrite `beat` in place, which takes no disk space and cannot recreate a removed file."""
        with self.path.open("r+b", buffering=0) as f:
            text = f.read().decode(errors="replace")
            if self.holder.nonce in text:
                f.seek(text.rindex('"beat": "') + len('"beat": "'))
                f.write(beat.encode())
                os.fsync(f.fileno())


class HolderWatch:
    """Decides from successive reads of the lease file whether its holder still runs."""

    def __init__(self, observer: LeaseHolder) -> None:
        self.observer, self.generation, self.text = observer, 0, ""
        self.unchanged_since, self.is_beating = time.monotonic(), False

    def update(self, generation: int, text: str) -> None:
        """Record the newest lease file."""
        if (generation, text) != (self.generation, self.text):
            self.is_beating = generation == self.generation
            self.unchanged_since = time.monotonic()
            self.generation, self.text = generation, text

    @property
    def holder(self) -> LeaseHolder | None:
        """The current holder; None if the lease file cannot be parsed."""
        return parse_holder(self.text)

    def is_free(self) -> bool:
        """Whether the lease was released or its holder no longer runs."""
        holder = self.holder
        if not self.generation or (holder and holder.beat == RELEASED):
            return True
        if holder and holder.unique and holder.unique == self.observer.unique and self._is_earlier_start(holder):
            return True
        if holder and holder.place == self.observer.place:
            return not process_identity.is_running(holder.pid, holder.started)
        return time.monotonic() - self.unchanged_since >= EXPIRY_SECONDS

    def _is_earlier_start(self, holder: LeaseHolder) -> bool:
        """Whether the holder is an earlier start of this SLURM job.

        The pid namespace is compared too, because a restarted slurmctld may have lost the restart count.
        """
        return holder.restarts < self.observer.restarts or holder.place != self.observer.place

    def is_alive(self) -> bool:
        """Whether the holder is known to run.  Until that is known, both this and `is_free` return False."""
        holder = self.holder
        if holder and holder.place == self.observer.place:
            return True
        return self.is_beating and time.monotonic() - self.unchanged_since < 2 * HEARTBEAT_SECONDS


def acquire_lease(folder: Path, wait: float = 20.0) -> Lease:
    """Acquire the lease of a run, waiting for its holder for `wait` seconds.

    LeaseHeld if a running process still holds it after that.  For a holder on another host the decision may take up
    to EXPIRY_SECONDS in total.
    """
    began, watch = time.monotonic(), HolderWatch(this_process())
    while True:
        watch.update(*read_latest_lease(folder))
        if watch.is_free():
            if lease := create_lease(folder, watch.generation + 1):
                return lease
            continue
        if watch.is_alive() and time.monotonic() - began >= wait:
            holder = watch.holder
            who = (
                f"{holder.describe()}; wait for it, or end it ({holder.end_command()})" if holder else "another process"
            )
            raise LeaseHeld(f"{folder} is being worked on by {who}")
        time.sleep(POLL_SECONDS)


def current_holder(folder: Path) -> LeaseHolder | None:
    """Return the holder of a run's lease from a single read; None if the lease is free.

    A holder on another host may have died since its last heartbeat.
    """
    watch = HolderWatch(this_process())
    watch.update(*read_latest_lease(folder))
    return None if watch.is_free() else watch.holder


def create_lease(folder: Path, generation: int) -> Lease | None:
    """Create the lease file of a generation; None if another process was first."""
    holder, path = this_process(), lease_path(folder, generation)
    with disk_errors_explained(path):
        folder.mkdir(parents=True, exist_ok=True)
        create_exclusively(path, json.dumps(asdict(holder)))
    newest, text = read_latest_lease(folder)
    if holder.nonce not in text:
        if newest != generation and holder.nonce in read_text_or_empty(path):  # re-created an old generation
            path.unlink(missing_ok=True)
        return None
    for lower in list_generations(folder):
        if lower < generation:
            lease_path(folder, lower).unlink(missing_ok=True)
    return Lease(folder, generation, holder)


def create_exclusively(path: Path, text: str) -> None:
    """Create a file with its content in one step, unless it exists.

    An NFS server may report EEXIST for a link that it has just created, so the caller must compare the content.
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
    """Return the content of a file; "" if there is no file."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


@contextmanager
def hold_lease(folder: Path, wait: float = 20.0) -> Iterator[Lease]:
    """Hold the lease of a run during the block.  LeaseHeld as raised by `acquire_lease`."""
    lease = acquire_lease(folder, wait)
    try:
        yield lease
    finally:
        lease.release()
