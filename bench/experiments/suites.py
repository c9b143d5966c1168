"""Named grids of runs for tables and figures of the papers, at three scales.

`digits` and `shapes` are small faithful versions: the same switches on toy networks, equal budgets, three seeds a
variant.  `paper` is the original setting, for a cluster.  Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, NamedTuple

from bench.config.identity import RESOLVED, SEED, configuration_key
from bench.experiments.presets import RunRequest, compose_config

Scale = Literal["digits", "shapes", "paper"]
Settings = Mapping[str, str]
Switches = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One variant of a grid: its name in the paper's table, and its run request."""

    name: str
    request: RunRequest


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A grid: the variants of each scale, and the settings that they share.

    At paper scale its runs use the papers' own recipes, unless the suite names one data set for all families.
    """

    about: str
    cells: Callable[[Scale], Iterable[Variant]]
    data: str = ""
    shared: Mapping[Scale, Settings]
    seeds: Mapping[Scale, int]

    def at(self, scale: Scale) -> list[Variant]:
        """Return the variants of a scale, with the shared settings merged in."""
        common = self.shared[scale]
        data = self.data if scale == "paper" else scale
        track = "native" if scale == "paper" and not data else "shared"
        return [
            replace(c, request=replace(c.request, data=data, track=track, settings={**common, **c.request.settings}))
            for c in self.cells(scale)
        ]


def _args(**switches: object) -> dict[str, str]:
    return {f"model.args.{name}": json.dumps(value) for name, value in switches.items()}


UNGUIDED = {"evaluation.guidance": "1"}
TOY_BUDGET = {"budget.images": "50000", "budget.points": "1", **UNGUIDED}
"""Budget of a variant at toy scale: about a minute of one CPU core at 9 M multiply-accumulates."""


def _toy_size(arch: str, scale: Scale) -> str:
    """Return the toy size that a scale varies."""
    return {"unet": "nano"}.get(arch, "nano/2" if scale == "digits" else "nano/4")


CONDITIONING_SWITCHES = {
    "in-context": _args(conditioning="in_context"),
    "cross-attention": _args(conditioning="cross_attention"),
    "adaLN": _args(conditioning="adaln"),
    "adaLN-Zero": {},
}


def conditioning_variants(scale: Scale) -> Iterable[Variant]:
    size = "XL/2" if scale == "paper" else _toy_size("dit", scale)
    for name, switches in CONDITIONING_SWITCHES.items():
        yield Variant(name=name, request=RunRequest(arch="dit", size=size, settings=switches))


TOY_DITS = {f"{depth}x{width}": dict(depth=depth, width=width, heads=2) for depth, width in ((2, 48), (4, 64), (6, 80))}
"""Depth x width of the toy sizes that stand for S, B and L."""


def scaling_variants(scale: Scale) -> Iterable[Variant]:
    if scale == "paper":
        for size in ("S", "B", "L", "XL"):
            for patch in (8, 4, 2):
                yield Variant(name=f"DiT-{size}/{patch}", request=RunRequest(arch="dit", size=f"{size}/{patch}"))
        return
    for name, shape in TOY_DITS.items():
        for patch in (4, 2, 1) if scale == "digits" else (8, 4, 2):
            settings = _args(**shape, patch=patch)
            yield Variant(
                name=f"{name}/{patch}", request=RunRequest(arch="dit", size=_toy_size("dit", scale), settings=settings)
            )


UVIT_SWITCHES = {
    "default": {},
    "skip: h_m + Linear(h_s)": _args(skip="project_add"),
    "skip: Linear(h_m + h_s)": _args(skip="add_project"),
    "skip: h_m + h_s": _args(skip="add"),
    "skip: none": _args(skip="none"),
    "time: AdaLN": _args(time="adaln"),
    "head: convolution before the projection": _args(head="before"),
    "head: no convolution": _args(head="none"),
    "patch embedding: convolutions": _args(patch_embed="conv"),
    "position: 2-D sinusoidal": _args(position="sincos"),
    "position: none": _args(position="none"),
}
"""The five panels of arXiv:2209.12152, Figure 2, as departures from the default."""


def uvit_variants(scale: Scale) -> Iterable[Variant]:
    size = "S/2" if scale == "paper" else _toy_size("uvit", scale)
    for name, switches in UVIT_SWITCHES.items():
        yield Variant(name=name, request=RunRequest(arch="uvit", size=size, settings=switches))
    depths, widths, patches = ((8, 16), (256, 768), (8, 4, 1)) if scale == "paper" else ((2, 8), (64, 128), (8, 4))
    if scale == "shapes":
        patches = (8, 2)
    for depth in depths:
        yield Variant(
            name=f"depth: {depth + 1} layers", request=RunRequest(arch="uvit", size=size, settings=_args(depth=depth))
        )
    for width in widths:
        switches = _args(width=width, heads=max(2, width // (64 if scale == "paper" else 32)))
        yield Variant(name=f"width: {width}", request=RunRequest(arch="uvit", size=size, settings=switches))
    for patch in patches:
        yield Variant(name=f"patch: {patch}", request=RunRequest(arch="uvit", size=size, settings=_args(patch=patch)))


class UnetGrid(NamedTuple):
    """How arXiv:2105.05233's Tables 1 to 3 are written for a scale: departures from a size."""

    size: str
    base: Switches
    deep: Switches
    attention: Sequence[int]
    table2: Switches
    head_channels: Sequence[int]


