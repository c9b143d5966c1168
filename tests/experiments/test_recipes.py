"""The published recipes, held to what was found: results/published/training.csv."""

import csv
import re
from pathlib import Path

import pytest

from bench.experiments import recipes

ROWS = list(csv.DictReader((Path(__file__).parents[2] / "results/published/training.csv").open()))
CODE = "official code"
PAPER = "paper"

FOUND = {  # recipe -> the row of training.csv that it is held to: paper, model, dataset, resolution, kind
    "dit ": ("DiT", "all 12 sweep models", "ImageNet class-cond", "256", PAPER),
    "dit XL/2": ("DiT", "DiT-XL/2", "ImageNet class-cond", "256", PAPER),
    "uvit ": ("U-ViT", "U-ViT-H/2", "ImageNet class-cond", "256", CODE),
    "uvit L/2": ("U-ViT", "U-ViT-L/2", "ImageNet class-cond", "256", CODE),
    "uvit L/4": ("U-ViT", "U-ViT-L/4", "ImageNet class-cond", "512", CODE),
    "uvit L/4 pixels": ("U-ViT", "U-ViT-L/4", "ImageNet class-cond", "64", CODE),
    "uvit M/4": ("U-ViT", "U-ViT-M/4", "ImageNet class-cond", "64", CODE),
    "uvit S/2": ("U-ViT", "U-ViT-S/2", "CIFAR-10 uncond", "32", CODE),
    "uvit S/4": ("U-ViT", "U-ViT-S/4", "CelebA 64 uncond", "64", CODE),
    "unet ": ("ADM", "ADM", "ImageNet class-cond", "256", PAPER),
    "unet ADM-64": ("ADM", "ADM", "ImageNet class-cond", "64", PAPER),
    "unet ADM-128": ("ADM", "ADM", "ImageNet class-cond", "128", PAPER),
    "unet ADM-512": ("ADM", "ADM", "ImageNet class-cond", "512", PAPER),
    "unet DDPM-32": ("DDPM", "DDPM CIFAR-10", "CIFAR-10 uncond", "32", CODE),
    "unet iDDPM-32": ("IDDPM", "50M", "CIFAR-10 uncond", "32", CODE),
    "unet iDDPM-64": ("IDDPM", "100M uncond", "ImageNet uncond", "64", CODE),
    "unet iDDPM-64-L": ("IDDPM", "270M class-cond", "ImageNet class-cond", "64", CODE),
    "unet LDM-4": ("LDM", "LDM-4 class-cond", "ImageNet class-cond", "256", PAPER),
    "unet LDM-8": ("LDM", "LDM-8 class-cond", "ImageNet class-cond", "256", PAPER),
}
NATIVE = {f"{arch} {key}": n for arch, group in recipes.NATIVE_RECIPES.items() for key, n in group.items()}


def test_every_recipe_is_held_to_a_row():
    assert set(FOUND) == set(NATIVE)


def row_of(name):
    columns = ("paper", "model", "dataset", "resolution", "kind")
    (row,) = [r for r in ROWS if tuple(r[c] for c in columns) == FOUND[name]]
    return row


def number(text):
    """The first number of a cell, "178,000" and "1M" included; None for a blank one."""
    match = re.match(r"([\d.]+(?:e-?\d+)?)([KM]?)", text.replace(",", ""))
    return float(match[1]) * {"": 1, "K": 1e3, "M": 1e6}[match[2]] if match else None


@pytest.mark.parametrize("name", FOUND)
def test_a_native_recipe_is_the_published_one(name):
    row, native = row_of(name), NATIVE[name]
    recipe = native.recipe
    columns = {
        "lr": recipe.lr,
        "batch": recipe.batch,
        "weight_decay": recipe.weight_decay,
        "beta1": recipe.beta1,
        "beta2": recipe.beta2,
        "warmup_steps": recipe.warmup,
        "ema": recipe.ema,
        "p_uncond": recipe.label_drop,
    }
    held = {c: mine for c, mine in columns.items() if number(row[c]) is not None}
    assert {"lr", "batch"} <= set(held)
    assert held == {c: pytest.approx(number(row[c])) for c in held}
    if len(row["iterations"]) < 9:  # LDM-8 was trained to several lengths
        assert native.iterations == number(row["iterations"])


def test_recipes_are_told_apart_by_their_names():
    known = {}
    for native in NATIVE.values():
        assert known.setdefault(native.recipe.name, native.recipe) == native.recipe


def test_a_size_trained_on_pixels_and_on_latents_has_two_recipes():
    assert recipes.native_recipe("uvit", "L/4", latent=True).recipe.lr == 2e-4
    assert recipes.native_recipe("uvit", "L/4", latent=False).recipe.lr == 3e-4
    assert recipes.native_recipe("uvit", "H/2", latent=True) == recipes.native_recipe("uvit", "", latent=False)


def test_an_architecture_that_was_never_published_has_no_recipe():
    with pytest.raises(ValueError, match="no published recipe of mine is known here"):
        recipes.native_recipe("mine", "S", latent=True)


def test_where_sources_disagree_the_recipe_says_what_is_taken():
    lines = recipes.recipe_table().splitlines()
    assert sum("main text prints 0.3" in line for line in lines) == 1
    assert next(line for line in lines if "not printed: 0.1" in line).endswith(": ldm-4")
    assert all(any(f" {n.strip()} " in line for line in lines) for n in NATIVE)
