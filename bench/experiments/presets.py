"""Presets: processes and samplers of published networks, and defaults by data set.

`compose_config` turns a request into a RunConfig; resolve.py completes it.  Imports no torch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from architectures import registry
from architectures.interface import IOSpec
from bench.config.overrides import apply_overrides
from bench.config.schema import (
    BudgetConfig,
    ComputeConfig,
    DataConfig,
    DiffusionConfig,
    EvaluationConfig,
    ModelConfig,
    RecipeConfig,
    RunConfig,
)
from bench.data.dataset import DataSource
from bench.data.sources import KNOWN_SOURCES, open_source, resolve_data
from bench.experiments.recipes import (
    NATIVE_RECIPES,
    SHARED,
    SHARED_SHAPES,
    SHARED_TOY,
    TrainingSetup,
    native_recipe,
    native_recipe_named,
)

_LEARNED = DiffusionConfig(variance="learned_range")
_IDDPM = DiffusionConfig(schedule="cosine", steps=4000, time="rescaled", variance="learned_range")
_LDM = DiffusionConfig(schedule="ldm")
_VP = DiffusionConfig(schedule="vp", time="continuous")
_STABLE = DiffusionConfig(schedule="sqrt_linear", time="count")

PUBLISHED_PROCESSES: Mapping[str, Mapping[str, DiffusionConfig]] = {
    # arXiv:2212.09748 Section 4
    "dit": {"": _LEARNED},
    # the published configurations: the Huge models, and all with a text, are discrete, the others continuous
    "uvit": {"": _STABLE, **dict.fromkeys(("S/2", "S/4", "M/4", "L/2", "L/4"), _VP), "text": _STABLE},
    "unet": {
        "": _LEARNED,  # arXiv:2105.05233 Table 11: cosine at 64 pixels, linear above
        "ADM-64": DiffusionConfig(schedule="cosine", variance="learned_range"),
        "DDPM-32": DiffusionConfig(),
        **dict.fromkeys(("iDDPM-32", "iDDPM-64", "iDDPM-64-L"), _IDDPM),  # arXiv:2102.09672 Section 3
        **dict.fromkeys(("LDM-4", "LDM-8"), _LDM),  # arXiv:2112.10752, the configurations for ImageNet
    },
}
"""The forward process of published networks: architecture -> size -> process; "" is for sizes not named."""

_ANCESTRAL: dict[str, Any] = dict(sampler="ddpm", steps=250, spacing="adm")
_SOLVER: dict[str, Any] = dict(sampler="dpm-fast", steps=50)
_REVERSE_SDE: dict[str, Any] = dict(sampler="euler-sde", steps=1000)
_DDIM: dict[str, Any] = dict(sampler="ddim", spacing="ldm", eta=1.0)

PUBLISHED_SAMPLING: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "dit": {"": dict(_ANCESTRAL, guidance=1.5, guidance_channels="three")},
    "uvit": {
        "": dict(_SOLVER, guidance=1.4),  # the published scale is 0.4
        "L/4": dict(_SOLVER, guidance=1.7),
        "H/4": dict(_SOLVER, guidance=1.7),
        "M/4": _SOLVER,
        "S/2": _REVERSE_SDE,
        "S/4": _REVERSE_SDE,
        "text": dict(_SOLVER, guidance=2.0),
    },
    "unet": {
        "": dict(_ANCESTRAL, clip=True),  # without the classifier's guidance
        "LDM-4": dict(_DDIM, steps=250, guidance=1.5),  # eta is not in the paper; reproductions point to 1
        "LDM-8": dict(_DDIM, steps=200),
    },
}
"""How published networks were sampled: fields of EvaluationConfig, by the same keys as PUBLISHED_PROCESSES."""


def published_process(arch: str, size: str = "", *, text: bool = False) -> DiffusionConfig:
    """Return the process that a published network was trained with; `text` is for U-ViT's MS-COCO models.

    Raises ValueError for an architecture without published networks.
    """
    return _published(PUBLISHED_PROCESSES, arch, size, text)


def published_sampling(arch: str, size: str = "", *, text: bool = False) -> dict[str, Any]:
    """Return the fields of EvaluationConfig of a published network's sampling; raises as `published_process`."""
    return dict(_published(PUBLISHED_SAMPLING, arch, size, text))


