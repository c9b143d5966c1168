"""Status of runs, from their files and one SLURM query for all of them.  Imports no torch.

Only status.json, jobs.json and record.json of a run are read.  The log is read only if status.json is missing.
"""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bench.cluster import slurm
from bench.config.overrides import load_config
from bench.storage.atomic import atomic_write
from bench.storage.process_identity import is_running
from bench.storage.run_folder import RunFolder

RUN_STATES = (
    *("training", "sampling", "evaluating", "requeued", "waiting", "queued"),
    *("failed", "diverged", "lost", "cancelled", "stopped", "done"),
)
"""All states of a run.  The first six are ACTIVE_STATES: the run leaves them without a command of the user."""
ACTIVE_STATES = frozenset(RUN_STATES[:6])
FAILED_STATES = frozenset(["failed", "diverged", "lost"])
EVENT_STATES = {"resume": "training", "train": "training", "rollback": "training"} | {
    **{"trained": "sampling", "damaged": "sampling", "sample": "sampling", "evaluate": "evaluating"},
}
"""Event of the log -> state of the run after it."""
END_EVENTS = frozenset(["failed", "diverged", "stopped", "done"])
STALE_SECONDS = 60.0
"""Age of a status after which its rate and ETA are not shown."""
LOST_SECONDS = 3600.0
"""Age of a status after which a run on another host, without a SLURM job, counts as lost."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """The status of one run; the fields are the keys that `bench.status --json` prints."""

    run: str
    state: str = ""
    why: str = ""
    """Reason why the run waits or has ended."""
    stage_images: int | None = None
    """Images processed by the current stage; in evaluation, points of the FID curve."""
    stage_of: int | None = None
    """Images (or points) of the whole stage."""
    rate: float | None = None
    """Images per second."""
    eta_seconds: int | None = None
    """Time to the end of the current stage."""
    loss: float | None = None
    fid: dict[str, Any] | None = None
    """The latest FID: name, value, images."""
    restarts: int = 0
    """Starts of its jobs, without the first start of each."""
    rollbacks: int = 0
    node: str = ""
    pid: int | None = None
    """Process id, if the run is active on this host outside SLURM."""
    jobs: dict[str, str] = field(default_factory=dict)
    """{stage: SLURM job id}."""
    alive: list[str] = field(default_factory=list)
    """Ids of those jobs that are queued or running."""
    log: str = ""
    updated: float | None = None
    """Unix time of the last logged event."""
    error: list[str] = field(default_factory=list)
    """Last lines of the error that ended the run."""


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The content of one run's files."""

    run: RunFolder
    status: dict[str, Any]
    jobs: dict[str, dict[str, str]]
    """{stage: {"id", "log"}}; empty if the run was never submitted, or continued outside SLURM since."""
    record: dict[str, Any]
    """The record of a finished run, otherwise empty."""


def find_runs(results: Path, patterns: Sequence[str] = ()) -> list[RunFolder]:
    """List the runs of a results folder that match any pattern (a shell pattern, or part of a name).

    ValueError if there is no such folder, or a pattern matches no run.
    """
    if not results.is_dir():
        raise ValueError(f"there is no folder {results}; name a results folder with --results")
    folder = results / "runs"
    names = sorted(path.name for path in folder.iterdir() if is_run_folder(path)) if folder.is_dir() else []
    for pattern in patterns:
        if not any(matches_pattern(n, pattern) for n in names):
            raise ValueError(f"no run of {results} matches {pattern!r}; python -m bench.status shows them all")
    return [RunFolder(folder / n) for n in names if not patterns or any(matches_pattern(n, p) for p in patterns)]


def is_run_folder(path: Path) -> bool:
    """Whether a folder belongs to a run."""
    return (path / "config.json").is_file() or (path / "jobs.json").is_file()


def matches_pattern(name: str, pattern: str) -> bool:
    """Whether a name matches a shell pattern or, without wildcards, contains the text."""
    return fnmatchcase(name, pattern) if set(pattern) & set("*?[") else pattern in name


