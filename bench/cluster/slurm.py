"""Query SLURM in few calls: one sacct for any number of jobs, and one squeue if that does not suffice.

Job ids are those of SLURM: "12", or "12_3" for task 3 of array 12.  A requeue keeps the id.
Imports no torch and no submitit.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from bench.cluster.slurm_time import parse_slurm_time

TIMEOUT_SECONDS = 30.0
MAX_ARGUMENT_BYTES = 100_000
"""Maximum length of a list of job ids; Linux allows 131,072 bytes in one argument."""

QUEUED_STATES = frozenset(["PENDING", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"])
LIVE_STATES = QUEUED_STATES | {
    *("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED"),
    *("STAGE_OUT", "RESIZING", "SIGNALING"),
}
FINISHED_STATES = frozenset(["COMPLETED"])
UNSUCCESSFUL_STATES = frozenset(["FAILED", "CANCELLED", "OUT_OF_MEMORY", "DEADLINE"])
REQUEUABLE_STATES = frozenset(["REQUEUED", "NODE_FAIL", "PREEMPTED", "TIMEOUT", "BOOT_FAIL", "REVOKED"])
"""States after which SLURM may have requeued the job.  sacct shows a requeue late, so squeue decides."""
UNKNOWN_STATE = "UNKNOWN"


class SlurmUnavailable(ValueError):
    """SLURM does not answer; the message says which client failed."""


class AccountingUnavailable(SlurmUnavailable):
    """sacct fails on this cluster."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobState:
    """The state of one job according to SLURM."""

    state: str = UNKNOWN_STATE
    """SLURM's name without a suffix; UNKNOWN if neither sacct nor squeue knows the job."""
    alive: bool = False
    """Whether it is queued, running, or about to be queued again."""
    node: str = ""
    reason: str = ""
    """Why it waits (Priority, ...), who cancelled it ("by root"), or Dependency for one that can never be met."""
    elapsed_seconds: int = 0
    """Run time of its latest start."""
    exit_code: str = ""
    """EXIT:SIGNAL."""
    restarts: int = 0
    """Number of requeues."""
    previous_end: str = ""
    """State in which its previous start ended."""

    @property
    def queued(self) -> bool:
        """Whether it waits to be started."""
        return self.state in QUEUED_STATES

    @property
    def finished(self) -> bool:
        """Whether it ended successfully."""
        return self.state in FINISHED_STATES


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterLimits:
    """Limits of a cluster."""

    array: int
    """Maximum number of tasks of one array."""
    jobs: int
    """Maximum number of jobs of all users together; each array task counts."""


def query_job_states(ids: Iterable[str]) -> dict[str, JobState]:
    """Query the state of each job by one sacct call, and one squeue call unless all jobs have certainly ended.

    Without accounting only squeue is called.  It soon drops ended jobs, so that their state becomes UNKNOWN.
    SlurmUnavailable if SLURM does not answer.
    """
    ids = list(dict.fromkeys(ids))
    if not ids:
        return {}
    bases = list(dict.fromkeys(id_.partition("_")[0] for id_ in ids))
    try:
        by_sacct = query_sacct(bases)
    except AccountingUnavailable:
        by_sacct = {}
    states = {id_: by_sacct.get(id_, JobState()) for id_ in ids}
    if all(s.state in FINISHED_STATES | UNSUCCESSFUL_STATES for s in states.values()):
        return states
    by_squeue = query_squeue(bases)
    arrays = {id_.partition("_")[0] for id_ in (*by_sacct, *by_squeue) if "_" in id_}
    return {
        id_: merge_job_states(state, by_squeue.get(id_), is_array_task=id_.partition("_")[0] in arrays)
        for id_, state in states.items()
    }


