"""Submit runs to SLURM as job chains.

A run is a training job and an evaluation job that depends on it.  A suite is two job arrays, one per stage.

The names of the jobs are written to results/runs/jobs/submissions/UID.json before they are submitted.  The file is
removed once their ids are in each run's jobs.json.  If the submission is killed in between, the next one finds the
jobs by these names and cancels them.  Imports no torch.
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
"""submitit's limit on requeues after a timeout, set so high that it never applies."""
IGNORING_SIGNALS = """bash -c 'trap "" USR2 TERM; exec "$0" "$@"'"""
"""Command prefix that ignores SIGUSR2 and SIGTERM until Python has its handlers; they would kill the job before."""

JobFactory = Callable[..., Callable[[], Any]]
"""(path of the run folder, stage, signal_seconds) -> the callable that the job executes."""


class SlurmExecutor(submitit.SlurmExecutor):
    """submitit's executor, which can also write its sbatch script on a machine without SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 2


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Properties shared by all jobs of one submission."""

    results: Path
    profile: SlurmProfile
    code: Path
    """Folder of the code copy, for PYTHONPATH (bench/cluster/code_snapshot.py)."""
    job_factory: JobFactory
    label: str
    """Part of the jobs' names: the suite, or the run."""
    parallel: int | None = None
    """Maximum number of tasks of an array that run at a time."""

    @property
    def jobs(self) -> Path:
        return jobs_folder(self.results)


def jobs_folder(results: Path) -> Path:
    """Return the folder of code copies, logs and submitit's pickles."""
    return results.absolute() / "runs" / "jobs"


def make_slurm_executor(folder: Path, request: JobRequest, code: Path, name: str, **more: Any) -> SlurmExecutor:
    """Return a submitit executor for a request; `more` are further parameters.  Its jobs import the code copy."""
    python = f"{IGNORING_SIGNALS} {request.python or shlex.quote(sys.executable)}"
    executor = SlurmExecutor(folder=folder / "%j", max_num_timeout=MAX_TIMEOUTS, python=python)
    parameters = request.parameters()
    path = f"export PYTHONSAFEPATH=1 PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}"
    parameters["setup"] = [*parameters["setup"], path]
    additional = {**parameters.pop("additional_parameters"), **more.pop("additional_parameters", {})}
    more["additional_parameters"] = additional
    executor.update_parameters(**parameters, job_name=name, stderr_to_stdout=False, **more)
    return executor


def submission_scripts(
    results: Path, profile: SlurmProfile, count: int, parallel: int | None, label: str
) -> dict[str, str]:
    """Return {stage: sbatch script} of a submission of `count` runs, without writing any file."""
    scripts = {}
    for stage in ("train", "evaluate"):
        request = getattr(profile, stage)
        more = dependency_parameters("ID_OF_TRAINING", count) if stage == "evaluate" else {}
        folder = jobs_folder(results)
        executor = make_slurm_executor(folder, request, folder / "code" / "HASH", f"{stage}-{label}-UID", **more)
        if count > 1:
            executor.parameters |= {"map_count": count, "array_parallelism": parallel or count}
        scripts[stage] = executor._make_submission_file_text(executor._submitit_command_str, "UID")
    return scripts


def dependency_parameters(job: str, count: int) -> dict[str, Any]:
    """Return parameters of a job that starts if `job` succeeds (in arrays, task by task) and is cancelled otherwise."""
    dependency = "aftercorr" if count > 1 else "afterok"
    return {"dependency": f"{dependency}:{job}", "additional_parameters": {"kill-on-invalid-dep": "yes"}}