def read_run_files(run: RunFolder) -> RunFiles:
    """Read the files of a run; a missing or incomplete one counts as empty."""
    status = run.status()
    jobs = read_json_object(run.path / "jobs.json")
    left_slurm = status["job"] is None and (status["time"] or 0) > jobs.get("submitted", 0)
    record = read_json_object(run.record_path)
    finished = record if record.get("status") == "done" else {}
    return RunFiles(run=run, status=status, jobs={} if left_slurm else jobs.get("jobs", {}), record=finished)


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object; {} if the file is missing, incomplete or holds anything else."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def query_runs(runs: Iterable[RunFolder], *, record_failures: bool = True) -> tuple[list[RunStatus], str]:
    """Return (status of each run, a note if SLURM did not answer), with at most one sacct and one squeue call.

    With `record_failures`, write error.txt and a failed record of each run that SLURM killed before it could log.
    """
    files = [read_run_files(run) for run in runs]
    ids = [job["id"] for f in files if not f.record for job in f.jobs.values()]
    states: Mapping[str, slurm.JobState] | None = None
    note = ""
    try:
        states = slurm.query_job_states(ids)
    except slurm.SlurmUnavailable as error:
        note = str(error)
    statuses = []
    for f in files:
        status = derive_run_status(f, states)
        problem = mark_failed(f, status) if record_failures and status.state == "failed" else ""
        statuses.append(replace(status, error=[*error_lines(f, status), *filter(None, [problem])]))
    return statuses, note


def query_local_runs(runs: Iterable[RunFolder], since: float) -> list[RunStatus]:
    """Return the status of runs in this machine's queue, without a query to SLURM.

    A run without an event since `since` (Unix time) is queued, whatever an earlier attempt logged.
    """
    statuses = []
    for run in runs:
        files = replace(read_run_files(run), jobs={})
        status = derive_run_status(files, None)
        if not files.record and (status.updated or 0) < since:
            status = RunStatus(run=status.run, state="queued", log=status.log)
        statuses.append(replace(status, error=error_lines(files, status)))
    return statuses


def derive_run_status(files: RunFiles, states: Mapping[str, slurm.JobState] | None) -> RunStatus:
    """Derive the status of one run from its files and its jobs' states (None if SLURM did not answer)."""
    s = files.status
    jobs = {stage: states.get(job["id"], slurm.JobState()) for stage, job in files.jobs.items()} if states else {}
    state, why = derive_state(files, jobs)
    age = time.time() - s["time"] if state in ("training", "sampling", "evaluating") and s["time"] else 0.0
    why = f"silent for {age / 60:.0f} min" if age > STALE_SECONDS else why
    stage = current_stage(files, jobs)
    images, total = stage_progress(files, state)
    is_fresh = state in ("training", "sampling") and images is not None and age <= STALE_SECONDS
    rate = finite_or_none(s["rate"]) if is_fresh else None
    second_job_started = "train" in files.jobs and s["job"] == files.jobs.get("evaluate", {}).get("id", "")
    return RunStatus(
        run=files.run.path.name,
        state=state,
        why=why,
        stage_images=images,
        stage_of=total,
        rate=rate,
        eta_seconds=int((total - images) / rate) if rate and total and images is not None else None,
        loss=None if s["loss"] is None else float(s["loss"]),
        fid=latest_fid(files),
        restarts=max(sum(j.restarts for j in jobs.values()), s["starts"] - 1 - second_job_started, 0),
        rollbacks=s["rollbacks"],
        node=(jobs[stage].node if stage in jobs else "") or s["host"] or "",
        pid=s["pid"] if not files.jobs and state in ACTIVE_STATES and is_writer_running(s) else None,
        jobs={stage: job["id"] for stage, job in files.jobs.items()},
        alive=[files.jobs[stage]["id"] for stage, job in jobs.items() if job.alive],
        log=files.jobs[stage]["log"] if stage else str(files.run.path / "log.jsonl"),
        updated=s["time"],
    )


