"""A published row as a run here: what bench.run is asked for, and which records are of that setting; no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from shlex import quote
from typing import Any

from . import data, presets, recipes
from .config import RunConfig, override
from .literature import Value
from .paper import Run
from .presets import Wish
from .record import Record

Columns = Mapping[str, str]


def wish_of(run: Run, value: Value) -> Wish:
    """The run of a published row by the paper's own recipe: its steps, guidance, sampler and samples."""
    columns = value.columns
    what = run.data or presets.resolve(Wish(arch=run.arch, size=run.size)).data.name
    settings = {f"evaluation.{k}": _text(v) for k, v in presets.published_sampling(run.arch, run.size).items()}
    latent = data.source(what, "data").latent
    batch = recipes.native(run.arch, run.size, latent).recipe.batch
    settings["budget.images"] = str(int(columns["steps"]) * batch)
    if columns.get("cfg_w"):
        settings["evaluation.guidance"] = f"{float(columns['cfg_w']):g}"
    if columns.get("n_samples"):
        settings["evaluation.samples"] = columns["n_samples"]
    if columns["paper"].startswith(("LDM", "GenViT")):
        settings["evaluation.protocol"] = "torch-fidelity"
    settings |= run.settings
    return Wish(arch=run.arch, size=run.size, data=what, track="native", settings=settings)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def signature(config: Mapping[str, Any], *, trained: bool) -> str:
    """What two configs share that are of one setting: network, data and sampling, and recipe and budget if trained.

    Seeds, evaluation points and hashes are left out; so is what guidance would do where there is none.
    """
    away = {"decoder", "decoder_hash", "seed", "weights", "batch"}
    if config["evaluation"]["guidance"] == 1:
        away |= {"guidance_channels", "guidance_interval"}
    model = config["model"]
    shared = {
        "model": [model["arch"], model["size"], model["args"], model["match"]],
        "data": config["data"]["name"],
        "evaluation": {k: v for k, v in config["evaluation"].items() if k not in away},
    }
    if trained:
        shared |= {"diffusion": config["diffusion"], "recipe": config["recipe"], "images": config["budget"]["images"]}
    return json.dumps(shared, sort_keys=True)


@cache
def _signatures(key: str, wish_settings: tuple[tuple[str, str], ...], arch: str, size: str, name: str) -> str:
    wish = Wish(arch=arch, size=size, data=name, track="native", settings=dict(wish_settings))
    config = presets.resolve(wish)
    return signature(json.loads(json.dumps(config.to_dict())), trained=key == "trained")


def of_setting(run: Run, value: Value, records: list[Record]) -> tuple[list[Record], bool]:
    """(the records in a published row's setting, whether they were trained here).

    Published weights come first: they are the very network that was measured.
    """
    if not run.told:
        return [], False
    wish = wish_of(run, value)
    named = (tuple(sorted(wish.settings.items())), wish.arch, wish.size, wish.data)
    kinds = {"published": ("weights", bool(run.weights)), "native": ("trained", True)}
    for track, (key, possible) in kinds.items():
        there = [r for r in records if r.config["track"] == track] if possible else []
        if not there:
            continue
        wanted = _signatures(key, *named)
        found = [r for r in there if signature(r.config, trained=key == "trained") == wanted]
        if found:
            return found, track == "native"
    return [], False


def command(run: Run, value: Value) -> str:
    """What measures a row: its published weights where there are some, or else a training."""
    wish = wish_of(run, value)
    base = presets.resolve(replace(wish, settings={}))
    if run.weights:
        sampling = {f"evaluation.{k}": _text(v) for k, v in presets.published_sampling(run.arch, run.size).items()}
        base, words = override(base, sampling), ["--checkpoint", run.weights]
    else:
        words = ["--arch", wish.arch, "--size", wish.size]
    if wish.data != presets.resolve(Wish(arch=run.arch, size=run.size)).data.name and not run.weights:
        words += ["--data", wish.data]
    sets = [f"--set {quote(f'{key}={text}')}" for key, text in sorted(_said(base, run, wish).items())]
    return " ".join(["python -m bench.run", *map(quote, words), "--track native", *sets])


def _said(base: RunConfig, run: Run, wish: Wish) -> dict[str, str]:
    """Settings that have to be said: not what is implied, nor the steps of weights, nor how no guidance is given."""
    away = {"budget.images"} if run.weights else set()
    if wish.settings.get("evaluation.guidance") == "1":
        away.add("evaluation.guidance_channels")
    settings = {key: text for key, text in wish.settings.items() if key not in away}
    before, after = base.to_dict(), override(base, settings).to_dict()
    parts = {key: key.split(".") for key in settings}
    return {key: settings[key] for key, (part, name) in parts.items() if before[part][name] != after[part][name]}
