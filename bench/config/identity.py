"""Compare configurations: one function, and named sets of the keys that a comparison ignores.

A configuration is nested plain data, as `RunConfig.identity()` or a record has it, and a key is dotted:
"evaluation.steps".  Two configurations are the same for a comparison if they are equal without the keys that it
ignores.  Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

SEED = ("seed",)
"""Training seed.  Runs that differ only in it repeat one experiment: rows of the leaderboard and points of a figure are
means over them."""
MACHINE = ("compute", "data.root", "evaluation.weights", "evaluation.decoder", "evaluation.batch")
"""Paths and settings of a machine, which do not change a result.  A run's identity ignores them, so that a run has
the same id everywhere."""
RESOLVED = ("model.solved", "model.weights", "model.io", "data.hash", "evaluation.decoder_hash")
"""Values that are filled in from the data set, a checkpoint or the matched cost.  A comparison of a request with
a finished run ignores them, because a request does not have them."""
TRAINING = ("diffusion", "recipe", "budget")
"""Settings of training, which do not matter for published weights: their authors have trained them."""
INACTIVE_GUIDANCE = ("evaluation.guidance_channels", "evaluation.guidance_interval")
"""Settings that have no effect at guidance scale 1."""
UNPUBLISHED = ("track", "model.tolerance", "data.flip", "budget.points", "evaluation.seed")
"""Settings that a row of a paper does not fix: how closely a cost is matched, mirroring, the number of evaluation
points, the seed of sampling, and which track the run is on (published weights have a track of their own)."""

NETWORK = ("model",)
"""The backbone.  Networks that differ only in it share the panel of a figure."""
MATCHED_COST = ("training.match",)
"""The cost that was matched, in a protocol.  FIDs at different matched costs may share an axis."""
SAMPLING_STEPS = ("evaluation.steps",)
"""Sampling steps.  The figure of sampling compute varies them."""


def configuration_key(data: Mapping[str, Any], ignored: Iterable[str] = ()) -> str:
    """Return a digest of nested plain data without the dotted keys in `ignored`."""
    return digest_json(without(data, ignored))


def without(data: Mapping[str, Any], ignored: Iterable[str]) -> dict[str, Any]:
    """Copy nested plain data without the dotted keys in `ignored`; keys that are missing are no error."""
    copy = dict(data)
    for key in ignored:
        section, dot, setting = key.partition(".")
        if not dot:
            copy.pop(section, None)
        elif section in copy:
            copy[section] = without(copy[section], (setting,))
    return copy


def digest_json(data: Any) -> str:
    """Return the SHA-256 of the canonical JSON of plain data, in hexadecimal."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class ModelIdentity(TypedDict, total=False):
    """The backbone of a ConfigIdentity."""

    arch: str
    size: str
    args: dict[str, Any]
    match: str
    tolerance: float
    solved: dict[str, Any]
    weights: str
    io: dict[str, Any]


class DataIdentity(TypedDict, total=False):
    """The data set of a ConfigIdentity: `name` without folders, and a hash of its content."""

    name: str
    flip: str
    hash: str


class DiffusionIdentity(TypedDict, total=False):
    """The forward process of a ConfigIdentity."""

    steps: int
    schedule: str
    time: str
    variance: str


class RecipeIdentity(TypedDict, total=False):
    """The training recipe of a ConfigIdentity."""

    name: str
    lr: float
    beta1: float
    beta2: float
    weight_decay: float
    warmup: int
    batch: int
    clip: float
    ema: float
    ema_ramp: bool
    label_drop: float


class BudgetIdentity(TypedDict, total=False):
    """The training budget of a ConfigIdentity."""

    images: int
    points: int


class EvaluationIdentity(TypedDict, total=False):
    """Sampling and measurement of a ConfigIdentity."""

    extractor: str
    protocol: str
    decoder_hash: str
    samples: int
    sampler: str
    eta: float
    steps: int
    spacing: str
    clip: bool
    guidance: float
    guidance_channels: str
    guidance_interval: Sequence[float]
    seed: int
    precision: str


@with_config(extra="ignore")
class ConfigIdentity(TypedDict, total=False):
    """RunConfig.identity(): the settings that determine the result of a run.  A record's id contains their hash.

    Keys may be missing: a record of an older version lacks later settings, and a reference row has no config.
    """

    track: str
    seed: int
    model: ModelIdentity
    data: DataIdentity
    diffusion: DiffusionIdentity
    recipe: RecipeIdentity
    budget: BudgetIdentity
    evaluation: EvaluationIdentity
