"""Published networks: their cost according to papers and official code, and their definitions here.

The numbers are in results/published/models.csv; the README there explains the columns.  Nothing in it was measured by
this project.  Imports no torch.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from architectures import registry
from architectures.interface import IOSpec
from architectures.official_ctor import PUBLISHED, translate
from bench.storage.paths import data_file

CLASSIFIER = "classifier"
"""Name of ADM's noisy classifier, which is not a denoiser and therefore not in the registry."""
PUBLISHED_FOLDER = data_file("results/published")
COUNTS_FILE = data_file("results/counts.csv")
"""Exact counts of the same networks as architectures/ defines them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkDefinition:
    """The arguments that build a published network here."""

    arch: str
    size: str = ""
    io: IOSpec
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedNetwork:
    """A published network; unpublished numbers are None."""

    id: str
    paper: str
    model: str
    resolution: str
    params_printed: str
    """Millions, as printed: the digits show the precision."""
    gflops_printed: str
    """The papers' "Gflops", multiply-accumulates in 1e9, as printed."""
    params_official: int | None
    """Trainable parameters of the official definition."""
    gmacs_official: float | None
    """Multiply-accumulates of the official definition, in 1e9, one image."""
    source: str
    columns: Mapping[str, str]
    """The row of the file, unchanged."""


def read_networks(folder: Path = PUBLISHED_FOLDER) -> list[PublishedNetwork]:
    """Read all published networks, in the file's order."""
    with (folder / "models.csv").open(newline="") as f:
        return [_parse_network(line) for line in csv.DictReader(f)]


def _parse_network(line: Mapping[str, str]) -> PublishedNetwork:
    return PublishedNetwork(
        id=line["model_id"],
        paper=line["paper"],
        model=line["model"],
        resolution=line["resolution"],
        params_printed=line["param_m"],
        gflops_printed=line["gflops"],
        params_official=int(line["param_exact"]) if line["param_exact"] else None,
        gmacs_official=float(line["gmacs_recomputed"]) if line["gmacs_recomputed"] else None,
        source=line["source"],
        columns=dict(line),
    )


def select_networks(**columns: str | tuple[str, ...]) -> list[PublishedNetwork]:
    """Select the published networks whose columns have these texts; a tuple accepts any of its texts."""
    accepted = {name: (value,) if isinstance(value, str) else value for name, value in columns.items()}
    return [row for row in read_networks() if all(row.columns[name] in texts for name, texts in accepted.items())]


def matches_printed(value: float, printed: str, row: PublishedNetwork) -> bool:
    """Return whether a count agrees with the printed number, within half of its last digit or 0.1 %.

    DiT's Gflops include elementwise operations, so 0.02 G are allowed, and 0.1 G at 512 pixels.
    """
    decimals = len(printed.partition(".")[2])
    allowed = max(0.5 * 10**-decimals, 1e-3 * float(printed))
    if row.paper == "DiT" and printed == row.gflops_printed:
        allowed = 0.1 if row.resolution == "512" else 0.02
    return abs(value - float(printed)) <= allowed + 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkCounts:
    """Cost of a published network, counted here."""

    params: int
    macs: int


@cache
def read_counts(path: Path = COUNTS_FILE) -> dict[str, NetworkCounts]:
    """Read the file of `python -m bench.cost --write`: network -> counts; networks that cannot be built are absent."""
    with path.open(newline="") as f:
        return {
            line["model_id"]: NetworkCounts(params=int(line["params"]), macs=int(line["macs"]))
            for line in csv.DictReader(f)
        }


def counted_value(row_id: str, column: str) -> float | None:
    """Return our value of a column of models.csv, in its units; None for a network that cannot be built.

    Parameters and multiply-accumulates are counted; DiT's depth, width and heads come from the registry.
    """
    if column in ("param_m", "gflops"):
        if (counts := read_counts().get(row_id)) is None:
            return None
        return counts.params / 1e6 if column == "param_m" else counts.macs / 1e9
    network = NETWORKS[row_id]
    return float(registry.size_args(network.arch, network.size)[{"hidden": "width"}.get(column, column)])


def _io(channels: int, size: int, classes: int = 0, *, null: bool = False, **more: Any) -> IOSpec:
    return IOSpec(channels=channels, size=size, num_classes=classes, null_label=null, **more)


def _dit() -> dict[str, NetworkDefinition]:
    """arXiv:2212.09748, Tables 1 and 4: noise and variance of four latent channels."""
    learned: dict[str, Any] = dict(null=True, variance="learned_range")
    small, large = _io(4, 32, 1000, **learned), _io(4, 64, 1000, **learned)
    networks = {
        f"dit_{name.lower()}_{patch}": NetworkDefinition(arch="dit", size=f"{name}/{patch}", io=small)
        for name in ("S", "B", "L", "XL")
        for patch in (8, 4, 2)
    }
    networks["dit_xl_2_512"] = NetworkDefinition(arch="dit", size="XL/2", io=large)
    for short, conditioning in (("incontext", "in_context"), ("crossattn", "cross_attention"), ("adaln", "adaln")):
        networks[f"dit_xl_2_{short}"] = NetworkDefinition(
            arch="dit", size="XL/2", io=small, args={"conditioning": conditioning}
        )
    return networks


