"""Run folders as bench.run and SLURM write them, for tests of bench.status and bench.cancel."""

import json
import os
import socket
import time
from pathlib import Path


def make(results, name, *, status=None, jobs=None, record=None, error=None, log=None, submitted=None):
    """One run's files; `jobs` is {stage: id}, `log` the standard error of its jobs."""
    path = Path(results) / "runs" / name
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    if status is not None:
        values = {
            "time": time.time(),
            "images": None,
            "of": None,
            "rate": None,
            "loss": None,
            "fid": None,
            "error": None,
        }
        values |= {"starts": 1, "rollbacks": 0, "host": socket.gethostname(), "job": None, "pid": os.getpid()}
        (path / "status.json").write_text(json.dumps(values | status))
    if jobs:
        folder = path.parent / "jobs"
        folder.mkdir(exist_ok=True)
        files = {stage: {"id": id_, "log": str(folder / f"{id_}_0_log.out")} for stage, id_ in jobs.items()}
        for job in files.values():
            if log:
                Path(job["log"]).with_suffix(".err").write_text(log)
        when = submitted or time.time() - 60
        (path / "jobs.json").write_text(json.dumps({"submitted": when, "jobs": files}))
    if error:
        (path / "error.txt").write_text(error)
    if record:
        (path / "record.json").write_text(json.dumps(record))
    return path


DONE = {
    "status": "done",
    "config": {"budget": {"images": 111000}},
    "metrics": {"fid[digits-cnn]": {"value": 0.8731}, "is": {"value": 9.0}},
}
TRAINING = {"event": "train", "images": 43000, "of": 111000, "rate": 850.0, "loss": 0.1234}
AT_7 = TRAINING | {"job": "7"}
"""The status that job 7 has written."""
CHAIN = {"train": "7", "evaluate": "8"}
BEFORE = "2026-11-23T03:00:00"
WAITS = "8|PENDING||0:00|Dependency"
"""squeue's line for the evaluation job while job 7 trains."""


def sacct(**jobs):
    """sacct's lines for j7="RUNNING" and the like."""
    return "\n".join(f"{id_[1:]}|{BEFORE}|{state}|1:0|60|node1|None" for id_, state in jobs.items())


def thousand(results):
    """Make 1,000 runs of a suite (finished, running, failed, queued) in two arrays; returns sacct's output."""
    sacct = []
    for i in range(1000):
        name, ids = f"dit-xl-2-{i:012x}", {"train": f"7_{i}", "evaluate": f"8_{i}"}
        if i < 400:
            status = {"event": "done", "job": f"8_{i}", "starts": 2}
            make(results, name, jobs=ids, status=status, record=DONE)
        elif i < 500:
            make(results, name, jobs=ids, status=TRAINING | {"job": f"7_{i}"})
            sacct += [f"7_{i}|2026-11-23T03:00:00|RUNNING|0:0|60|node1|None"]
        elif i < 550:
            status = TRAINING | {"event": "failed", "error": "OSError: x", "job": f"7_{i}"}
            make(results, name, jobs=ids, status=status, error="Traceback\nOSError: x\n")
            sacct += [f"7_{i}|2026-11-23T03:00:00|FAILED|1:0|60|node1|None"]
        else:
            make(results, name, jobs=ids)
    sacct += ["7_[550-999%100]|2026-11-23T03:00:00|PENDING|0:0|0|None assigned|Priority"]
    sacct += ["8_[400-999]|2026-11-23T03:00:00|PENDING|0:0|0|None assigned|Dependency"]
    return "\n".join(sacct)
