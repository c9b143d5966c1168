"""Panels of what papers published: results/published/ as series, each with its source.  Nothing is measured here.

"Gflops" are as printed: multiply-accumulates of one image, in 1e9.  Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from bench.costs.flops import training_flops
from bench.papers.published_networks import read_networks
from bench.papers.published_results import PublishedValue, select_values
from bench.reports.figure_schema import Axis, Figure, Panel, Point, Series, fitted

MACS = Axis(name="network", unit="MACs of one image", log=True)
COMPUTE = Axis(name="training compute", unit="FLOPs", log=True)
SAMPLING = Axis(name="sampling compute", unit="FLOPs of one image", log=True)
FID_50K = Axis(name="FID-50K ↓", log=True)

BATCH = 256
"""Of every model in arXiv:2212.09748."""
DIT_SIZES = ("S", "B", "L", "XL")
OWN = ("DiT", "DiT (citing others)")
COMPARED = {
    "ADM": "adm_256",
    "ADM-U": "admu_256_total",
    "ADM-G": "adm_256",
    "ADM-G, ADM-U": "admu_256_total",
    "LDM-8": "ldm_8_cin256",
    "LDM-8-G": "ldm_8_cin256",
    "LDM-4": "ldm_4_cin256",
    "LDM-4-G": "ldm_4_cin256",
    "DiT-XL/2": "dit_xl_2",
}
"""Rows of arXiv:2212.09748 Table 2 with a published cost: the model's name there -> its network."""


def gmacs() -> dict[str, float]:
    """Printed Gflops by id of the network."""
    return {row.id: float(row.gflops_printed) for row in read_networks() if row.gflops_printed}


def _number(value: PublishedValue) -> float:
    return float(value.printed)


def _point(value: PublishedValue, x: float, label: str) -> Point:
    return Point(x=x, y=_number(value), label=label, note=f"{value.source}; {value.verified}")


@cache
def dit_400k() -> Panel:
    """arXiv:2212.09748 Table 4, the 12 models of Figures 2, 6 and 8: FID against Gflops at 400K steps."""
    return _dit("Published: DiT, ImageNet 256, 400K steps", MACS, {"steps": "400000"}, frontier=False)


@cache
def dit_training() -> Panel:
    """The same and the longer runs of XL/2 against training compute, as Figure 9: three forward passes an image."""
    return _dit("Published: DiT, ImageNet 256", COMPUTE, {}, frontier=True)


def _dit(title: str, axis: Axis, only: Mapping[str, str], *, frontier: bool) -> Panel:
    cost = gmacs()
    series = {size: list[Point]() for size in DIT_SIZES}
    for value in select_values("results", paper="DiT", table="Table 4", resolution="256", metric="FID", **only):
        name = value.columns["model"].removeprefix("DiT-")
        size, _, patch = name.partition("/")
        macs, steps = cost[f"dit_{size.lower()}_{patch}"] * 1e9, int(value.columns["steps"])
        x = macs if axis is MACS else training_flops(macs, BATCH * steps)
        longer = f" at {steps / 1e6:.2g}M steps" if steps != 400_000 else ""
        series[size].append(_point(value, x, name + longer))
    made = tuple(Series(name=f"DiT-{s}", points=tuple(p), kind="published") for s, p in series.items())
    every = [p for s in made for p in s.points]
    return Panel(
        title=title,
        x=axis,
        y=FID_50K,
        series=made,
        fits=(fitted(every, frontier=frontier),),
        caption="50,000 images, 250 DDPM steps, no guidance; one seed each. arXiv:2212.09748 Table 4"
        + (", of whose r Figure 8 says -0.93." if axis is MACS else "."),
    )


