"""What names imply: processes and samplers of published networks, and settings by data set.

`resolve` turns a few words into a whole RunConfig.  Imports no torch.
"""

from __future__ import annotations

import dataclasses
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
"""How published networks were sampled: fields of Evaluation, laid out as PROCESSES."""


def published_process(arch: str, size: str = "", *, text: bool = False) -> DiffusionConfig:
    """The process that a published network was trained with; `text` for U-ViT's MS-COCO models.

    Raises ValueError for an architecture that was never published.
    """
    return _published(PUBLISHED_PROCESSES, arch, size, text)


def published_sampling(arch: str, size: str = "", *, text: bool = False) -> dict[str, Any]:
    """Fields of Evaluation that a published network was sampled with; ValueError as `published_process`."""
    return dict(_published(PUBLISHED_SAMPLING, arch, size, text))


def _published(table: Mapping[str, Mapping[str, Any]], arch: str, size: str, text: bool) -> Any:
    if arch not in table:
        raise ValueError(f"{arch} has no published process; there are {', '.join(table)}")
    own = table[arch]
    return own.get("text" if text else size, own[""])


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
    """What a data set implies for everything else."""

    budget: BudgetConfig = dataclasses.field(default_factory=BudgetConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    shared: TrainingSetup = SHARED
    compute: ComputeConfig = dataclasses.field(default_factory=ComputeConfig)


def defaults_for(name: str, what: DataSource) -> DataDefaults:
    """The setting of a data set: laptop scale for digits and shapes, the papers' scale for all others."""
    if name == "digits":
        return DataDefaults(
            budget=BudgetConfig(images=111_000, points=3),
            evaluation=TOY_EVALUATION,
            shared=SHARED_TOY,
            compute=ComputeConfig(export="npz"),  # 64 bytes an image, fewer than its features
        )
    if name.startswith("shapes"):
        return DataDefaults(
            budget=BudgetConfig(images=96_000, points=2),
            evaluation=replace(TOY_EVALUATION, extractor="shapes-cnn"),
            shared=SHARED_SHAPES,
        )
    return DataDefaults(evaluation=EvaluationConfig(clip=not what.latent))


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What was asked for on the command line; "" and None mean "as implied"."""

    arch: str = "dit"
    size: str = ""
    data: str = ""
    track: str = "shared"
    match: str = ""
    checkpoint: str = ""
    seed: int = 0
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)


def compose_config(wish: RunRequest) -> RunConfig:
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
    if not data:
        raise ValueError(f"the data set of {wish.arch} {wish.size} is not known here; name a folder with --data")
    what = open_source(data, wish.settings.get("data.root", "data"))
    size = wish.size or ("" if matching else found.toy_for(what.size))
    if not size and not matching and found.sizes:
        raise ValueError(f"{wish.arch} needs a size: {', '.join(found.sizes)}")
    implied = defaults_for(data, what)
    way = training_setup(wish.track, wish.arch, size, what, implied)
    config = RunConfig(
        track="native" if wish.track == "native" else "shared",
        seed=wish.seed,
        model=ModelConfig(arch=wish.arch, size=size, match=wish.match),
        data=DataConfig(name=data),
        diffusion=way.diffusion,
        recipe=way.recipe,
        budget=implied.budget,
        evaluation=implied.evaluation,
        compute=implied.compute,
    )
    return with_known_data(apply_overrides(config, wish.settings))


def with_known_data(config: RunConfig) -> RunConfig:
    """The config with the hash of its data, and whether they are mirrored, filled in."""
    return replace(config, data=resolve_data(config.data))


def checkpoint_config(
    wish: RunRequest,
    *,
    arch: str,
    size: str,
    args: Mapping[str, Any],
    io: IOSpec,
    weights: str,
    process: DiffusionConfig | None,
) -> RunConfig:
    """The configuration that samples published weights and evaluates the samples; it trains nothing.

    The data are those of the network's shape, or the wish's; the process is the published one of this
    size unless the file tells its own.  On the native track the images are sampled as the paper did.
    Raises ValueError for what the weights decide themselves, and for a condition that no data set has.
    """
    for name in ("size", "match"):
        if getattr(wish, name):
            raise ValueError(f"--checkpoint brings its own network; leave --{name} out")
    if io.text_dim or io.image_channels:
        taken = "a text" if io.text_dim else "an image to upsample"
        raise ValueError(
            f"this network takes {taken}, which no data set here has; architectures.from_official gives the network"
        )
    data = wish.data or wish.settings.get("data.name", "") or dataset_for(io, vq=size.startswith("LDM"))
    what = open_source(data, wish.settings.get("data.root", "data"))
    if (what.channels, what.size) != (io.channels, io.size) or io.num_classes not in (0, what.num_classes):
        raise ValueError(
            f"{data} has {_shape(what.channels, what.size, what.num_classes)}; these weights are for "
            f"{_shape(io.channels, io.size, io.num_classes)}"
        )
    process = process or replace(published_process(arch, size), variance=io.variance)
    implied = defaults_for(data, what)
    evaluation = implied.evaluation
    if wish.track == "native":
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
    settings = {k: v for k, v in wish.settings.items() if not k.startswith("model.")}
    config = apply_overrides(config, settings)
    if config.evaluation.guidance != 1 and not (io.num_classes and io.null_label):
        raise ValueError("these weights have no null class, so there is no guidance; set evaluation.guidance=1")
    return with_known_data(config)


def dataset_for(io: IOSpec, *, vq: bool) -> str:
    """The data set that a network's shape means; ValueError where it does not say."""
    fitting = [
        name
        for name, what in KNOWN_SOURCES.items()
        if (what.channels, what.size, what.num_classes, what.vq) == (io.channels, io.size, io.num_classes, vq)
        and not name.startswith("shapes")
    ]
    if len(fitting) != 1:
        many = f"can be those of {' and '.join(fitting)}" if fitting else "are of no known data set"
        raise ValueError(f"{_shape(io.channels, io.size, io.num_classes)} {many}; name it, or a folder, with --data")
    return fitting[0]


def _shape(channels: int, size: int, classes: int) -> str:
    return f"{channels}x{size}x{size} images {f'of {classes} classes' if classes else 'without classes'}"


def training_setup(track: str, arch: str, size: str, what: DataSource, implied: DataDefaults) -> TrainingSetup:
    """Recipe and process of a track; ValueError where an architecture has no published recipe."""
    if track == "shared":
        return implied.shared
    if track != "native":
        raise ValueError(f"track is {track!r}; choose shared or native")
    return TrainingSetup(recipe=native_recipe(arch, size, what.latent).recipe, diffusion=published_process(arch, size))


def native_preset(config: RunConfig) -> dict[str, Any]:
    """The native preset as {recipe field or diffusion.field: value}; {} where there is none.

    A size that was solved has no process of its own: any published one of its family is native to it.
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
