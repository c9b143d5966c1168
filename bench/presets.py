"""What names imply: recipes by track, settings by data set, and suites.

`resolve` turns a few words into a whole RunConfig.  Imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from architectures import registry
from architectures.interface import IOSpec

from .config import Budget, Data, Diffusion, Evaluation, Model, Recipe, RunConfig, override
from .data import Source, source


@dataclass(frozen=True, kw_only=True)
class Way:
    """A recipe and the process it trains."""

    recipe: Recipe
    diffusion: Diffusion


SHARED = Way(
    recipe=Recipe(name="shared", lr=1e-4, batch=256, warmup=5000, clip=1.0, ema=0.9999, label_drop=0.1),
    diffusion=Diffusion(),
)
"""One recipe for all: DiT's rate, batch, average and label drop, U-ViT's warm-up, clipped gradients."""

SHARED_TOY = Way(
    recipe=Recipe(name="shared-toy", lr=3e-3, beta2=0.99, batch=64, warmup=200, clip=1.0, ema=0.998, ema_ramp=True),
    diffusion=Diffusion(schedule="cosine"),
)
"""The shared recipe at laptop size: a higher rate, shorter averages, iDDPM's schedule for small images."""

NATIVE: Mapping[str, Way] = {
    # arXiv:2212.09748 Section 4 and the official train.py (label drop 0.1 is in the code only)
    "dit": Way(recipe=Recipe(name="dit", lr=1e-4, batch=256), diffusion=Diffusion(variance="learned_range")),
    # U-ViT-H/2's published configuration: weight decay 0.03 as in the configurations and the appendix
    # (the main text prints 0.3), p_uncond 0.1, the discrete Stable Diffusion schedule
    "uvit": Way(
        recipe=Recipe(name="uvit", lr=2e-4, batch=1024, weight_decay=0.03, beta1=0.99, beta2=0.99, warmup=5000),
        diffusion=Diffusion(schedule="sqrt_linear"),
    ),
    # arXiv:2105.05233 Table 11 at 256 pixels; classes are never dropped, so there is no guidance
    "unet": Way(
        recipe=Recipe(name="adm", lr=1e-4, batch=256, label_drop=0.0), diffusion=Diffusion(variance="learned_range")
    ),
}

TOY_EVALUATION = Evaluation(
    extractor="digits-cnn",
    protocol="torch-fidelity",
    samples=1000,
    sampler="ddim",
    steps=16,
    clip=True,
    guidance=1.5,
    batch=250,
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a data set implies for everything else."""

    budget: Budget = dataclasses.field(default_factory=Budget)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    shared: Way = SHARED


def setting(name: str, what: Source) -> Setting:
    """The setting of a data set: laptop scale for digits, the papers' scale for all others."""
    if name == "digits":
        return Setting(budget=Budget(images=111_000, points=3), evaluation=TOY_EVALUATION, shared=SHARED_TOY)
    return Setting(evaluation=Evaluation(clip=not what.latent))


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What was asked for on the command line; "" and None mean "as implied"."""

    arch: str = "dit"
    size: str = ""
    data: str = ""
    track: str = "shared"
    match: str = ""
    seed: int = 0
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)


def resolve(wish: Wish) -> RunConfig:
    """The whole configuration that a wish implies; ValueError for anything unknown.

    A paper size implies its paper's data; no size implies the laptop size on digits, or, with a
    match, a size that bench.match solves.
    """
    found = registry.entry(wish.arch)
    if wish.size:
        registry.size_args(wish.arch, wish.size)
    matching = wish.match or wish.settings.get("model.match", "")
    data = wish.data or wish.settings.get("data.name", "")
    paper = wish.size in found.settings or (wish.size and wish.arch in registry.ARCHITECTURES)
    data = data or (found.setting(wish.size) if paper else "digits")
    size = wish.size or ("" if matching else found.toy)
    if not size and not matching and found.sizes:
        raise ValueError(f"{wish.arch} needs a size: {', '.join(found.sizes)}")
    what = source(data, wish.settings.get("data.root", "data"))
    implied = setting(data, what)
    way = way_of(wish.track, wish.arch, implied)
    config = RunConfig(
        track="native" if wish.track == "native" else "shared",
        seed=wish.seed,
        model=Model(arch=wish.arch, size=size, match=wish.match),
        data=Data(name=data),
        diffusion=way.diffusion,
        recipe=way.recipe,
        budget=implied.budget,
        evaluation=implied.evaluation,
    )
    return override(config, wish.settings)


def way_of(track: str, arch: str, implied: Setting) -> Way:
    """Recipe and process of a track; ValueError where an architecture has no published recipe."""
    if track == "shared":
        return implied.shared
    if track != "native":
        raise ValueError(f"track is {track!r}; choose shared or native")
    if arch not in NATIVE:
        raise ValueError(f"{arch} has no published recipe; use --track shared")
    return NATIVE[arch]


def native_preset(arch: str) -> dict[str, Any]:
    """The native preset as {recipe field or diffusion.field: value}; {} where there is none."""
    if arch not in NATIVE:
        return {}
    way = NATIVE[arch]
    flat = dataclasses.asdict(way.recipe)
    return {**flat, **{f"diffusion.{k}": v for k, v in dataclasses.asdict(way.diffusion).items()}}


def io_of(config: RunConfig) -> IOSpec:
    """What the network of a run is built for."""
    what = source(config.data.name, config.data.root)
    return IOSpec(
        channels=what.channels, size=what.size, num_classes=what.num_classes, variance=config.diffusion.variance
    )


def quickstart(wish: Wish) -> list[Wish]:
    """DiT, U-ViT and the ADM U-Net on digits, at the U-Net's cost, by the shared recipe."""
    same = replace(wish, data="digits", size="", match=wish.match or "macs:unet:nano")
    return [replace(same, arch=arch) for arch in ("dit", "uvit", "unet")]


SUITES = {"quickstart": quickstart}
"""Name -> function from the rest of the command line to the runs of the grid."""
