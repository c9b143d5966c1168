"""Compare configurations: one function, and named sets of the keys that a comparison ignores.

A configuration is nested plain data, as `RunConfig.identity()` or a record has it, and a key is dotted:
"evaluation.steps".  Two configurations are the same for a comparison if they are equal without the keys that it
ignores.  Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

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
    """Digest of nested plain data without the dotted keys in `ignored`: equal for the same configuration."""
    return digest_json(without(data, ignored))


def without(data: Mapping[str, Any], ignored: Iterable[str]) -> dict[str, Any]:
    """Copy nested plain data without the dotted keys in `ignored`; keys that are missing are no error."""
    copy = dict(data)
    for key in ignored:
        section, dot, rest = key.partition(".")
        if not dot:
            copy.pop(section, None)
        elif section in copy:
            copy[section] = without(copy[section], (rest,))
    return copy


def digest_json(data: Any) -> str:
    """SHA-256 of the canonical JSON of plain data, in hexadecimal."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