def finite_or_none(value: Any) -> float | None:
    """A finite number; None for None, NaN and infinity (status.json holds the latter two as strings)."""
    number = float("nan") if value is None else float(value)
    return number if math.isfinite(number) else None


def stage_progress(files: RunFiles, state: str) -> tuple[int | None, int | None]:
    """Return (images processed, images in total) of the current stage; (None, None) before its first event."""
    s = files.status
    if state == "done":
        budget = files.record.get("config", {}).get("budget", {}).get("images")
        return budget, budget
    belongs_to_state = s["event"] != "trained" and EVENT_STATES.get(s["event"] or "") == state
    if state in ("sampling", "evaluating") and not belongs_to_state:
        return None, None
    return s["images"], s["of"]


def latest_fid(files: RunFiles) -> dict[str, Any] | None:
    """Return the latest FID {name, value, images}, from the record if the run is finished."""
    for name, metric in files.record.get("metrics", {}).items():
        if name.startswith("fid"):
            images = files.record.get("config", {}).get("budget", {}).get("images")
            return {"name": name, "value": metric["value"], "images": images}
    fid = files.status["fid"]
    return {**fid, "value": finite_or_none(fid["value"])} if fid else None


def current_stage(files: RunFiles, jobs: Mapping[str, slurm.JobState]) -> str | None:
    """Return the stage of the running job, otherwise the first unfinished stage; None without jobs."""
    stages = [stage for stage in ("train", "evaluate") if stage in files.jobs]
    if files.record:
        return next(iter(stages[-1:]), None)
    working = [s for s in stages if s in jobs and jobs[s].alive and not jobs[s].queued]
    if not jobs:  # SLURM does not answer: use the job that logged last
        working = [s for s in stages if files.jobs[s]["id"] == files.status["job"]]
    any_alive = any(job.alive for job in jobs.values())  # a job unknown to SLURM then succeeded
    unfinished = [
        s
        for s in stages
        if s in jobs and not (jobs[s].finished or (any_alive and jobs[s].state == slurm.UNKNOWN_STATE))
    ]
    return next(iter(working or unfinished or stages[-1:]), None)


def derive_state(files: RunFiles, jobs: Mapping[str, slurm.JobState]) -> tuple[str, str]:
    """(state, why) of a run."""
    event = files.status["event"] or ""
    if files.record:
        return "done", ""
    if not jobs:
        return state_from_files(files, event)
    if any(job.alive for job in jobs.values()):
        return live_job_state(files, jobs, event)
    if event in ("diverged", "failed"):
        return event, str(files.status["error"] or "")
    stage = next((stage for stage, job in jobs.items() if not job.finished), None)
    if stage is None or (jobs[stage].finished and event == "stopped"):
        return ("stopped", "") if event == "stopped" else ("lost", "its jobs ended without a record")
    return ended_job_state(stage, jobs[stage])


def live_job_state(files: RunFiles, jobs: Mapping[str, slurm.JobState], event: str) -> tuple[str, str]:
    """(state, why) of a run that has a queued or running job."""
    stage = current_stage(files, jobs)
    assert stage is not None
    job = jobs[stage]
    if not job.alive:  # the other job can no longer begin; SLURM will cancel it
        return ended_job_state(stage, job)
    has_started = files.status["job"] == files.jobs[stage]["id"]
    if job.queued or job.state == "REQUEUED":
        if job.restarts or has_started:
            return "requeued", ", ".join(filter(None, [job.previous_end, job.reason]))
        if job.reason.startswith("Dependency"):
            return "waiting", "for its training"
        return "queued", job.reason
    first_state = {"train": "training", "evaluate": "sampling"}[stage]
    return (EVENT_STATES.get(event, first_state) if has_started else first_state), ""