UNET_GRIDS = {
    "paper": UnetGrid(
        size="ADM-128",
        base=dict(channels=160, heads=1, attention=[16], resample="conv"),
        deep=dict(channels=128, res_blocks=4),
        attention=[32, 16, 8],
        table2=dict(channels=128),
        head_channels=(32, 64, 128),
    ),
    "digits": UnetGrid(
        size="nano",
        base=dict(head_channels=None, resample="conv"),
        deep=dict(channels=24, res_blocks=2),
        attention=[8, 4],
        table2=dict(channel_mult=[1, 2], attention=[8, 4]),
        head_channels=(8, 16, 32),
    ),
}
UNET_GRIDS["shapes"] = UNET_GRIDS["digits"]._replace(
    base=dict(UNET_GRIDS["digits"].base, channel_mult=[1, 2, 2], attention=[8]),
    attention=[16, 8],
    table2=dict(channel_mult=[1, 2, 2], attention=[16, 8]),
)


def unet_variants(scale: Scale) -> Iterable[Variant]:
    size, base, deep, attention, table2, head_channels = UNET_GRIDS[scale]
    table1: dict[str, Switches] = {
        "base": {},
        "narrower and deeper": deep,
        "heads 4": dict(heads=4),
        "attention at more resolutions": dict(attention=attention),
        "BigGAN up/downsample": dict(resample="biggan"),
        "rescale residual by 1/sqrt(2)": dict(rescale_residual=True),
        "all but depth and rescaling": dict(heads=4, attention=attention, resample="biggan"),
    }
    grid: dict[str, Switches] = {f"Table 1: {name}": {**base, **more} for name, more in table1.items()}
    for n in (1, 2, 4, 8):
        grid[f"Table 2: {n} head{'s'[: n > 1]}"] = {**table2, "heads": n, "head_channels": None}
    for n in head_channels:
        grid[f"Table 2: {n} channels per head"] = {**table2, "head_channels": n}
    grid["Table 3: AdaGN"] = {**table2, "head_channels": head_channels[1]}
    grid["Table 3: addition then GroupNorm"] = {**grid["Table 3: AdaGN"], "norm": "add"}
    for name, switches in grid.items():
        yield Variant(name=name, request=RunRequest(arch="unet", size=size, settings=_args(**switches)))


MATCHED_REFERENCES: Mapping[Scale, tuple[str, ...]] = {
    "digits": ("unet:pico", "unet:nano", "unet:micro"),
    "shapes": ("unet:pico", "unet:nano", "unet:micro"),
    "paper": ("dit:B/2", "dit:L/2", "dit:XL/2"),
}
"""The networks whose multiply-accumulates the three families are brought to."""


def matched_variants(scale: Scale) -> Iterable[Variant]:
    for reference in MATCHED_REFERENCES[scale]:
        for arch in ("dit", "uvit", "unet"):
            yield Variant(name=f"{arch} at {reference}", request=RunRequest(arch=arch, match=f"macs:{reference}"))


