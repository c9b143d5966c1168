"""What SLURM says of jobs, in few calls: one sacct for any number of them, and one squeue where that is not enough.

Ids are SLURM's: "12", or "12_3" for task 3 of array 12; both outlive a requeue.  Imports no torch and no submitit.
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
MAX_ARGUMENT_BYTES = 100_000  # bytes; Linux takes 131,072 in one argument

QUEUED_STATES = frozenset(["PENDING", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"])
LIVE_STATES = QUEUED_STATES | {
    *("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED"),
    *("STAGE_OUT", "RESIZING", "SIGNALING"),
}
FINISHED_STATES = frozenset(["COMPLETED"])
UNSUCCESSFUL_STATES = frozenset(["FAILED", "CANCELLED", "OUT_OF_MEMORY", "DEADLINE"])
REQUEUABLE_STATES = frozenset(["REQUEUED", "NODE_FAIL", "PREEMPTED", "TIMEOUT", "BOOT_FAIL", "REVOKED"])
"""Words of a job that SLURM may have put back into the queue, which sacct is late to tell; squeue decides."""
UNKNOWN = "UNKNOWN"


class SlurmUnavailable(ValueError):
    """SLURM does not answer; one sentence says which part of it."""


class AccountingUnavailable(SlurmUnavailable):
    """sacct cannot tell anything here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobState:
    """What SLURM says of one job."""

    word: str = UNKNOWN
    """SLURM's, without what follows it; UNKNOWN when neither sacct nor squeue has the job."""
    alive: bool = False
    """Queued, running, or on its way back into the queue."""
    node: str = ""
    reason: str = ""
    """Why a job waits (Priority, Dependency ...), who cancelled it ("by 0"), or Dependency: it can never be met."""
    elapsed_seconds: int = 0
    """Of its latest start."""
    exit_code: str = ""
    """EXIT:SIGNAL."""
    restarts: int = 0
    """Times that it was requeued."""
    interrupted: str = ""
    """The word that its start before this one ended in."""

    @property
    def queued(self) -> bool:
        return self.word in QUEUED_STATES

    @property
    def finished(self) -> bool:
        return self.word in FINISHED_STATES


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterLimits:
    """What a cluster takes."""

    array: int
    """Tasks in one array."""
    jobs: int
    """Jobs that all its users together may have in it, each array task being one."""


def query_job_states(ids: Iterable[str]) -> dict[str, JobState]:
    """The state of each job: one sacct call, and one squeue call unless all are certainly over.

    A cluster without accounting is asked by squeue alone, which soon forgets what is over: UNKNOWN.
    NoAnswer when SLURM does not answer.
    """
    wanted = list(dict.fromkeys(ids))
    if not wanted:
        return {}
    bases = list(dict.fromkeys(id_.partition("_")[0] for id_ in wanted))
    try:
        told = query_sacct(bases)
    except AccountingUnavailable:
        told = {}
    found = {id_: told.get(id_, JobState()) for id_ in wanted}
    if all(s.word in FINISHED_STATES | UNSUCCESSFUL_STATES for s in found.values()):
        return found
    queue = query_squeue(bases)
    arrays = {id_.partition("_")[0] for id_ in (*told, *queue) if "_" in id_}
    return {id_: merge_job_states(s, queue.get(id_), id_.partition("_")[0] in arrays) for id_, s in found.items()}


def merge_job_states(told: JobState, queue: JobState | None, array: bool) -> JobState:
    """One state out of what sacct told and what squeue shows (None: nothing), as a task of a known array or not."""
    if told.word in FINISHED_STATES | UNSUCCESSFUL_STATES and not (queue and queue.alive):
        return told
    if queue is None and array and told.word in QUEUED_STATES | {UNKNOWN}:  # SLURM 22.05 keeps no trace of such a task
        return JobState(word="CANCELLED", reason="before it started")
    if queue is None:  # not even among those that ended lately: sacct has missed its end
        return replace(told, word=UNKNOWN if told.alive else told.word, alive=False)
    back = queue.alive and told.word in REQUEUABLE_STATES
    return JobState(
        word=queue.word,
        alive=queue.alive,
        node=queue.node,
        reason=queue.reason or (told.reason if told.word == queue.word else ""),
        elapsed_seconds=queue.elapsed_seconds,
        exit_code="" if told.alive or queue.alive else told.exit_code,
        restarts=told.restarts + back,
        interrupted=told.word if back else told.interrupted,
    )


def query_sacct(bases: list[str]) -> dict[str, JobState]:
    """What sacct tells; -D lists a requeued job once for each start, the last of them being how it stands."""
    single: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)
    ranged: dict[str, list[tuple[str, list[str]]]] = {}
    fields = "JobID,Submit,State,ExitCode,ElapsedRaw,NodeList,Reason"
    for some in split_arguments(bases):
        for line in run_client("sacct", "-X", "-D", "-n", "-P", "-o", fields, "-j", ",".join(some)).splitlines():
            job, submitted, *rest = line.split("|", 6)
            if "[" in job:  # may still name tasks that have left it
                ranged.update((id_, [(submitted, rest)]) for id_ in expand_job_ids(job))
            else:
                single[job].append((submitted, rest))
    return {id_: parse_starts(starts) for id_, starts in {**ranged, **single}.items()}


