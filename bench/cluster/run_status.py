"""How runs stand, from their files and one question to SLURM.  Imports no torch.

Of each run only status.json, jobs.json and record.json are read; of a run from before status.json the end of its log.
"""

from __future__ import annotations

import json
import math
import os
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
"""Every state a run may be in; those of runs that go on by themselves come first."""
ACTIVE_STATES = frozenset(RUN_STATES[:6])
FAILED_STATES = frozenset(["failed", "diverged", "lost"])
EVENT_STATES = {"resume": "training", "train": "training", "rollback": "training"} | {
    **{"trained": "sampling", "damaged": "sampling", "sample": "sampling", "evaluate": "evaluating"},
}
END_EVENTS = frozenset(["failed", "diverged", "stopped", "done"])
STALE_SECONDS = 60.0
"""After which a run's rate is no longer believed."""
LOST_SECONDS = 3600.0
"""After which a run of another machine without a SLURM job counts as lost."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One run; what --json prints."""

    run: str
    state: str = ""
    why: str = ""
    """What it waits for, or what ended it."""
    stage_images: int | None = None
    """Images of the present stage that are done, and of how many; evaluating: points of the curve."""
    stage_of: int | None = None
    rate: float | None = None
    """Images a second."""
    eta_seconds: int | None = None
    """To the end of the present stage."""
    loss: float | None = None
    fid: dict[str, Any] | None = None
    """The latest: name, value, images."""
    restarts: int = 0
    """Starts beyond the first of each of its jobs."""
    rollbacks: int = 0
    node: str = ""
    pid: int | None = None
    """Of a run that lives on this machine, outside SLURM."""
    jobs: dict[str, str] = field(default_factory=dict)
    """Ids of its SLURM jobs, by stage."""
    alive: list[str] = field(default_factory=list)
    """Those that SLURM still has."""
    log: str = ""
    updated: float | None = None
    """When the run last wrote, in Unix seconds."""
    error: list[str] = field(default_factory=list)
    """The last lines of what ended it."""


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What one run's files say."""

    run: RunFolder
    status: dict[str, Any]
    jobs: dict[str, dict[str, str]]
    """{stage: {"id", "log"}} while SLURM is, as far as the files say, where it runs."""
    record: dict[str, Any]
    """Of a run that is done, or else empty."""


def find_runs(results: Path, patterns: Sequence[str] = ()) -> list[RunFolder]:
    """The runs of a results folder whose names match: shell patterns, or any part of a name.

    ValueError when there is no such folder, or a pattern matches nothing.
    """
    if not results.is_dir():
        raise ValueError(f"{results} is no folder; name a results folder with --results")
    names = sorted(e.name for e in os.scandir(results / "runs") if e.is_dir()) if (results / "runs").is_dir() else []
    names = [n for n in names if is_run_folder(results / "runs" / n)]
    for pattern in patterns:
        if not any(matches_pattern(n, pattern) for n in names):
            raise ValueError(f"no run of {results} matches {pattern!r}; python -m bench.status shows them all")
    return [
        RunFolder(results / "runs" / n) for n in names if not patterns or any(matches_pattern(n, p) for p in patterns)
    ]


def is_run_folder(path: Path) -> bool:
    return (path / "config.json").is_file() or (path / "jobs.json").is_file()


def matches_pattern(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) if set(pattern) & set("*?[") else pattern in name


def read_run_files(run: RunFolder) -> RunFiles:
    """What the files of a run say; torn or missing ones say nothing."""
    status = run.status()
    jobs = read_json_object(run.path / "jobs.json")
    # a run that went on outside of SLURM is no longer to be asked about there
    moved = status.get("job") is None and (status.get("time") or 0) > jobs.get("submitted", 0)
    record = read_json_object(run.record_path)
    done = record if record.get("status") == "done" else {}
    return RunFiles(run=run, status=status, jobs={} if moved else jobs.get("jobs", {}), record=done)


def read_json_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def query_runs(runs: Iterable[RunFolder], *, reap: bool = True) -> tuple[list[RunStatus], str]:
    """(a row a run, a note when SLURM could not be asked); one sacct call, and one squeue call at most.

    With `reap`, a run whose job ended without a word is given its error.txt and its record.
    """
    files = [read_run_files(run) for run in runs]
    ids = [job["id"] for f in files if not f.record for job in f.jobs.values()]
    states: Mapping[str, slurm.JobState] | None = None
    note = ""
    try:
        states = slurm.query_job_states(ids)
    except slurm.SlurmUnavailable as error:
        note = str(error)
    rows = []
    for f in files:
        found = derive_run_status(f, states)
        unwritten = mark_failed(f, found) if reap and found.state == "failed" else ""
        rows.append(replace(found, error=[*error_lines(f, found), *filter(None, [unwritten])]))
    return rows, note