def dit_sampling() -> Panel:
    """The two points of arXiv:2212.09748 Figure 10 that are printed; its Tflops are multiply-accumulates too."""
    found: dict[str, dict[str, PublishedValue]] = {}
    for value in select_values("results", paper="DiT", table="Section 5.2 text"):
        found.setdefault(value.columns["model"], {})[value.metric] = value
    series = []
    for model, own in found.items():
        steps = own["FID-10K"].columns["sampler"].removeprefix("DDPM ")
        x = 2e12 * _number(own["sampling_Tflops_per_image"])
        series.append(Series(name=model, points=(_point(own["FID-10K"], x, steps),), kind="published"))
    return Panel(
        title="Published: DiT, ImageNet 256, 400K steps",
        x=SAMPLING,
        y=Axis(name="FID-10K ↓", log=True),
        series=tuple(series),
        caption="10,000 images, no guidance. arXiv:2212.09748 Section 5.2: of Figure 10's points only these two are "
        "printed, as 80.7 and 15.2 T multiply-accumulates; FLOPs are twice that.",
    )


def compared() -> Figure:
    """arXiv:2212.09748 Figure 2, right: DiT-XL/2 among the U-Nets of its Table 2, by their printed Gflops."""
    groups: dict[str, list[Point]] = {"no guidance": [], "guided": []}
    cost = gmacs()
    best: dict[tuple[str, str], PublishedValue] = {}
    own = select_values("results", paper=OWN, table="Table 2", model=tuple(COMPARED), resolution="256", metric="FID")
    for value in own:
        group = "no guidance" if value.columns["guidance"] == "none" else "guided"
        key = (group, value.columns["model"])
        best[key] = min(best.get(key, value), value, key=_number)
    for (group, model), value in best.items():
        groups[group].append(_point(value, cost[COMPARED[model]] * 1e9, model))
    panels = tuple(
        Panel(
            title=f"Published: ImageNet 256, {group}",
            x=MACS,
            y=FID_50K,
            series=(Series(name=group, points=tuple(points), kind="published"),),
            caption="Networks trained by different recipes and for different times; of several guidance scales the "
            "best. arXiv:2212.09748 Table 2.",
        )
        for group, points in groups.items()
    )
    return Figure(name="dit-compared", title="DiT among published U-Nets", panels=panels)


def dots(title: str, table: str, series: Mapping[str, Mapping[str, str]], caption: str, **only: str) -> Panel:
    """A panel of ablations.csv: variants downwards, FID across; `series` are names and what selects each."""
    values = {
        name: select_values("ablations", table=table, metric=("FID", "FID-50K"), **only, **own)
        for name, own in series.items()
    }
    names = tuple(dict.fromkeys(v.columns["variant"] for found in values.values() for v in found))
    made = []
    for name, found in values.items():
        points = [Point(x=_number(v), y=names.index(v.columns["variant"]), note=v.source) for v in found]
        made.append(Series(name=name, points=tuple(points), kind="published"))
    return Panel(
        title=title,
        x=Axis(name="FID ↓"),
        y=Axis(name="", categories=names),
        series=tuple(made),
        caption=caption,
    )


def conditionings() -> Sequence[Panel]:
    """arXiv:2212.09748 Table 4: the four conditionings of XL/2 at 400K steps."""
    caption = "50,000 images, 250 DDPM steps, no guidance; one seed each. arXiv:2212.09748 Table 4."
    return [dots("Published: DiT-XL/2, ImageNet 256", "Figure 5 / Table 4", {"400K steps": {}}, caption)]


def adm_ablations() -> Sequence[Panel]:
    """arXiv:2105.05233 Tables 1 to 3; Table 1 prints differences to its first row."""
    caption = "One seed each. arXiv:2105.05233 Table {}."
    early = {"700K steps": {"steps": "700000"}}
    both = {**early, "1.2M steps": {"steps": "1200000"}}
    return [
        dots(
            f"Published: ADM, ImageNet 128, Table {n}",
            f"Table {n}",
            both if n == 1 else early,
            caption.format(n),
            paper="ADM",
        )
        for n in (1, 2, 3)
    ]
