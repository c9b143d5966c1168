"""SLURM profiles: the resources of a run's jobs, from slurm/NAME.toml and `--set slurm.KEY=VALUE`.

Top-level keys are for the training job.  The evaluation job requests the same on one node with one GPU; the table
[evaluate] overrides single keys.  Imports no torch.
"""

from __future__ import annotations

import math
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from architectures.suggestions import did_you_mean
from bench.cluster.slurm_time import parse_slurm_time
from bench.config.fields import iterate_settings
from bench.config.overrides import parse_json_or_text
from bench.config.validation import SETTINGS, validate
from bench.storage.paths import data_file

PROFILES_FOLDER = data_file("slurm")
RESERVED_OPTIONS = (
    *("array", "dependency", "error", "job-name", "kill-on-invalid-dep", "open-mode", "output", "requeue", "signal"),
)
"""Options of sbatch that bench sets itself (bench/cluster/job_chains.py)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRequest:
    """The resources that one job requests; fields are named as the options of sbatch where there is one."""

    __pydantic_config__ = SETTINGS

    partition: str = ""
    """Partitions, comma-separated; "" is the cluster's default, also for account, qos and constraint."""
    account: str = ""
    """Account that is charged."""
    qos: str = ""
    """Quality of service."""
    constraint: str = ""
    """Features a node must have, e.g. h100&ib."""
    nodes: int = 1
    """Nodes of a training job."""
    gpus_per_node: int = 1
    """GPUs on each node; 0 requests none."""
    tasks_per_node: int = 0
    """Processes on each node; 0 is one per GPU, or one without GPUs."""
    cpus_per_task: int = 8
    """CPU cores per process."""
    mem_gb: float = 64.0
    """Memory per node in GiB; 0 requests all of it."""
    time: str = "24:00:00"
    """Time limit of one job in sbatch's format (minutes, H:M:S, D-H:M:S); a requeued job continues the run."""
    signal_seconds: int = 120
    """Seconds before the limit at which SLURM signals the job, which then saves and is requeued."""
    setup: tuple[str, ...] = ()
    """Shell lines that run before the job: modules, conda, a virtual environment."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables of the job."""
    python: str = ""
    """Command that starts Python on a node, e.g. apptainer exec --nv bench.sif python; "" is this Python."""
    container: str = ""
    """Image for srun --container-image (pyxis, enroot)."""
    mounts: str = ""
    """Mounts for srun --container-mounts; they must include the results folder."""
    srun: tuple[str, ...] = ()
    """Further arguments of srun."""
    options: dict[str, str | int | bool] = field(default_factory=dict)
    """Further options of sbatch, e.g. slurm.options.mail-type=END, reservation, exclusive, gres."""

    def __post_init__(self) -> None:
        for name in ("nodes", "cpus_per_task", "signal_seconds"):
            if getattr(self, name) < 1:
                raise ValueError(f"slurm.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("gpus_per_node", "tasks_per_node", "mem_gb"):
            if getattr(self, name) < 0:
                raise ValueError(f"slurm.{name} is {getattr(self, name)}; it must be at least 0")
        if self.time_minutes * 60 <= self.signal_seconds:
            raise ValueError(f"slurm.time is {self.time}, which must be longer than slurm.signal_seconds")
        self._check_names()

    def _check_names(self) -> None:
        for name in self.options:
            if name.replace("_", "-") in RESERVED_OPTIONS:
                raise ValueError(f"slurm.options.{name} is set by bench and cannot be changed")
        words = (getattr(self, f.name) for f in fields(self))
        if any("\n" in str(v) for v in (*(w for w in words if isinstance(w, str)), *self.options.values())):
            raise ValueError("slurm.* holds a line break, which sbatch does not allow")
        for name in self.env:
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ValueError(f"slurm.env.{name} is not a valid name of an environment variable")

    @property
    def time_minutes(self) -> int:
        """The time limit in minutes, rounded up; ValueError if sbatch could not read it."""
        try:
            return math.ceil(parse_slurm_time(self.time) / 60)
        except ValueError:
            formats = "write it as sbatch does: minutes, H:M:S or D-H:M:S"
            raise ValueError(f"slurm.time is {self.time!r}; {formats}") from None

    @property
    def tasks(self) -> int:
        """Number of processes per node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of submitit's executor for this request."""
        srun = [f"--cpus-per-task={self.cpus_per_task}", "--kill-on-bad-exit=1", *self.srun]
        srun += [f"--container-image={self.container}"] if self.container else []
        srun += [f"--container-mounts={self.mounts}"] if self.mounts else []
        exports = [f"export {name}={shlex.quote(value)}" for name, value in self.env.items()]
        names = ("partition", "account", "qos", "constraint")
        return {
            **{name: getattr(self, name) for name in names if getattr(self, name)},
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks,
            "cpus_per_task": self.cpus_per_task,
            **({"gpus_per_node": self.gpus_per_node} if self.gpus_per_node else {}),
            "mem": f"{round(self.mem_gb * 1024)}M" if self.mem_gb else "0",
            "time": self.time_minutes,
            "signal_delay_s": self.signal_seconds,
            "setup": [*self.setup, *exports],
            "srun_args": srun,
            "additional_parameters": {"requeue": True, **self.options},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmProfile:
    """The requests of a run's training job and evaluation job."""

    train: JobRequest
    evaluate: JobRequest


def load_profile(name: str, settings: Mapping[str, str] | None = None) -> SlurmProfile:
    """Read slurm/NAME.toml and override keys with {"time": "4:00:00", "evaluate.time": ...}.

    ValueError for an unknown profile or key, or an invalid value.
    """
    table = read_profile_table(name)
    evaluate = table.pop("evaluate", {})
    if not isinstance(evaluate, dict):
        raise ValueError(f"slurm/{name}.toml: evaluate is {evaluate!r}; it must be a table, [evaluate]")
    for key, text in (settings or {}).items():
        name_in_table = key.removeprefix("evaluate.")
        apply_setting(evaluate if name_in_table != key else table, name_in_table, text)
    train = build_request(table, name)
    evaluate_defaults = {"nodes": 1, "gpus_per_node": min(1, train.gpus_per_node), "tasks_per_node": 0}
    return SlurmProfile(train=train, evaluate=build_request({**table, **evaluate_defaults, **evaluate}, name))


def read_profile_table(name: str) -> dict[str, Any]:
    """The content of slurm/NAME.toml; ValueError lists the existing profiles."""
    path = PROFILES_FOLDER / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in PROFILES_FOLDER.glob("*.toml"))
        raise ValueError(f"no profile {name!r} in slurm/; {did_you_mean(name, known)}")
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"slurm/{path.name} is not valid TOML: {error}") from error


