"""Runs on SLURM: each a chain of two jobs, train -> evaluate; a suite is an array of each.  Imports no torch.

A submission is announced in results/runs/jobs/submissions/UID.json, made, noted in each run's jobs.json, and the
announcement removed; what a killed submission has left is cancelled and made again.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError

from bench.cluster import slurm
from bench.cluster.profiles import JobRequest, SlurmProfile
from bench.storage.atomic import write_json
from bench.storage.run_folder import RunFolder

MAX_TIMEOUTS = 1_000_000
IGNORING_SIGNALS = """bash -c 'trap "" USR2 TERM; exec "$0" "$@"'"""
"""Notices that come while Python starts would kill the job, and SLURM would call that a failure."""

JobFactory = Callable[..., Callable[[], Any]]
"""(folder of a run, stage, seconds of notice) -> what its job calls."""


class SlurmExecutor(submitit.SlurmExecutor):
    """submitit's, which also writes its request where there is no SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 2


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What all jobs of one submission share."""

    results: Path
    profile: SlurmProfile
    code: Path
    """For PYTHONPATH."""
    make: JobFactory
    label: str
    """Part of the jobs' names: the suite, or the run."""
    parallel: int | None = None
    """Most jobs of an array at a time."""

    @property
    def jobs(self) -> Path:
        return jobs_folder(self.results)


def jobs_folder(results: Path) -> Path:
    """Code copies, logs and pickles of jobs."""
    return results.absolute() / "runs" / "jobs"


def make_slurm_executor(folder: Path, request: JobRequest, code: Path, name: str, **more: Any) -> SlurmExecutor:
    """An executor for a request; jobs import the code copy, whatever folder they start in."""
    python = f"{IGNORING_SIGNALS} {request.python or shlex.quote(sys.executable)}"
    made = SlurmExecutor(folder=folder / "%j", max_num_timeout=MAX_TIMEOUTS, python=python)
    own = request.parameters()
    path = f"export PYTHONSAFEPATH=1 PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}"
    own["setup"] = [*own["setup"], path]
    more["additional_parameters"] = {**own.pop("additional_parameters"), **more.pop("additional_parameters", {})}
    made.update_parameters(**own, job_name=name, stderr_to_stdout=False, **more)
    return made


def submission_scripts(
    results: Path, profile: SlurmProfile, count: int, parallel: int | None, label: str
) -> dict[str, str]:
    """{stage: its sbatch request in full}, as `count` runs would be submitted; writes nothing."""
    found = {}
    for stage in ("train", "evaluate"):
        request = getattr(profile, stage)
        more = dependency_parameters("ID_OF_TRAINING", count) if stage == "evaluate" else {}
        folder = jobs_folder(results)
        made = make_slurm_executor(folder, request, folder / "code" / "HASH", f"{stage}-{label}-UID", **more)
        if count > 1:
            made.parameters |= {"map_count": count, "array_parallelism": parallel or count}
        found[stage] = made._make_submission_file_text(made._submitit_command_str, "UID")
    return found


def dependency_parameters(job: str, count: int) -> dict[str, Any]:
    """Parameters of a job that needs another's success: task by task in arrays, cancelled when it fails."""
    kind = "aftercorr" if count > 1 else "afterok"
    return {"dependency": f"{kind}:{job}", "additional_parameters": {"kill-on-invalid-dep": "yes"}}