def _uvit() -> dict[str, NetworkDefinition]:
    """arXiv:2209.12152, Table 1 and the official configurations."""
    coco = _io(4, 32, text_dim=768, text_tokens=77)
    table = {
        "s_2_cifar10": ("S/2", _io(3, 32)),
        "s_4_celeba64": ("S/4", _io(3, 64)),
        "m_4_in64": ("M/4", _io(3, 64, 1000)),
        "l_4_in64": ("L/4", _io(3, 64, 1000)),
        "l_2_in256": ("L/2", _io(4, 32, 1000, null=True)),
        "h_2_in256": ("H/2", _io(4, 32, 1000, null=True)),
        "l_4_in512": ("L/4", _io(4, 64, 1000, null=True)),
        "h_4_in512": ("H/4", _io(4, 64, 1000, null=True)),
        "s_2_coco": ("S/2", coco),
        "s_2_deep_coco": ("S-deep/2", coco),
    }
    return {f"uvit_{name}": NetworkDefinition(arch="uvit", size=size, io=io) for name, (size, io) in table.items()}


def _adm() -> dict[str, NetworkDefinition]:
    """arXiv:2105.05233, Tables 11 to 13, and the flags of the official repository."""
    networks = {
        f"adm_{size}": NetworkDefinition(
            arch="unet", size=f"ADM-{size}", io=_io(3, size, 1000, variance="learned_range")
        )
        for size in (64, 128, 256, 512)
    }
    free = NetworkDefinition(arch="unet", size="ADM-256", io=_io(3, 256, variance="learned_range"))
    networks |= {"adm_256_uncond": free, "adm_lsun256": free}
    for id_, name in (("admu_64_256", "64 to 256"), ("admu_128_512", "128 to 512")):
        arch, io, args = translate("adm", PUBLISHED["adm"][name])
        networks[id_] = NetworkDefinition(arch=arch, io=io, args=args)
    return networks | {
        f"adm_cls_{size}": NetworkDefinition(arch=CLASSIFIER, io=_io(3, size)) for size in (64, 128, 256, 512)
    }


def _ddpm() -> dict[str, NetworkDefinition]:
    """arXiv:2006.11239, Appendix B, and arXiv:2102.09672 with the flags of its repository."""
    learned: dict[str, Any] = dict(variance="learned_range")
    return {
        "ddpm_cifar10": NetworkDefinition(arch="unet", size="DDPM-32", io=_io(3, 32)),
        "iddpm_in64_large": NetworkDefinition(arch="unet", size="iDDPM-64-L", io=_io(3, 64, 1000, **learned)),
        "iddpm_in64_small": NetworkDefinition(arch="unet", size="iDDPM-64", io=_io(3, 64, **learned)),
        "iddpm_cifar10": NetworkDefinition(arch="unet", size="iDDPM-32", io=_io(3, 32, **learned)),
    }


def _ldm() -> dict[str, NetworkDefinition]:
    """arXiv:2112.10752, Tables 12 to 15: ImageNet attends to a class token, CelebA-HQ is unconditional."""
    shapes = {1: (3, 256), 2: (2, 128), 4: (3, 64), 8: (4, 32), 16: (8, 16), 32: (32, 8)}
    mults = {1: (1, 1, 2, 2, 4, 4), 2: (1, 2, 2, 4, 4), 4: (1, 2, 3, 5)}
    networks = {
        "ldm_4_cin256": NetworkDefinition(arch="unet", size="LDM-4", io=_io(3, 64, text_dim=512)),
        "ldm_8_cin256": NetworkDefinition(arch="unet", size="LDM-8", io=_io(4, 32, text_dim=512)),
    }
    for factor, (channels, size) in shapes.items():
        attention = tuple(min(32, size) >> level for level in range(3))
        mult = mults.get(factor, (1, 2, 4))
        width = 192 if factor < 8 else 256
        shared: dict[str, Any] = dict(res_blocks=2, attention=attention, norm="add", resample="conv")
        shared |= dict(channel_mult=mult, channels=width)
        networks[f"ldm_{factor}_analysis"] = NetworkDefinition(
            arch="unet",
            io=_io(channels, size, text_dim=512),
            args=dict(shared, attention_kind="transformer", heads=1, head_channels=None),
        )
        alone = dict(shared, head_channels=32)
        if factor == 4:
            alone |= dict(channels=224, channel_mult=(1, 2, 3, 4))
        networks[f"ldm_{factor}_celeba"] = NetworkDefinition(arch="unet", io=_io(channels, size), args=alone)
    return networks


def _genvit() -> dict[str, NetworkDefinition]:
    """arXiv:2208.07791 and the official configurations, with the classifier's head."""
    table = {
        "cifar10": ("384/4", 32, 10),
        "celeba": ("384/8", 128, 10),
        "tinyimg": ("384/8", 64, 200),
        "img128": ("512/8", 128, 10),
        "img224": ("1024/14", 224, 10),
    }
    return {
        f"genvit_{name}": NetworkDefinition(arch="genvit", size=size, io=_io(3, pixels), args={"classifier": classes})
        for name, (size, pixels, classes) in table.items()
    }


NETWORKS: Mapping[str, NetworkDefinition] = {**_dit(), **_uvit(), **_adm(), **_ldm(), **_genvit(), **_ddpm()}
"""Network -> its definition here."""

CASCADES: Mapping[str, tuple[str, ...]] = {
    "admu_256_total": ("adm_64", "admu_64_256"),
    "admu_512_total": ("adm_128", "admu_128_512"),
}
"""Cascade -> the networks whose costs are added."""

NOT_PUBLISHED: Mapping[str, str] = {
    "uvit_unet_appE": "its channels and depth are not published",
    "uvit_unet_coco": "its channels and depth are not published",
    "gentron_xl_2": "its text projections are not published",
    "gentron_g_2": "its text projections are not published",
}
"""Network -> the reason why it cannot be built."""
