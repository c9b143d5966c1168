"""Training recipes: one shared by all architectures, and each paper's own with its source.

`python -m bench.run --list` prints them.  results/published/training.csv holds the published values;
tests compare the recipes with it.  Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tabulate import tabulate

from bench.config.schema import DiffusionConfig, RecipeConfig


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """A recipe and the process it trains."""

    recipe: RecipeConfig
    diffusion: DiffusionConfig


@dataclass(frozen=True, kw_only=True)
class NativeRecipe:
    """A published recipe."""

    recipe: RecipeConfig
    iterations: int
    """Optimiser steps of the published run; times the batch, its budget in images."""
    source: str
    choice: str = ""
    """The value chosen, and why, where sources conflict or omit it."""


SHARED = TrainingSetup(
    recipe=RecipeConfig(name="shared", lr=1e-4, batch=256, warmup=5000, clip=1.0, ema=0.9999, label_drop=0.1),
    diffusion=DiffusionConfig(),
)
"""One recipe for all: learning rate, batch, EMA and label drop of DiT, warm-up of U-ViT, clipped gradients."""

SHARED_TOY = TrainingSetup(
    recipe=RecipeConfig(
        name="shared-toy", lr=3e-3, beta2=0.99, batch=64, warmup=200, clip=1.0, ema=0.998, ema_ramp=True
    ),
    diffusion=DiffusionConfig(schedule="cosine"),
)
"""The shared recipe at laptop size: a higher learning rate, a shorter EMA, iDDPM's schedule for small images."""

SHARED_SHAPES = replace(SHARED_TOY, recipe=replace(SHARED_TOY.recipe, name="shared-shapes", lr=2e-3, batch=32))
"""SHARED_TOY with more and smaller steps, with which DiT's loss fell faster."""

_DIT = NativeRecipe(
    recipe=RecipeConfig(name="dit", lr=1e-4, batch=256, label_drop=0.1),
    iterations=400_000,
    source="arXiv:2212.09748 Section 4 and the official train.py",
    choice="label drop 0.1 is in the code only; the published steps are the sweep's",
)
_UVIT = RecipeConfig(
    name="uvit", lr=2e-4, batch=1024, weight_decay=0.03, beta1=0.99, beta2=0.99, warmup=5000, label_drop=0.15
)
_DECAY = "weight decay 0.03 as in the code and Table 5, where the main text prints 0.3"
_ADM = RecipeConfig(name="adm", lr=1e-4, batch=256, label_drop=0.0)
_ADAM = "Adam or AdamW, without decay they are one; classes are never dropped, so there is no guidance"
_LDM = RecipeConfig(name="ldm", lr=1e-4, batch=1200, weight_decay=0.01, ema_ramp=True, label_drop=0.1)
_SILENT = "decay 0.01 is AdamW's default, which the code leaves, and the average ramps up as in the code"
_IDDPM = "Adam without decay, as in the official README"


def _uvit(name: str, iterations: int, source: str, choice: str = "", **changes: float) -> NativeRecipe:
    recipe = replace(_UVIT, name=name, **changes)  # type: ignore[arg-type]
    words = f"{_DECAY}; {choice}" if choice else _DECAY
    return NativeRecipe(recipe=recipe, iterations=iterations, source=source, choice=words)


def _adm(size: str, iterations: int, choice: str = _ADAM, **changes: float) -> NativeRecipe:
    recipe = replace(_ADM, name=f"adm-{size}", **changes)  # type: ignore[arg-type]
    return NativeRecipe(recipe=recipe, iterations=iterations, source="arXiv:2105.05233 Table 11", choice=choice)


def _old(name: str, iterations: int, source: str, choice: str, **changes: float) -> NativeRecipe:
    recipe = replace(_ADM, name=name, **changes)  # type: ignore[arg-type]
    return NativeRecipe(recipe=recipe, iterations=iterations, source=source, choice=choice)


_CONFIGS = "the official configs, arXiv:2209.12152 Table 5"

