"""Golden values of the published evaluators, and their seeded inputs (tests/goldens/metrics)."""

import json
from pathlib import Path

import numpy as np

from bench.evaluation import metrics

ROOT = Path(__file__).parent / "goldens" / "metrics"
CASES = json.loads((ROOT / "cases.json").read_text())
ARRAYS = np.load(ROOT / "arrays.npz")


def names(*kinds):
    return [name for name, case in CASES.items() if case["kind"] in kinds]


def golden(name):
    """Return {value name: number} (None for NaN) and the arrays of a case."""
    arrays = {key.partition("/")[2]: ARRAYS[key] for key in ARRAYS.files if key.startswith(f"{name}/")}
    return {**CASES[name]["golden"], **arrays}


def noise(seed, shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def features(recipe):
    """Return features (n, d) float32: noise, then mixing, abs, scale, shift and repeated rows as in the recipe."""
    n, d = recipe["n"], recipe["d"]
    x = noise(recipe["seed"], (recipe.get("unique", n), d))
    if "mix_seed" in recipe:
        mix = noise(recipe["mix_seed"], (d, d)).astype(np.float64) / np.sqrt(d)
        x = (x.astype(np.float64) @ mix).astype(np.float32)
    x = np.abs(x) if recipe.get("abs") else x
    x = (x * np.float32(recipe.get("scale", 1)) + np.float32(recipe.get("shift", 0))).astype(np.float32)
    return x[np.arange(n) % len(x)]


def logits(recipe):
    """Return logits (n, classes) float64."""
    z = noise(recipe["seed"], (recipe["n"], recipe["classes"])).astype(np.float64)
    return recipe.get("scale", 1.0) * z


def inception_score(p, chunk):
    """ADM's score of probabilities (n, classes), as the published evaluator takes them."""
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = (p.astype(np.float64) * np.log(p.astype(np.float64))).sum(1)
    return metrics.inception_score(p, entropy, metrics.inception_chunks(len(p), "adm", chunk))


def predictions(recipe):
    """Return probabilities (n, classes) float32."""
    z = logits(recipe)
    p = np.exp(z - z.max(1, keepdims=True))
    p[:, : recipe.get("zero_first", 0)] = 0
    return (p / p.sum(1, keepdims=True)).astype(np.float32)