def merge_job_states(accounted: JobState, queue: JobState | None, is_array_task: bool) -> JobState:
    """Merge the states reported by sacct and by squeue (None if squeue does not list the job)."""
    if accounted.state in FINISHED_STATES | UNSUCCESSFUL_STATES and not (queue and queue.alive):
        return accounted
    if queue is None and is_array_task and accounted.state in QUEUED_STATES | {UNKNOWN_STATE}:
        return JobState(state="CANCELLED", reason="before it started")  # SLURM 22.05 drops such a task entirely
    if queue is None:  # squeue lists jobs for minutes after their end, so sacct has missed the end
        return replace(accounted, state=UNKNOWN_STATE if accounted.alive else accounted.state, alive=False)
    is_requeued = queue.alive and accounted.state in REQUEUABLE_STATES
    return JobState(
        state=queue.state,
        alive=queue.alive,
        node=queue.node,
        reason=queue.reason or (accounted.reason if accounted.state == queue.state else ""),
        elapsed_seconds=queue.elapsed_seconds,
        exit_code="" if accounted.alive or queue.alive else accounted.exit_code,
        restarts=accounted.restarts + is_requeued,
        previous_end=accounted.state if is_requeued else accounted.previous_end,
    )


def query_sacct(bases: list[str]) -> dict[str, JobState]:
    """Query states by sacct.  With -D it lists a requeued job once per start; the latest start decides."""
    single: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)
    ranged: dict[str, list[tuple[str, list[str]]]] = {}
    fields = "JobID,Submit,State,ExitCode,ElapsedRaw,NodeList,Reason"
    for chunk in split_arguments(bases):
        for line in run_client("sacct", "-X", "-D", "-n", "-P", "-o", fields, "-j", ",".join(chunk)).splitlines():
            job, submitted, *state_fields = line.split("|", 6)
            if "[" in job:  # a range may include tasks that also have their own line
                ranged.update((id_, [(submitted, state_fields)]) for id_ in expand_job_ids(job))
            else:
                single[job].append((submitted, state_fields))
    return {id_: parse_starts(starts) for id_, starts in {**ranged, **single}.items()}


def parse_starts(starts: list[tuple[str, list[str]]]) -> JobState:
    """Derive the state of a job from sacct's lines, one (submit time, remaining fields) per start."""
    starts = sorted(starts, key=lambda start: start[0])
    state, code, elapsed, node, reason = starts[-1][1]
    name, _, by = state.partition(" ")
    waits_for = reason if node == "None assigned" and reason != "None" else ""  # else left from an earlier wait
    return JobState(
        state=name,
        alive=name in LIVE_STATES,
        node="" if node == "None assigned" else node,
        reason=name_canceller(by) or waits_for,
        elapsed_seconds=int(elapsed or 0),
        exit_code=code,
        restarts=len(starts) - 1,
        previous_end=starts[-2][1][0].partition(" ")[0] if len(starts) > 1 else "",
    )


def name_canceller(by: str) -> str:
    """Replace the uid in "by 0" with the user's name, if this machine knows the user."""
    word, _, uid = by.partition(" ")
    try:
        return f"by {pwd.getpwuid(int(uid)).pw_name}" if word == "by" else by
    except (KeyError, ValueError):
        return by


def query_squeue(bases: list[str]) -> dict[str, JobState]:
    """Query states by squeue, which also lists jobs that ended within the last minutes (MinJobAge).

    Ranges of tasks are expanded here, since squeue -r loses the last task of a range like 0-597:3 (SLURM 22.05).
    """
    states = {}
    for chunk in split_arguments(bases):
        flags = ("-h", "-t", "all", "-o", "%i|%T|%N|%M|%r", "-j", ",".join(chunk))
        for line in run_client("squeue", *flags).splitlines():
            job, name, node, elapsed, reason = line.strip().split("|", 4)
            state = JobState(
                state=name,
                alive=name in LIVE_STATES or name == "REQUEUED",
                node=node,
                reason="" if reason == "None" or name == "RUNNING" else reason,
                elapsed_seconds=_elapsed_seconds(elapsed),
            )
            states.update(dict.fromkeys(expand_job_ids(job), state))
    return states