def _published(table: Mapping[str, Mapping[str, Any]], arch: str, size: str, text: bool) -> Any:
    if arch not in table:
        raise ValueError(f"{arch} has no published process; there are {', '.join(table)}")
    sizes = table[arch]
    return sizes.get("text" if text else size, sizes[""])


TOY_EVALUATION = EvaluationConfig(
    extractor="digits-cnn",
    protocol="torch-fidelity",
    samples=1000,
    sampler="ddim",
    steps=16,
    spacing="trailing",
    clip=True,
    guidance=1.5,
    batch=250,
)


@dataclass(frozen=True, kw_only=True)
class DataDefaults:
    """Defaults that a data set implies."""

    budget: BudgetConfig = dataclasses.field(default_factory=BudgetConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    shared: TrainingSetup = SHARED
    compute: ComputeConfig = dataclasses.field(default_factory=ComputeConfig)


def defaults_for(name: str, source: DataSource) -> DataDefaults:
    """Return the defaults of a data set: laptop scale for digits and shapes, the papers' scale for all others."""
    if name == "digits":
        return DataDefaults(
            budget=BudgetConfig(images=111_000, points=3),
            evaluation=TOY_EVALUATION,
            shared=SHARED_TOY,
            compute=ComputeConfig(export="npz"),  # 64 bytes an image, fewer than its features
        )
    if re.fullmatch(r"shapes(-\d+)?", name):
        return DataDefaults(
            budget=BudgetConfig(images=96_000, points=2),
            evaluation=replace(TOY_EVALUATION, extractor="shapes-cnn"),
            shared=SHARED_SHAPES,
        )
    return DataDefaults(evaluation=EvaluationConfig(clip=not source.latent))


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """Settings named on the command line; "" and None mean "as implied by the others"."""

    arch: str = "dit"
    size: str = ""
    data: str = ""
    track: str = "shared"
    match: str = ""
    checkpoint: str = ""
    seed: int = 0
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)


def compose_config(request: RunRequest) -> RunConfig:
    """Compose the configuration that a request implies, before a matched size is solved; ValueError for unknown names.

    A size of a paper implies that paper's data.  No size implies the laptop size on digits or, with a match, a size
    that resolve.py solves.
    """
    entry = registry.entry(request.arch)
    if request.size:
        registry.size_args(request.arch, request.size)
    matching = request.match or request.settings.get("model.match", "")
    data = request.data or request.settings.get("data.name", "")
    paper = request.size in entry.settings or (request.size and request.arch in registry.ARCHITECTURES)
    data = data or (entry.setting(request.size) if paper else "digits")
    if not data:
        raise ValueError(f"the data set of {request.arch} {request.size} is not known here; name a folder with --data")
    source = open_source(data, request.settings.get("data.root", "data"))
    size = request.size or ("" if matching else entry.toy_for(source.size))
    if not size and not matching and entry.sizes:
        raise ValueError(f"{request.arch} needs a size: {', '.join(entry.sizes)}")
    implied = defaults_for(data, source)
    setup = training_setup(request.track, request.arch, size, source, implied)
    config = RunConfig(
        track="native" if request.track == "native" else "shared",
        seed=request.seed,
        model=ModelConfig(arch=request.arch, size=size, match=request.match),
        data=DataConfig(name=data),
        diffusion=setup.diffusion,
        recipe=setup.recipe,
        budget=implied.budget,
        evaluation=implied.evaluation,
        compute=implied.compute,
    )
    return with_known_data(apply_overrides(config, request.settings))


def with_known_data(config: RunConfig) -> RunConfig:
    """Fill in the hash of the data, and whether training mirrors them."""
    return replace(config, data=resolve_data(config.data))