def quickstart_variants(scale: Scale) -> Iterable[Variant]:
    for arch in ("dit", "uvit", "unet"):
        yield Variant(name=arch, request=RunRequest(arch=arch, match="macs:unet:nano"))


def _at(small: Settings, paper: Settings) -> Mapping[Scale, Settings]:
    return {"digits": small, "shapes": small, "paper": paper}


DIT_400K = {"budget.images": "102400000", "budget.points": "4", **UNGUIDED}
UVIT_50K = {
    **{"budget.images": "6400000", "budget.points": "5", "evaluation.samples": "10000", **UNGUIDED},
    **{"evaluation.sampler": "euler-sde", "evaluation.steps": "1000"},
}
ADM_700K = {"budget.images": "179200000", "budget.points": "4", **UNGUIDED}
SEEDS_BY_SCALE: Mapping[Scale, int] = {"digits": 3, "shapes": 3, "paper": 1}

SUITES: Mapping[str, Suite] = {
    "quickstart": Suite(
        about="DiT, U-ViT and the ADM U-Net on digits, at the U-Net's cost, by the shared recipe",
        cells=quickstart_variants,
        shared={"digits": {}},
        seeds={"digits": 1},
    ),
    "dit-conditioning": Suite(
        about="DiT's four conditionings (arXiv:2212.09748, Figure 5 and Table 4)",
        cells=conditioning_variants,
        shared=_at(TOY_BUDGET, DIT_400K),
        seeds=SEEDS_BY_SCALE,
    ),
    "dit-scaling": Suite(
        about="DiT by depth, width and patch (arXiv:2212.09748, Table 4, Figures 6 and 8)",
        cells=scaling_variants,
        shared=_at({**TOY_BUDGET, "budget.points": "3"}, DIT_400K),
        seeds=SEEDS_BY_SCALE,
    ),
    "uvit-ablation": Suite(
        about="U-ViT's five ablations, depth, width and patch (arXiv:2209.12152, Figure 2)",
        cells=uvit_variants,
        shared=_at(TOY_BUDGET, UVIT_50K),
        seeds=SEEDS_BY_SCALE,
    ),
    "unet-ablation": Suite(
        about="ADM's ablations (arXiv:2105.05233, Tables 1 to 3)",
        cells=unet_variants,
        shared=_at(TOY_BUDGET, ADM_700K),
        seeds=SEEDS_BY_SCALE,
    ),
    "matched": Suite(
        about="DiT, U-ViT and U-Net at three sizes of equal multiply-accumulates",
        cells=matched_variants,
        data="imagenet256-latents",
        shared=_at({**TOY_BUDGET, "budget.points": "3", "model.tolerance": "0.03"}, DIT_400K),
        seeds=SEEDS_BY_SCALE,
    ),
}


def suite_variants(name: str, scale: Scale) -> list[Variant]:
    """Return the variants of a suite; ValueError for a scale that it lacks."""
    suite = SUITES[name]
    if scale not in suite.shared:
        raise ValueError(f"--suite {name} has no scale {scale}; it has {' and '.join(suite.shared)}")
    return suite.at(scale)


def suite_requests(name: str, scale: Scale, base: RunRequest, seeds: int = 0) -> list[RunRequest]:
    """Return the requests of a suite, one seed after the other; settings of `base` win.  Raises as `suite_variants`."""
    variants = suite_variants(name, scale)
    requests: list[RunRequest] = []
    for seed in range(base.seed, base.seed + (seeds or SUITES[name].seeds[scale])):
        for request in (variant.request for variant in variants):
            settings = {**request.settings, **base.settings}
            track, match = base.track or request.track, base.match or request.match
            one = replace(request, seed=seed, track=track, match=match, settings=settings)
            if one not in requests:  # tables may share a row
                requests.append(one)
    return requests


@cache
def variant_keys(name: str, scale: Scale) -> Mapping[str, str]:
    """Cell -> key of the records that belong to it; ValueError for a scale that the suite has not."""
    return {
        variant.name: configuration_key(compose_config(variant.request).identity(), SEED + RESOLVED)
        for variant in suite_variants(name, scale)
    }