def _elapsed_seconds(text: str) -> int:
    """Parse squeue's %M to seconds; 0 for INVALID, which it prints for a job that has not started."""
    try:
        return parse_slurm_time(text)
    except ValueError:
        return 0


def cancel_jobs(ids: Iterable[str]) -> None:
    """Cancel jobs in one scancel call; ended ones are ignored.  SlurmUnavailable if it fails."""
    tasks = defaultdict(list)
    for id_ in dict.fromkeys(ids):
        base, _, task = id_.partition("_")
        tasks[base].append(task)
    arguments = [base if "" in task_ids else f"{base}_[{','.join(task_ids)}]" for base, task_ids in tasks.items()]
    for chunk in split_arguments(arguments):
        run_client("scancel", *chunk)


def cancel_jobs_by_name(names: Iterable[str]) -> None:
    """Cancel all jobs of this user with these names.  SlurmUnavailable if scancel fails."""
    for name in names:
        run_client("scancel", "--me", f"--name={name}")


def query_limits() -> ClusterLimits:
    """Query the limits of this cluster.  SlurmUnavailable if SLURM does not answer."""
    settings = dict(re.findall(r"^(\S+)\s*= (.*)$", run_client("scontrol", "show", "config"), re.MULTILINE))
    max_tasks = re.search(r"max_array_tasks=(\d+)", settings.get("SchedulerParameters", ""))
    array = int(settings["MaxArraySize"])  # one more than the largest index; the first is 0
    return ClusterLimits(array=min(array, int(max_tasks[1])) if max_tasks else array, jobs=int(settings["MaxJobCount"]))


def expand_job_ids(job: str) -> Iterator[str]:
    """Expand a range of tasks: 123_[4-8:2,12%2] is 123_4, 123_6, 123_8, 123_12; any other id is yielded as it is."""
    base, bracket, ranges = job.rstrip("]").partition("_[")
    if not bracket:
        yield job
        return
    for part in ranges.partition("%")[0].split(","):
        if match := re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part):
            first, last, step = (int(n) if n else None for n in match.groups())
            assert first is not None
            yield from (f"{base}_{i}" for i in range(first, (last or first) + 1, step or 1))


def split_arguments(words: list[str]) -> Iterator[list[str]]:
    """Split words into lists that fit one command line each; usually one list."""
    chunk: list[str] = []
    size = 0
    for word in words:
        if chunk and size + len(word) + 1 > MAX_ARGUMENT_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(word)
        size += len(word) + 1
    if chunk:
        yield chunk


USER_PREFERENCES = ("SQUEUE_", "SACCT_", "SCANCEL_")
"""Prefixes of environment variables that change the clients' output or make them ask for confirmation."""
HARMLESS_ERRORS = re.compile(r"Invalid job id specified|already completing|Job/step already")


def run_client(*command: str) -> str:
    """Run a SLURM client and return its output, which is empty if SLURM does not know the job.

    SlurmUnavailable (AccountingUnavailable for sacct) with one sentence if the client fails.
    """
    problem = AccountingUnavailable if command[0] == "sacct" else SlurmUnavailable
    env = {name: value for name, value in os.environ.items() if not name.startswith(USER_PREFERENCES)}
    env |= {"SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "standard"}
    try:
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except FileNotFoundError:
        raise problem(f"{command[0]} is not on PATH, so SLURM cannot be queried; is this a login node?") from None
    except subprocess.TimeoutExpired:
        raise problem(f"{command[0]} gave no answer in {TIMEOUT_SECONDS:.0f} s; try again when SLURM is back") from None
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if not HARMLESS_ERRORS.search(line)]
    if done.returncode and (errors or not lines):
        reason = errors[-1] if errors else f"exit status {done.returncode}"
        raise problem(f"{command[0]} failed ({reason}); is SLURM up?")
    return done.stdout