def checkpoint_config(
    request: RunRequest,
    *,
    arch: str,
    size: str,
    args: Mapping[str, Any],
    io: IOSpec,
    weights: str,
    process: DiffusionConfig | None,
) -> RunConfig:
    """Compose the configuration that samples published weights and evaluates the samples, without training.

    The data set is the request's, or the one of the network's shape.  The process is the published one of this size,
    unless the file holds its own.  On the native track images are sampled as in the paper.  Raises ValueError for
    settings that the weights decide, and for a condition that no data set has.
    """
    _check_checkpoint_request(request, io)
    data = request.data or request.settings.get("data.name", "") or dataset_for(io, vq=size.startswith("LDM"))
    source = open_source(data, request.settings.get("data.root", "data"))
    if (source.channels, source.size) != (io.channels, io.size) or io.num_classes not in (0, source.num_classes):
        raise ValueError(
            f"{data} has {_shape(source.channels, source.size, source.num_classes)}; these weights are for "
            f"{_shape(io.channels, io.size, io.num_classes)}"
        )
    process = process or replace(published_process(arch, size), variance=io.variance)
    implied = defaults_for(data, source)
    evaluation = implied.evaluation
    if request.track == "native":
        evaluation = replace(evaluation, **published_sampling(arch, size))
    if not (io.num_classes and io.null_label):
        evaluation = replace(evaluation, guidance=1.0)
    model = ModelConfig(
        arch=arch, size=size, args={} if size else dict(args), weights=weights, io=dataclasses.asdict(io)
    )
    config = RunConfig(
        track="published",
        model=model,
        data=DataConfig(name=data),
        diffusion=process,
        recipe=RecipeConfig(name="published"),
        budget=BudgetConfig(images=0, points=1),
        evaluation=evaluation,
        compute=implied.compute,
    )
    settings = {k: v for k, v in request.settings.items() if not k.startswith("model.")}
    config = apply_overrides(config, settings)
    if config.evaluation.guidance != 1 and not (io.num_classes and io.null_label):
        raise ValueError("these weights have no null class, so there is no guidance; set evaluation.guidance=1")
    return with_known_data(config)


def _check_checkpoint_request(request: RunRequest, io: IOSpec) -> None:
    """Raise ValueError for settings that the weights decide, and for a condition that no data set has."""
    for name in ("size", "match"):
        if getattr(request, name):
            raise ValueError(f"--checkpoint brings its own network; leave --{name} out")
    if io.text_dim or io.image_channels:
        condition = "a text" if io.text_dim else "an image to upsample"
        raise ValueError(
            f"this network takes {condition}, which no data set here has; architectures.from_official gives the network"
        )


def dataset_for(io: IOSpec, *, vq: bool) -> str:
    """Return the one data set that has a network's shape; ValueError where there is none, or several."""
    fitting = [
        name
        for name, source in KNOWN_SOURCES.items()
        if (source.channels, source.size, source.num_classes, source.vq) == (io.channels, io.size, io.num_classes, vq)
        and not name.startswith("shapes")
    ]
    if len(fitting) != 1:
        many = f"can be those of {' and '.join(fitting)}" if fitting else "are of no known data set"
        raise ValueError(f"{_shape(io.channels, io.size, io.num_classes)} {many}; name it, or a folder, with --data")
    return fitting[0]


def _shape(channels: int, size: int, classes: int) -> str:
    return f"{channels}x{size}x{size} images {f'of {classes} classes' if classes else 'without classes'}"


def training_setup(track: str, arch: str, size: str, source: DataSource, implied: DataDefaults) -> TrainingSetup:
    """Return the recipe and process of a track; ValueError where an architecture has no published recipe."""
    if track == "shared":
        return implied.shared
    if track != "native":
        raise ValueError(f"track is {track!r}; choose shared or native")
    return TrainingSetup(
        recipe=native_recipe(arch, size, source.latent).recipe, diffusion=published_process(arch, size)
    )


def native_preset(config: RunConfig) -> dict[str, Any]:
    """Return the native preset as {recipe field or diffusion.field: value}; {} where there is none.

    A solved size has no published process; any published one of its family counts as native.
    """
    arch, size = config.model.arch, config.model.size
    if arch not in NATIVE_RECIPES:
        return {}
    process, recipe = published_process(arch, size), native_recipe_named(arch, config.recipe.name)
    if not size and config.diffusion in PUBLISHED_PROCESSES[arch].values():
        process = config.diffusion
    return {
        **dataclasses.asdict(recipe),
        **{f"diffusion.{k}": v for k, v in dataclasses.asdict(process).items()},
    }


def network_io(config: RunConfig, source: DataSource | None = None) -> IOSpec:
    """Return the input and output shape of a run's network; opens the run's data source unless it is passed."""
    if config.model.io:
        return IOSpec(**config.model.io)
    source = source or open_source(config.data.name, config.data.root)
    return IOSpec(
        channels=source.channels, size=source.size, num_classes=source.num_classes, variance=config.diffusion.variance
    )