def parse_starts(starts: list[tuple[str, list[str]]]) -> JobState:
    """The state of a job from its rows."""
    starts = sorted(starts, key=lambda start: start[0])
    state, code, elapsed, node, reason = starts[-1][1]
    word, _, by = state.partition(" ")
    waited = reason if node == "None assigned" and reason != "None" else ""  # else it is why it once waited
    return JobState(
        word=word,
        alive=word in LIVE_STATES,
        node="" if node == "None assigned" else node,
        reason=name_canceller(by) or waited,
        elapsed_seconds=int(elapsed or 0),
        exit_code=code,
        restarts=len(starts) - 1,
        interrupted=starts[-2][1][0].partition(" ")[0] if len(starts) > 1 else "",
    )


def name_canceller(by: str) -> str:
    """ "by 0" as "by root"; as it is where the user is not known here."""
    word, _, uid = by.partition(" ")
    try:
        return f"by {pwd.getpwuid(int(uid)).pw_name}" if word == "by" else by
    except (KeyError, ValueError):
        return by


def query_squeue(bases: list[str]) -> dict[str, JobState]:
    """What squeue shows, those that ended within the last minutes (MinJobAge) among it.

    Ranges of tasks are expanded here: of 0-597:3 squeue's own -r forgets the last (SLURM 22.05).
    """
    found = {}
    for some in split_arguments(bases):
        flags = ("-h", "-t", "all", "-o", "%i|%T|%N|%M|%r", "-j", ",".join(some))
        for line in run_client("squeue", *flags).splitlines():
            job, word, node, elapsed, reason = line.strip().split("|", 4)
            told = "" if reason == "None" or word == "RUNNING" else reason
            alive = word in LIVE_STATES or word == "REQUEUED"
            state = JobState(word=word, alive=alive, node=node, reason=told, elapsed_seconds=_elapsed_seconds(elapsed))
            found.update(dict.fromkeys(expand_job_ids(job), state))
    return found


def _elapsed_seconds(text: str) -> int:
    """Seconds of squeue's %M; 0 for INVALID, of a job without a start."""
    try:
        return parse_slurm_time(text)
    except ValueError:
        return 0


def cancel_jobs(ids: Iterable[str]) -> None:
    """End jobs, all in one scancel call; those that are over already are left as they are.  NoAnswer as `states`."""
    tasks = defaultdict(list)
    for id_ in dict.fromkeys(ids):
        base, _, task = id_.partition("_")
        tasks[base].append(task)
    words = [base if "" in some else f"{base}_[{','.join(some)}]" for base, some in tasks.items()]
    for some in split_arguments(words):
        run_client("scancel", *some)


def cancel_jobs_by_name(names: Iterable[str]) -> None:
    """End all jobs of this user's that have one of these names.  NoAnswer as `states`."""
    for name in names:
        run_client("scancel", "--me", f"--name={name}")


def query_limits() -> ClusterLimits:
    """How much can be submitted; NoAnswer as `states`."""
    told = dict(re.findall(r"^(\S+)\s*= (.*)$", run_client("scontrol", "show", "config"), re.MULTILINE))
    most = re.search(r"max_array_tasks=(\d+)", told.get("SchedulerParameters", ""))
    array = int(told["MaxArraySize"])  # the largest index is one less, and the first is 0
    return ClusterLimits(array=min(array, int(most[1])) if most else array, jobs=int(told["MaxJobCount"]))


def expand_job_ids(job: str) -> Iterator[str]:
    """123_[4-8:2,12%2] as 123_4, 123_6, 123_8, 123_12; what is no range as itself."""
    base, bracket, ranges = job.rstrip("]").partition("_[")
    if not bracket:
        yield job
        return
    for part in ranges.partition("%")[0].split(","):
        if found := re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part):
            first, last, step = (int(n) if n else None for n in found.groups())
            assert first is not None
            yield from (f"{base}_{i}" for i in range(first, (last or first) + 1, step or 1))


def split_arguments(words: list[str]) -> Iterator[list[str]]:
    """As few lists as fit a command line each: nearly always one."""
    some: list[str] = []
    size = 0
    for word in words:
        if some and size + len(word) + 1 > MAX_ARGUMENT_BYTES:
            yield some
            some, size = [], 0
        some.append(word)
        size += len(word) + 1
    if some:
        yield some


USER_PREFERENCES = ("SQUEUE_", "SACCT_", "SCANCEL_")
"""What users set to have less shown, or to be asked."""
HARMLESS_ERRORS = re.compile(r"Invalid job id specified|already completing|Job/step already")


def run_client(*command: str) -> str:
    """The output of one of SLURM's clients; that it knows no such job is an empty answer.

    NoAnswer, or NoAccounting for sacct, says in one sentence what failed.
    """
    problem = AccountingUnavailable if command[0] == "sacct" else SlurmUnavailable
    own = {name: value for name, value in os.environ.items() if not name.startswith(USER_PREFERENCES)}
    env = {**own, "SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "standard"}
    try:
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except FileNotFoundError:
        raise problem(f"{command[0]} is not on PATH, so SLURM cannot be asked; is this a login node?") from None
    except subprocess.TimeoutExpired:
        raise problem(f"{command[0]} gave no answer in {TIMEOUT_SECONDS:.0f} s; try again when SLURM is back") from None
    lines = done.stderr.strip().splitlines()
    said = [line for line in lines if not HARMLESS_ERRORS.search(line)]
    if done.returncode and (said or not lines):
        raise problem(f"{command[0]} failed ({said[-1] if said else f'exit status {done.returncode}'}); is SLURM up?")
    return done.stdout