def apply_setting(table: dict[str, Any], key: str, text: str) -> None:
    """Apply one `--set slurm.KEY=TEXT` to a table; a list is written as JSON; other text becomes its only entry."""
    first, dot, option = key.partition(".")
    if dot:
        table[first] = {**table.get(first, {}), option: parse_json_or_text(text) if first == "options" else text}
    elif first in ("env", "options"):
        raise ValueError(f"--set slurm.{key}: write slurm.{first}.NAME=VALUE, once for each name")
    elif first in ("setup", "srun"):
        value = parse_json_or_text(text)
        table[first] = value if isinstance(value, list) else [text]
    else:
        table[first] = text


def build_request(table: Mapping[str, Any], name: str) -> JobRequest:
    """Validate a table as a request; ValueError names the key and the allowed values."""
    try:
        return validate(JobRequest, {k: str(v) if k == "time" else v for k, v in table.items()}, prefix="slurm.")
    except ValueError as error:
        raise ValueError(f"{error} (profile {name})") from None


def slurm_help_lines() -> list[str]:
    """Return one line of `bench.run --help` for each setting, with type, meaning and default."""
    lines = ["\n  slurm (slurm/NAME.toml; slurm.evaluate.KEY is for the evaluation job only)"]
    for key, kind, default, doc in iterate_settings(JobRequest):
        shown = "" if default in ("", {}, (), []) else f" [{default}]"
        name = f"slurm.{key}.NAME=TEXT" if kind == "key=value" else f"slurm.{key}={kind.upper()}"
        lines.append(f"    {name:<34} {doc}{shown}")
    return lines
