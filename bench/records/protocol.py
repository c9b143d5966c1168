"""The protocol: the settings that two results must share to be compared, and its fingerprint.

Rows with different fingerprints are never ranked against each other.  A protocol has a training half and an evaluation
half; a reference row (real images, noise) has only the second.  Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Required

from pydantic import with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from bench.config.identity import digest_json
from bench.config.schema import RunConfig

VERSION = 3
"""Raised whenever the meaning of a field changes.

2: the time that the network is given, eta, the channels and the interval of guidance; spacing adm.
3: the training data, by its hash, and whether it was mirrored; the decoder, by its hash; the precision of sampling.
"""

SAMPLERS_WITH_OWN_TIMES = ("dpm-fast", "euler-sde")
"""Samplers whose timesteps do not depend on the spacing."""


class EvaluationProtocol(TypedDict, total=False):
    """The evaluation half.  Protocols of older versions lack later fields."""

    version: int
    data: str
    extractor: str
    protocol: str
    extractor_hash: str | None
    """None in the record of a run that failed before the weights were loaded; so are the next two."""
    reference_hash: str | None
    reference_count: int | None
    decoder: str
    samples: int
    labels: str
    sampler: str
    steps: int
    spacing: str
    eta: float
    clip: bool
    guidance: float
    guidance_channels: str
    guidance_interval: Sequence[float]
    seed: int
    precision: str
    weights: str


class TrainingDataProtocol(TypedDict, total=False):
    """The training data: a hash of its content, and whether images are mirrored."""

    hash: str
    flip: str


class MatchProtocol(TypedDict, total=False):
    """The matched cost: `by` macs, params or none, `to` a reference network of cost `target`."""

    by: str
    to: str
    target: int | None
    tolerance: float


class TrainingProtocol(TypedDict, total=False):
    """The training half.  Of published weights it has the track alone."""

    track: str
    data: TrainingDataProtocol
    recipe: dict[str, Any]
    """All settings of the recipe on the shared track, departures from the paper's own on the native track."""
    diffusion: dict[str, Any]
    images: int
    match: MatchProtocol


@with_config(extra="ignore")
class Protocol(TypedDict, total=False):
    """Both halves; a reference row has no training half."""

    evaluation: Required[EvaluationProtocol]
    training: TrainingProtocol


def evaluation_protocol(
    config: RunConfig, *, extractor_hash: str, reference_hash: str, reference_count: int
) -> EvaluationProtocol:
    """The evaluation half: data, extractor, reference, decoder, sampler, guidance, counts and seeds."""
    e = config.evaluation
    guided = e.guidance != 1
    return {
        "version": VERSION,
        "data": config.data.title,
        "extractor": e.extractor,
        "protocol": e.protocol,
        "extractor_hash": extractor_hash,
        "reference_hash": reference_hash,
        "reference_count": reference_count,
        "decoder": e.decoder_hash,
        "samples": e.samples,
        "labels": "balanced",
        "sampler": e.sampler,
        "steps": e.steps,
        "spacing": "own" if e.sampler in SAMPLERS_WITH_OWN_TIMES else e.spacing,
        "eta": e.eta,
        "clip": e.clip,
        "guidance": e.guidance,
        "guidance_channels": e.guidance_channels if guided else "all",
        "guidance_interval": list(e.guidance_interval) if guided else [0.0, 1.0],
        "seed": e.seed,
        "precision": e.precision,
        "weights": "ema",
    }


def training_protocol(config: RunConfig, *, native: dict[str, Any], match_target: int | None) -> TrainingProtocol:
    """The training half: track, data, recipe, budget, diffusion and the matched cost.

    On the shared track the whole recipe counts.  On the native track each paper's own recipe, the preset `native`, is
    the rule, so only departures from it count.  Published weights share nothing but the track: their rows stand in one
    table and are not ranked.
    """
    if config.track == "published":
        return {"track": "published"}
    recipe = {k: v for k, v in config.to_dict()["recipe"].items() if k != "name"}
    process = config.to_dict()["diffusion"]
    if config.track == "native":
        settings = {**recipe, **{f"diffusion.{k}": v for k, v in process.items()}}
        recipe = {k: v for k, v in settings.items() if native.get(k) != v}
        process = {"native": True}
    by, _, reference = config.model.match.partition(":")
    match: MatchProtocol = {"by": by, "to": reference, "target": match_target, "tolerance": config.model.tolerance}
    return {
        "track": config.track,
        "data": {"hash": config.data.hash, "flip": config.data.flip},
        "recipe": recipe,
        "diffusion": process,
        "images": config.budget.images,
        "match": match if config.model.match else {"by": "none"},
    }


def fingerprint(half: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of a hash of a protocol, or of one half."""
    return digest_json(half)[:12]


def describe_protocol(protocol: Protocol, *, cost: bool = True, steps: bool = True) -> str:
    """The protocol in a sentence or two, for a table's caption; without the matched cost or the sampling steps."""
    e, t = protocol["evaluation"], protocol.get("training")
    eta = f" eta {e['eta']:g}" if e.get("eta") else ""
    eta += f" in {e['precision']}" if e.get("precision", "fp32") != "fp32" else ""
    sampler = f"{e['steps']}-step {e['sampler']}" if steps else e["sampler"]
    words = (
        f"{e['samples']:,} images, {sampler}{eta}, {describe_guidance(e)}; "
        f"{e['extractor']} features against {e['reference_count']:,} real images"
        + (f", decoder {e['decoder'][:12]}" if e.get("decoder") else "")
    )
    if t is None:
        return f"{e['data']}: {words}"
    if t["track"] == "published":
        return f"{e['data']}, weights that were trained before, each as its authors did, unranked; {words}"
    match = t["match"]
    equal = ", sizes as they are"
    if match["by"] != "none":
        equal = f", equal {match['by']} with {match['to']} ({match['target']:,}, within {match['tolerance']:.0%})"
    return f"{e['data']}, {t['track']} recipe, {t['images']:,} training images{equal if cost else ''}; {words}"


def describe_guidance(evaluation: EvaluationProtocol) -> str:
    """Guidance in both published forms: DiT's and LDM's w, where 1 is off, and U-ViT's s = w - 1."""
    scale = evaluation["guidance"]
    if scale == 1:
        return "no guidance"
    channels = {"three": "the first three"}.get(evaluation["guidance_channels"], evaluation["guidance_channels"])
    low, high = evaluation.get("guidance_interval", (0, 1))
    within = "" if (low, high) == (0, 1) else f" from {low:g} to {high:g} of the noise"
    return f"guidance {scale:g} (U-ViT's scale {scale - 1:g}) on {channels} channels{within}"