def submit_runs(submission: Submission, train: Sequence[RunFolder], evaluate: Sequence[RunFolder]) -> Iterator[str]:
    """Submit whole chains for `train` and the second half for `evaluate`; a line for each run.

    Raises ValueError with SLURM's reason when it refuses a request; what was part of that submission is
    cancelled again.
    """
    size, before = max(1, slurm.query_limits().array), ""
    for chunk in split_into_arrays(train, size):
        first = {"dependency": f"afterany:{before}"} if before and submission.parallel else {}
        with announced_submission(submission, chunk) as uid:
            jobs = {"train": submit_stage(submission, chunk, "train", uid, first)}
            before = jobs["train"][0].job_id.partition("_")[0]
            jobs["evaluate"] = submit_stage(
                submission, chunk, "evaluate", uid, dependency_parameters(before, len(chunk))
            )
            write_jobs_files(chunk, jobs)
        yield from describe_jobs(chunk, jobs)
    for chunk in split_into_arrays(evaluate, size):
        with announced_submission(submission, chunk) as uid:
            jobs = {"evaluate": submit_stage(submission, chunk, "evaluate", uid, {})}
            write_jobs_files(chunk, jobs)
        yield from describe_jobs(chunk, jobs)


def split_into_arrays(runs: Sequence[RunFolder], size: int) -> Iterator[Sequence[RunFolder]]:
    """Arrays that the cluster takes."""
    for start in range(0, len(runs), size):
        yield runs[start : start + size]


def submit_stage(
    submission: Submission, runs: Sequence[RunFolder], stage: str, uid: str, more: dict[str, Any]
) -> list[submitit.Job[Any]]:
    """One job, or one array, of a stage."""
    request: JobRequest = getattr(submission.profile, stage)
    name = f"{stage}-{submission.label}-{uid}"
    parallel = {"array_parallelism": submission.parallel or len(runs)}
    made = make_slurm_executor(submission.jobs, request, submission.code, name, **parallel, **more)
    calls = [submission.make(str(run.path.absolute()), stage, float(request.signal_seconds)) for run in runs]
    try:
        with made.batch():
            sent: list[submitit.Job[Any]] = [made.submit(call) for call in calls]
    except FailedJobError as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("sbatch: error: ")
        hint = "change the profile in slurm/, or --set slurm.KEY=VALUE"
        raise ValueError(f"SLURM does not take {name}: {reason}; {hint}") from error
    return sent


def write_jobs_files(runs: Sequence[RunFolder], jobs: dict[str, list[submitit.Job[Any]]]) -> None:
    """Write each run's jobs.json."""
    for i, run in enumerate(runs):
        own = {stage: found[i] for stage, found in jobs.items()}
        told = {stage: {"id": job.job_id, "log": str(job.paths.stdout)} for stage, job in own.items()}
        write_json(run.path / "jobs.json", {"submitted": time.time(), "jobs": told})


def describe_jobs(runs: Sequence[RunFolder], jobs: dict[str, list[submitit.Job[Any]]]) -> Iterator[str]:
    """What was submitted, a line for each run."""
    for i, run in enumerate(runs):
        yield f"{run.path.name}: " + " -> ".join(f"{stage} {found[i].job_id}" for stage, found in jobs.items())


@contextmanager
def announced_submission(submission: Submission, runs: Sequence[RunFolder]) -> Iterator[str]:
    """The uid of a submission; whatever ends it before its jobs are noted cancels them."""
    uid = uuid.uuid4().hex[:8]
    names = [f"{stage}-{submission.label}-{uid}" for stage in ("train", "evaluate")]
    path = submission.jobs / "submissions" / f"{uid}.json"
    write_json(path, {"names": names, "runs": [run.path.name for run in runs]})
    try:
        yield uid
    except BaseException:
        with suppress(slurm.SlurmUnavailable):  # then the announcement stays, and the next submission cancels them
            slurm.cancel_jobs_by_name(names)
            path.unlink()
        raise
    path.unlink()


def cancel_orphans(results: Path) -> list[str]:
    """Cancel what submissions that were killed have left; names of their runs.  NoAnswer as `slurm.cancel`."""
    left = []
    for path in sorted((jobs_folder(results) / "submissions").glob("*.json")):
        told = json.loads(path.read_text())
        slurm.cancel_jobs_by_name(told["names"])
        left += told["runs"]
        path.unlink()
    return left
