"""Match published rows with runs: the request that reproduces a row, and the records in its setting.  No torch."""

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


def request_of(run: PaperRun, value: PublishedValue) -> RunRequest:
    """Build the request that reproduces a published row: the paper's recipe with its steps, guidance and samples."""
    columns = value.columns
    data = run.data or presets.compose_config(RunRequest(arch=run.arch, size=run.size)).data.name
    settings = {f"evaluation.{k}": _text(v) for k, v in presets.published_sampling(run.arch, run.size).items()}
    latent = sources.open_source(data, "data").latent
    batch = recipes.native_recipe(run.arch, run.size, latent).recipe.batch
    settings["budget.images"] = str(int(columns["steps"]) * batch)
    if columns.get("cfg_w"):
        settings["evaluation.guidance"] = f"{float(columns['cfg_w']):g}"
    if columns.get("n_samples"):
        settings["evaluation.samples"] = columns["n_samples"]
    if columns["paper"].startswith(("LDM", "GenViT")):
        settings["evaluation.protocol"] = "torch-fidelity"
    settings |= run.settings
    return RunRequest(arch=run.arch, size=run.size, data=data, track="native", settings=settings)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def setting_key(config: Mapping[str, Any], *, trained: bool) -> str:
    """Return the key of network, data and sampling, and of recipe and budget if the network was trained here.

    `config` is the JSON form of RunConfig.to_dict(), or a record's config.  A run whose key equals that of a published
    row measures the row.
    """
    ignored = [*SEED, *MACHINE, *RESOLVED, *UNPUBLISHED]
    if not trained:
        ignored += TRAINING
    if config["evaluation"]["guidance"] == 1:
        ignored += INACTIVE_GUIDANCE
    return configuration_key(config, ignored)


class RecordIndex:
    """The finished models of a results folder, by configuration."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.by_variant: dict[str, list[Record]] = {}
        """Key of a suite's variant -> records of all seeds."""
        self.by_setting: dict[str, list[Record]] = {}
        """setting_key -> records with a paper's own recipe, or with its published weights."""
        for r in records:
            if r.kind != "model" or r.status != "done" or "model" not in r.config:
                continue
            self.by_variant.setdefault(configuration_key(r.config, SEED + RESOLVED), []).append(r)
            if r.config["track"] != "shared":
                key = setting_key(r.config, trained=r.config["track"] == "native")
                self.by_setting.setdefault(key, []).append(r)


def find_records(run: PaperRun, value: PublishedValue, index: RecordIndex) -> tuple[list[Record], bool]:
    """Return the records in a published row's setting, and whether the network was trained here.

    Records of published weights come first, because they are the network that the paper measured.
    """
    if not run.identifiable or not index.by_setting:
        return [], False
    config = json.loads(json.dumps(presets.compose_config(request_of(run, value)).to_dict()))
    for trained in (False, True) if run.weights else (True,):
        if records := index.by_setting.get(setting_key(config, trained=trained)):
            return records, trained
    return [], False


def run_command(run: PaperRun, value: PublishedValue) -> str:
    """Return the command that measures a row: with its published weights if there are any, otherwise by training."""
    request = request_of(run, value)
    base = presets.compose_config(replace(request, settings={}))
    if run.weights:
        sampling = {f"evaluation.{k}": _text(v) for k, v in presets.published_sampling(run.arch, run.size).items()}
        base, flags = apply_overrides(base, sampling), ["--checkpoint", run.weights, "--data", request.data]
    else:
        flags = ["--arch", request.arch, "--size", request.size, *(["--data", request.data] if run.data else [])]
    sets = [f"--set {quote(f'{key}={text}')}" for key, text in sorted(_explicit_settings(base, run, request).items())]
    return " ".join(["python -m bench.run", *map(quote, flags), "--track native", *sets])


def _explicit_settings(base: RunConfig, run: PaperRun, request: RunRequest) -> dict[str, str]:
    """Return the settings that the command must name: those that differ from `base` and affect the run.

    The budget does not affect published weights.  The guided channels have no effect without guidance.
    """
    irrelevant = {"budget.images"} if run.weights else set()
    if request.settings.get("evaluation.guidance") == "1":
        irrelevant.add("evaluation.guidance_channels")
    settings = {key: text for key, text in request.settings.items() if key not in irrelevant}
    before, after = base.to_dict(), apply_overrides(base, settings).to_dict()
    parts = {key: key.split(".") for key in settings}
    return {key: settings[key] for key, (part, name) in parts.items() if before[part][name] != after[part][name]}