def ended_job_state(stage: str, job: slurm.JobState) -> tuple[str, str]:
    """(state, why) of a run whose job for a stage ended without success."""
    if job.state == slurm.UNKNOWN_STATE:
        return "lost", f"SLURM no longer knows its {stage} job"
    if job.state == "CANCELLED":
        return "cancelled", "its training did not finish" if job.reason.startswith("Dependency") else job.reason
    if job.state in slurm.REQUEUABLE_STATES:
        return "stopped", f"{stage} job: {job.state}; run the command again"
    code = f", exit code {job.exit_code}" if job.exit_code not in ("", "0:0") else ""
    return "failed", f"{stage} job: {job.state}{code}{f' on {job.node}' if job.node else ''}"


def state_from_files(files: RunFiles, event: str) -> tuple[str, str]:
    """(state, why) of a run without SLURM jobs, or while SLURM does not answer."""
    if event in END_EVENTS:
        return event, str(files.status["error"] or "")
    if files.jobs:
        return ("requeued" if event == "requeued" else EVENT_STATES.get(event, "training" if event else "queued")), ""
    if not event:
        return "stopped", "never started"
    if event == "requeued":
        return "stopped", ""
    s = files.status
    age = time.time() - s["time"]
    if not is_writer_running(s) and (is_on_this_host(s) or age > LOST_SECONDS):
        return "lost", "its process is gone" if is_on_this_host(s) else f"{s['host']} is silent for {int(age / 60)} min"
    return EVENT_STATES.get(event, "training"), ""


def is_on_this_host(status: Mapping[str, Any]) -> bool:
    """Whether a status was written on this host."""
    return status["host"] in (None, socket.gethostname())


def is_writer_running(status: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a status runs on this host."""
    pid = status["pid"]
    return pid is not None and is_on_this_host(status) and is_running(pid, seen_at=status["time"])


def error_lines(files: RunFiles, status: RunStatus, count: int = 4) -> list[str]:
    """Return the last lines of error.txt, of the job's stderr, or SLURM's reason; add that no evaluation follows."""
    lines: list[str] = []
    if status.state not in FAILED_STATES | {"cancelled"}:
        return lines
    if status.state != "cancelled":
        lines = last_lines(files.run.path / "error.txt", 1 if status.state == "diverged" else count)
        if not lines and files.jobs:
            lines = last_lines(Path(status.log).with_suffix(".err"), count)
    lines = lines or ([status.why] if status.why else [])
    has_both = {"train", "evaluate"} <= set(files.jobs)
    if has_both and status.state in ("failed", "diverged") and status.log == files.jobs["train"]["log"]:
        lines.append("its evaluation is cancelled: its training failed")
    return lines


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last non-empty lines of a file, within its last 8 KiB; [] if the file cannot be read."""
    try:
        with path.open("rb") as f:
            f.seek(max(0, path.stat().st_size - 8192))
            text = f.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def mark_failed(files: RunFiles, status: RunStatus) -> str:
    """Write error.txt and a record of status "failed" for a run that SLURM killed before it could log an error.

    Returns the reason if they cannot be written, otherwise "".
    """
    error_path = files.run.path / "error.txt"
    if error_path.exists() or files.status["event"] in END_EVENTS:
        return ""
    if read_json_object(files.run.path / "jobs.json").get("jobs") != files.jobs:
        return ""  # the run was submitted again meanwhile
    from bench.records import failures  # imported late: bench.status rarely needs it

    stderr = "\n".join(last_lines(Path(status.log).with_suffix(".err"), 20))
    try:
        failures.publish_failure(files.run, load_config(files.run.path), "failed", f"SLURM ended it: {status.why}")
        with atomic_write(error_path) as partial:
            partial.write_text(f"{stderr}\nSLURM ended it: {status.why}\n".lstrip())
    except (OSError, ValueError) as problem:
        return f"no record of this was written: {problem}"
    return ""


def statuses_as_json(statuses: Iterable[RunStatus], note: str) -> dict[str, Any]:
    """Return the object that `bench.status --json` prints; a NaN or infinite loss becomes null."""
    runs = [{**asdict(status), "loss": finite_or_none(status.loss)} for status in statuses]
    return {"time": time.time(), "note": note, "runs": runs}