NATIVE_RECIPES: Mapping[str, Mapping[str, NativeRecipe]] = {
    "dit": {"": _DIT, "XL/2": replace(_DIT, iterations=7_000_000, choice="label drop 0.1 is in the code only")},
    "uvit": {
        "": _uvit("uvit-huge", 500_000, _CONFIGS, label_drop=0.1),
        "L/2": _uvit(
            "uvit-large", 300_000, _CONFIGS, "label drop 0.15 as in the code, where the paper is quoted with 0.1"
        ),
        "L/4": _uvit("uvit-large-512", 500_000, _CONFIGS),
        "L/4 pixels": _uvit("uvit-imagenet64", 300_000, _CONFIGS, lr=3e-4, label_drop=0.0),
        "M/4": _uvit("uvit-imagenet64", 300_000, _CONFIGS, lr=3e-4, label_drop=0.0),
        "S/2": _uvit("uvit-cifar10", 500_000, _CONFIGS, batch=128, warmup=2500, beta2=0.999, label_drop=0.0),
        "S/4": _uvit("uvit-celeba64", 500_000, _CONFIGS, batch=128, label_drop=0.0),
    },
    "unet": {
        "": _adm("256", 1_980_000),
        "ADM-64": _adm("64", 540_000, lr=3e-4, batch=2048),
        "ADM-128": _adm("128", 4_360_000),
        "ADM-512": _adm("512", 1_940_000),
        "DDPM-32": _old(
            "ddpm-32",
            800_000,
            "the official run_cifar.py, arXiv:2006.11239 Appendix B",
            "Adam without decay, as in the official code; the average is Appendix B's, from memory",
            lr=2e-4,
            batch=128,
            warmup=5000,
            clip=1.0,
        ),
        "iDDPM-32": _old("iddpm-32", 500_000, "arXiv:2102.09672", _IDDPM, batch=128),
        "iDDPM-64": _old("iddpm-64", 1_500_000, "arXiv:2102.09672", _IDDPM, batch=128),
        "iDDPM-64-L": _old("iddpm-64-l", 250_000, "arXiv:2102.09672", _IDDPM, lr=3e-4, batch=2048),
        "LDM-4": NativeRecipe(
            recipe=replace(_LDM, name="ldm-4"),
            iterations=178_000,
            source="arXiv:2112.10752 Tables 15 and 18",
            choice=f"label drop is not printed: 0.1, DiT's; {_SILENT}",
        ),
        "LDM-8": NativeRecipe(
            recipe=replace(_LDM, name="ldm-8", lr=6.4e-5, batch=64, label_drop=0.0),
            iterations=4_800_000,
            source="arXiv:2112.10752 Tables 10 and 13",
            choice=f"classes are never dropped: it was guided by a classifier; {_SILENT}",
        ),
    },
}
"""Architecture -> size -> recipe; "" is for sizes not named, "SIZE pixels" where pixels and latents differ.

U-Nets without a size of their own take ADM's at 256 pixels, transformers those of DiT's sweep and of U-ViT-H/2.
"""


def native_recipe(arch: str, size: str, latent: bool) -> NativeRecipe:
    """Return the published recipe of a size; ValueError where there is none."""
    if arch not in NATIVE_RECIPES:
        raise ValueError(f"no published recipe of {arch} is known here; use --track shared")
    recipes = NATIVE_RECIPES[arch]
    recipe = recipes.get(size, recipes[""])
    return recipe if latent else recipes.get(f"{size} pixels", recipe)


def native_recipe_named(arch: str, name: str) -> RecipeConfig:
    """Return the native recipe of a name, or the architecture's default where no recipe has that name."""
    recipes = NATIVE_RECIPES[arch]
    return next((n.recipe for n in recipes.values() if n.recipe.name == name), recipes[""].recipe)


def recipe_table() -> str:
    """Format all recipes as a table, with their sources and choices below."""
    natives = [(f"{arch} {key}".strip(), n) for arch, recipes in NATIVE_RECIPES.items() for key, n in recipes.items()]
    rows = [_row(setup.recipe, "all", 0) for setup in (SHARED, SHARED_TOY, SHARED_SHAPES)]
    rows += [_row(n.recipe, of, n.iterations) for of, n in natives]
    settled: dict[str, list[str]] = {}
    for _, n in natives:
        for part in (f"from {n.source}", *filter(None, n.choice.split("; "))):
            names = settled.setdefault(part, [])
            if n.recipe.name not in names:
                names.append(n.recipe.name)
    notes = [f"{words}: {', '.join(names)}" for words, names in settled.items()]
    return "\n".join([tabulate(rows, headers="keys"), "", *notes])


def _row(r: RecipeConfig, of: str, iterations: int) -> dict[str, object]:
    return {
        "recipe": r.name,
        "of": of,
        "lr": f"{r.lr:g}",
        "batch": r.batch,
        "decay": f"{r.weight_decay:g}",
        "betas": f"{r.beta1:g}, {r.beta2:g}",
        "warm-up": r.warmup,
        "clip": f"{r.clip:g}",
        "average": f"{r.ema:g}{' ramped' if r.ema_ramp else ''}",
        "label drop": f"{r.label_drop:g}",
        "published steps": f"{iterations:,}" if iterations else "",
    }