def submit_runs(submission: Submission, train: Sequence[RunFolder], evaluate: Sequence[RunFolder]) -> Iterator[str]:
    """Submit both jobs of the runs in `train` and the evaluation job of those in `evaluate`; yield a line for each run.

    ValueError with SLURM's reason if it refuses a request; the jobs of that submission are then cancelled.
    """
    size, previous = max(1, slurm.query_limits().array), ""
    for chunk in split_into_arrays(train, size):
        first = {"dependency": f"afterany:{previous}"} if previous and submission.parallel else {}
        with announced_submission(submission, chunk) as uid:
            jobs = {"train": submit_stage(submission, chunk, "train", uid, first)}
            previous = jobs["train"][0].job_id.partition("_")[0]
            dependency = dependency_parameters(previous, len(chunk))
            jobs["evaluate"] = submit_stage(submission, chunk, "evaluate", uid, dependency)
            write_jobs_files(chunk, jobs)
        yield from describe_jobs(chunk, jobs)
    for chunk in split_into_arrays(evaluate, size):
        with announced_submission(submission, chunk) as uid:
            jobs = {"evaluate": submit_stage(submission, chunk, "evaluate", uid, {})}
            write_jobs_files(chunk, jobs)
        yield from describe_jobs(chunk, jobs)


def split_into_arrays(runs: Sequence[RunFolder], size: int) -> Iterator[Sequence[RunFolder]]:
    """Split runs into job arrays of at most `size` tasks."""
    for start in range(0, len(runs), size):
        yield runs[start : start + size]


def submit_stage(
    submission: Submission, runs: Sequence[RunFolder], stage: str, uid: str, more: dict[str, Any]
) -> list[submitit.Job[Any]]:
    """Submit one stage of the runs as one job, or one array; ValueError with SLURM's reason if it refuses."""
    request: JobRequest = getattr(submission.profile, stage)
    name = f"{stage}-{submission.label}-{uid}"
    parallel = {"array_parallelism": submission.parallel or len(runs)}
    executor = make_slurm_executor(submission.jobs, request, submission.code, name, **parallel, **more)
    signal_seconds = float(request.signal_seconds)
    calls = [submission.job_factory(str(run.path.absolute()), stage, signal_seconds) for run in runs]
    try:
        with executor.batch():
            jobs: list[submitit.Job[Any]] = [executor.submit(call) for call in calls]
    except FailedJobError as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("sbatch: error: ")
        hint = "change the profile in slurm/, or use --set slurm.KEY=VALUE"
        raise ValueError(f"SLURM refused {name}: {reason}; {hint}") from error
    return jobs


def write_jobs_files(runs: Sequence[RunFolder], jobs: dict[str, list[submitit.Job[Any]]]) -> None:
    """Write each run's jobs.json: {"submitted": Unix time, "jobs": {stage: {"id", "log"}}}."""
    for i, run in enumerate(runs):
        stages = {stage: {"id": staged[i].job_id, "log": str(staged[i].paths.stdout)} for stage, staged in jobs.items()}
        write_json(run.path / "jobs.json", {"submitted": time.time(), "jobs": stages})


def describe_jobs(runs: Sequence[RunFolder], jobs: dict[str, list[submitit.Job[Any]]]) -> Iterator[str]:
    """Yield "RUN: train ID -> evaluate ID" for each run."""
    for i, run in enumerate(runs):
        yield f"{run.path.name}: " + " -> ".join(f"{stage} {staged[i].job_id}" for stage, staged in jobs.items())


@contextmanager
def announced_submission(submission: Submission, runs: Sequence[RunFolder]) -> Iterator[str]:
    """Write the names of a submission's jobs to a file, and yield its uid.  An error in the block cancels the jobs."""
    uid = uuid.uuid4().hex[:8]
    names = [f"{stage}-{submission.label}-{uid}" for stage in ("train", "evaluate")]
    path = submission.jobs / "submissions" / f"{uid}.json"
    write_json(path, {"names": names, "runs": [run.path.name for run in runs]})
    try:
        yield uid
    except BaseException:
        with suppress(slurm.SlurmUnavailable):  # the file then stays, and the next submission cancels the jobs
            slurm.cancel_jobs_by_name(names)
            path.unlink()
        raise
    path.unlink()


def cancel_orphans(results: Path) -> list[str]:
    """Cancel the jobs of submissions that were killed, and return the names of their runs.

    SlurmUnavailable if SLURM does not answer.
    """
    runs = []
    for path in sorted((jobs_folder(results) / "submissions").glob("*.json")):
        announcement = json.loads(path.read_text())
        slurm.cancel_jobs_by_name(announcement["names"])
        runs += announcement["runs"]
        path.unlink()
    return runs