def derive_run_status(files: RunFiles, states: Mapping[str, slurm.JobState] | None) -> RunStatus:
    """One run's row; `states` is None when SLURM does not answer."""
    s = files.status
    told = {stage: states.get(job["id"], slurm.JobState()) for stage, job in files.jobs.items()} if states else {}
    state, why = derive_state(files, told)
    silent = time.time() - s["time"] if state in ("training", "sampling", "evaluating") and s.get("time") else 0.0
    why = f"silent for {silent / 60:.0f} min" if silent > STALE_SECONDS else why
    stage = current_stage(files, told)
    images, of = stage_progress(files, state)
    going = state in ("training", "sampling") and images is not None and silent <= STALE_SECONDS
    rate = finite_or_none(s.get("rate")) if going else None
    chained = "train" in files.jobs and s.get("job") == files.jobs.get("evaluate", {}).get("id", "")
    return RunStatus(
        run=files.run.path.name,
        state=state,
        why=why,
        stage_images=images,
        stage_of=of,
        rate=rate,
        eta_seconds=int((of - images) / rate) if rate and of and images is not None else None,
        loss=None if s.get("loss") is None else float(s["loss"]),
        fid=latest_fid(files),
        restarts=max(sum(j.restarts for j in told.values()), s.get("starts", 0) - 1 - chained, 0),
        rollbacks=s.get("rollbacks", 0),
        node=(told[stage].node if stage in told else "") or s.get("host") or "",
        pid=s.get("pid") if not files.jobs and state in ACTIVE_STATES and is_writer_running(s) else None,
        jobs={stage: job["id"] for stage, job in files.jobs.items()},
        alive=[files.jobs[stage]["id"] for stage, job in told.items() if job.alive],
        log=files.jobs[stage]["log"] if stage else str(files.run.path / "log.jsonl"),
        updated=s.get("time"),
    )


def finite_or_none(value: Any) -> float | None:
    """A number; None for none, and for what status.json holds as the words nan and inf."""
    number = float("nan") if value is None else float(value)
    return number if math.isfinite(number) else None


def stage_progress(files: RunFiles, state: str) -> tuple[int | None, int | None]:
    """(done, of how many) images of the stage that a run is in."""
    s = files.status
    if state == "done":
        budget = files.record.get("config", {}).get("budget", {}).get("images")
        return budget, budget
    if state in ("sampling", "evaluating") and (
        s.get("event") == "trained" or EVENT_STATES.get(s.get("event") or "") != state
    ):
        return None, None
    return s.get("images"), s.get("of")


def latest_fid(files: RunFiles) -> dict[str, Any] | None:
    """The latest FID: of a finished run its record's."""
    for name, metric in files.record.get("metrics", {}).items():
        if name.startswith("fid"):
            images = files.record.get("config", {}).get("budget", {}).get("images")
            return {"name": name, "value": metric["value"], "images": images}
    fid = files.status.get("fid")
    return {**fid, "value": finite_or_none(fid["value"])} if fid else None


def current_stage(files: RunFiles, told: Mapping[str, slurm.JobState]) -> str | None:
    """The stage whose job is at work, or else the first that is not finished; None without jobs."""
    stages = [stage for stage in ("train", "evaluate") if stage in files.jobs]
    if files.record:
        return next(iter(stages[-1:]), None)
    working = [s for s in stages if s in told and told[s].alive and not told[s].queued]
    if not told:  # the job that wrote last
        working = [s for s in stages if files.jobs[s]["id"] == files.status.get("job")]
    going = any(job.alive for job in told.values())  # then one that SLURM has forgotten went well
    open_ = [s for s in stages if s in told and not (told[s].finished or (going and told[s].word == slurm.UNKNOWN))]
    return next(iter(working or open_ or stages[-1:]), None)


def derive_state(files: RunFiles, told: Mapping[str, slurm.JobState]) -> tuple[str, str]:
    """(state, why) of a run."""
    event = files.status.get("event") or ""
    if files.record:
        return "done", ""
    if not told:
        return state_from_files(files, event)
    if any(job.alive for job in told.values()):
        return live_job_state(files, told, event)
    if event in ("diverged", "failed"):
        return event, str(files.status.get("error") or "")
    stage = next((stage for stage, job in told.items() if not job.finished), None)
    if stage is None or (told[stage].finished and event == "stopped"):
        return ("stopped", "") if event == "stopped" else ("lost", "its jobs ended without a record")
    return ended_job_state(stage, told[stage])


