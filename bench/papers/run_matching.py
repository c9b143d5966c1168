"""A published row as a run here: what bench.run is asked for, and which records are of that setting; no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from shlex import quote
from typing import Any

from bench.config.identity import (
    INACTIVE_GUIDANCE,
    MACHINE,
    RESOLVED,
    SEED,
    TRAINING,
    UNPUBLISHED,
    configuration_key,
)
from bench.config.overrides import apply_overrides
from bench.config.schema import RunConfig
from bench.data import sources
from bench.experiments import presets, recipes
from bench.experiments.presets import RunRequest
from bench.papers.published_results import PublishedValue
from bench.papers.schema import PaperRun
from bench.records.record import Record

Columns = Mapping[str, str]


def request_of(run: PaperRun, value: PublishedValue) -> RunRequest:
    """The run of a published row by the paper's own recipe: its steps, guidance, sampler and samples."""
    columns = value.columns
    what = run.data or presets.compose_config(RunRequest(arch=run.arch, size=run.size)).data.name
    settings = {f"evaluation.{k}": _text(v) for k, v in presets.published_sampling(run.arch, run.size).items()}
    latent = sources.open_source(what, "data").latent
    batch = recipes.native_recipe(run.arch, run.size, latent).recipe.batch
    settings["budget.images"] = str(int(columns["steps"]) * batch)
    if columns.get("cfg_w"):
        settings["evaluation.guidance"] = f"{float(columns['cfg_w']):g}"
    if columns.get("n_samples"):
        settings["evaluation.samples"] = columns["n_samples"]
    if columns["paper"].startswith(("LDM", "GenViT")):
        settings["evaluation.protocol"] = "torch-fidelity"
    settings |= run.settings
    return RunRequest(arch=run.arch, size=run.size, data=what, track="native", settings=settings)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def setting_key(config: Mapping[str, Any], *, trained: bool) -> str:
    """Key of network, data and sampling, and of recipe and budget if the network was trained here.

    `config` is RunConfig.to_dict() as JSON has it, or a record's.  Equal keys mean that a run measures a published row.
    """
    ignored = [*SEED, *MACHINE, *RESOLVED, *UNPUBLISHED]
    if not trained:
        ignored += TRAINING
    if config["evaluation"]["guidance"] == 1:
        ignored += INACTIVE_GUIDANCE
    return configuration_key(config, ignored)


class RecordIndex:
    """The finished models of a results folder, looked up by what they are runs of."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.by_key: dict[str, list[Record]] = {}
        """Of a suite's cell."""
        self.by_setting: dict[str, list[Record]] = {}
        """Of a paper's own recipe, or of its published weights."""
        for r in records:
            if r.kind != "model" or r.status != "done" or "model" not in r.config:
                continue
            self.by_key.setdefault(configuration_key(r.config, SEED + RESOLVED), []).append(r)
            if r.config["track"] != "shared":
                own = setting_key(r.config, trained=r.config["track"] == "native")
                self.by_setting.setdefault(own, []).append(r)


def find_records(run: PaperRun, value: PublishedValue, ledger: RecordIndex) -> tuple[list[Record], bool]:
    """(the records in a published row's setting, whether they were trained here).

    Published weights come first: they are the very network that was measured.
    """
    if not run.identifiable or not ledger.by_setting:
        return [], False
    config = json.loads(json.dumps(presets.compose_config(request_of(run, value)).to_dict()))
    for trained in (False, True) if run.weights else (True,):
        if found := ledger.by_setting.get(setting_key(config, trained=trained)):
            return found, trained
    return [], False


def run_command(run: PaperRun, value: PublishedValue) -> str:
    """What measures a row: its published weights where there are some, or else a training."""
    wish = request_of(run, value)
    base = presets.compose_config(replace(wish, settings={}))
    if run.weights:
        sampling = {f"evaluation.{k}": _text(v) for k, v in presets.published_sampling(run.arch, run.size).items()}
        base, words = apply_overrides(base, sampling), ["--checkpoint", run.weights, "--data", wish.data]
    else:
        words = ["--arch", wish.arch, "--size", wish.size, *(["--data", wish.data] if run.data else [])]
    sets = [f"--set {quote(f'{key}={text}')}" for key, text in sorted(_explicit_settings(base, run, wish).items())]
    return " ".join(["python -m bench.run", *map(quote, words), "--track native", *sets])


def _explicit_settings(base: RunConfig, run: PaperRun, wish: RunRequest) -> dict[str, str]:
    """Settings that have to be said: not what is implied, nor the steps of weights, nor how no guidance is given."""
    away = {"budget.images"} if run.weights else set()
    if wish.settings.get("evaluation.guidance") == "1":
        away.add("evaluation.guidance_channels")
    settings = {key: text for key, text in wish.settings.items() if key not in away}
    before, after = base.to_dict(), apply_overrides(base, settings).to_dict()
    parts = {key: key.split(".") for key in settings}
    return {key: settings[key] for key, (part, name) in parts.items() if before[part][name] != after[part][name]}