def live_job_state(files: RunFiles, told: Mapping[str, slurm.JobState], event: str) -> tuple[str, str]:
    """Of a run that SLURM still has."""
    stage = current_stage(files, told)
    assert stage is not None
    job = told[stage]
    if not job.alive:  # a job that can no longer begin waits for its cancellation
        return ended_job_state(stage, job)
    mine = files.status.get("job") == files.jobs[stage]["id"]
    if job.queued or job.word == "REQUEUED":
        if job.restarts or mine:
            return "requeued", ", ".join(filter(None, [job.interrupted, job.reason]))
        if job.reason.startswith("Dependency"):
            return "waiting", "for its training"
        return "queued", job.reason
    at_work = {"train": "training", "evaluate": "sampling"}[stage]
    return (EVENT_STATES.get(event, at_work) if mine else at_work), ""


def ended_job_state(stage: str, job: slurm.JobState) -> tuple[str, str]:
    """Of a run whose job of a stage is over and did not finish."""
    if job.word == slurm.UNKNOWN:
        return "lost", f"SLURM has no {stage} job of it any more"
    if job.word == "CANCELLED":
        return "cancelled", "its training did not finish" if job.reason.startswith("Dependency") else job.reason
    if job.word in slurm.REQUEUABLE_STATES:
        return "stopped", f"{stage} job: {job.word}; run the command again"
    code = f", exit code {job.exit_code}" if job.exit_code not in ("", "0:0") else ""
    return "failed", f"{stage} job: {job.word}{code}{f' on {job.node}' if job.node else ''}"


def state_from_files(files: RunFiles, event: str) -> tuple[str, str]:
    """Of a run that SLURM is not asked about, or does not answer for."""
    if event in END_EVENTS:
        return event, str(files.status.get("error") or "")
    if files.jobs:
        return ("requeued" if event == "requeued" else EVENT_STATES.get(event, "training" if event else "queued")), ""
    if not event:
        return "stopped", "never started"
    if event == "requeued":
        return "stopped", ""
    s = files.status
    silent = time.time() - s["time"]
    if not is_writer_running(s) and (is_on_this_host(s) or silent > LOST_SECONDS):
        return "lost", "its process is gone" if is_on_this_host(
            s
        ) else f"{s['host']} is silent for {int(silent / 60)} min"
    return EVENT_STATES.get(event, "training"), ""


def is_on_this_host(status: Mapping[str, Any]) -> bool:
    return status.get("host") in (None, socket.gethostname())


def is_writer_running(status: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a status runs on this host."""
    pid = status.get("pid")
    return pid is not None and is_on_this_host(status) and is_running(pid, seen_at=status["time"])


def error_lines(files: RunFiles, found: RunStatus, lines: int = 4) -> list[str]:
    """The end of error.txt, else of the job's standard error, else what SLURM says; and what that did to the rest."""
    words: list[str] = []
    if found.state not in FAILED_STATES | {"cancelled"}:
        return words
    if found.state != "cancelled":
        words = last_lines(files.run.path / "error.txt", 1 if found.state == "diverged" else lines)
        if not words and files.jobs:
            words = last_lines(Path(found.log).with_suffix(".err"), lines)
    words = words or ([found.why] if found.why else [])
    both = {"train", "evaluate"} <= set(files.jobs)
    if both and found.state in ("failed", "diverged") and found.log == files.jobs["train"]["log"]:
        words.append("its evaluation is cancelled: its training failed")
    return words


def last_lines(path: Path, lines: int) -> list[str]:
    """The last lines of a file that may be long or missing."""
    try:
        with path.open("rb") as f:
            f.seek(max(0, path.stat().st_size - 8192))
            text = f.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def mark_failed(files: RunFiles, found: RunStatus) -> str:
    """Give a run whose job ended without a word an error.txt and a record of status failed; why that cannot be."""
    error = files.run.path / "error.txt"
    if error.exists() or files.status.get("event") in END_EVENTS:
        return ""
    if read_json_object(files.run.path / "jobs.json").get("jobs") != files.jobs:
        return ""  # it was submitted again meanwhile
    from bench.records import failures  # which needs more than the other runs' rows do

    said = "\n".join(last_lines(Path(found.log).with_suffix(".err"), 20))
    try:
        failures.publish_failure(files.run, load_config(files.run.path), "failed", f"SLURM ended it: {found.why}")
        with atomic_write(error) as partial:
            partial.write_text(f"{said}\nSLURM ended it: {found.why}\n".lstrip())
    except (OSError, ValueError) as problem:
        return f"no record of this was written: {problem}"
    return ""


def statuses_as_json(rows: Iterable[RunStatus], note: str) -> dict[str, Any]:
    """What --json prints; a loss that is no number is null."""
    return {"time": time.time(), "note": note, "runs": [{**asdict(r), "loss": finite_or_none(r.loss)} for r in rows]}
