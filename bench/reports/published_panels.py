"""Panels of published numbers: results/published/ as series, each point with its source.  Nothing is measured here.

"Gflops" are as the papers print them: multiply-accumulates of one image, in 1e9.  Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from bench.costs.flops import training_flops
from bench.papers.published_networks import read_networks
from bench.papers.published_results import PublishedValue, select_values
from bench.reports.figure_schema import Axis, Figure, Panel, Point, Series, fit_points

MACS_AXIS = Axis(name="network", unit="MACs of one image", log=True)
TRAINING_FLOPS_AXIS = Axis(name="training compute", unit="FLOPs", log=True)
SAMPLING_FLOPS_AXIS = Axis(name="sampling compute", unit="FLOPs of one image", log=True)
FID_50K_AXIS = Axis(name="FID-50K ↓", log=True)

DIT_BATCH_SIZE = 256
"""Batch size of every model in arXiv:2212.09748."""
DIT_SIZES = ("S", "B", "L", "XL")
DIT_PAPERS = ("DiT", "DiT (citing others)")
COMPARED_NETWORKS = {
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
"""Models of arXiv:2212.09748 Table 2 with a published cost -> id of the network."""


def printed_gflops() -> dict[str, float]:
    """Return the printed Gflops by network id."""
    return {row.id: float(row.gflops_printed) for row in read_networks() if row.gflops_printed}


def _printed_value(value: PublishedValue) -> float:
    return float(value.printed)


def _published_point(value: PublishedValue, x: float, label: str) -> Point:
    return Point(x=x, y=_printed_value(value), label=label, note=f"{value.source}; {value.verified}")


@cache
def dit_400k_panel() -> Panel:
    """FID against Gflops of the 12 DiTs at 400K steps: arXiv:2212.09748 Table 4, shown in its Figures 2, 6 and 8."""
    return _dit_panel("Published: DiT, ImageNet 256, 400K steps", MACS_AXIS, {"steps": "400000"}, frontier=False)


@cache
def dit_training_panel() -> Panel:
    """FID against training FLOPs, as arXiv:2212.09748 Figure 9: the 12 DiTs, and the longer runs of XL/2."""
    return _dit_panel("Published: DiT, ImageNet 256", TRAINING_FLOPS_AXIS, {}, frontier=True)


def _dit_panel(title: str, axis: Axis, columns: Mapping[str, str], *, frontier: bool) -> Panel:
    """Build a panel from the rows of Table 4 with these columns, one series per size; x in MACs or FLOPs."""
    gflops = printed_gflops()
    points = {size: list[Point]() for size in DIT_SIZES}
    for value in select_values("results", paper="DiT", table="Table 4", resolution="256", metric="FID", **columns):
        name = value.columns["model"].removeprefix("DiT-")
        size, _, patch = name.partition("/")
        macs, steps = gflops[f"dit_{size.lower()}_{patch}"] * 1e9, int(value.columns["steps"])
        x = macs if axis is MACS_AXIS else training_flops(macs, DIT_BATCH_SIZE * steps)
        longer = f" at {steps / 1e6:.2g}M steps" if steps != 400_000 else ""
        points[size].append(_published_point(value, x, name + longer))
    series = tuple(Series(name=f"DiT-{s}", points=tuple(p), origin="published") for s, p in points.items())
    return Panel(
        title=title,
        x=axis,
        y=FID_50K_AXIS,
        series=series,
        fits=(fit_points([p for s in series for p in s.points], frontier=frontier),),
        caption="50,000 images, 250 DDPM steps, no guidance; one seed each. arXiv:2212.09748 Table 4"
        + (", whose Figure 8 gives r = -0.93." if axis is MACS_AXIS else "."),
    )


def dit_sampling_panel() -> Panel:
    """FID against sampling FLOPs: the two points of arXiv:2212.09748 Figure 10 that its text prints.

    The paper's Tflops are multiply-accumulates, like its Gflops.
    """
    values: dict[str, dict[str, PublishedValue]] = {}
    for value in select_values("results", paper="DiT", table="Section 5.2 text"):
        values.setdefault(value.columns["model"], {})[value.metric] = value
    series = []
    for model, by_metric in values.items():
        fid = by_metric["FID-10K"]
        x = 2e12 * _printed_value(by_metric["sampling_Tflops_per_image"])
        point = _published_point(fid, x, fid.columns["sampler"].removeprefix("DDPM "))
        series.append(Series(name=model, points=(point,), origin="published"))
    return Panel(
        title="Published: DiT, ImageNet 256, 400K steps",
        x=SAMPLING_FLOPS_AXIS,
        y=Axis(name="FID-10K ↓", log=True),
        series=tuple(series),
        caption="10,000 images, no guidance. arXiv:2212.09748 Section 5.2 prints only these two points of Figure 10, "
        "at 80.7 and 15.2 T multiply-accumulates; FLOPs are twice that.",
    )


def dit_compared_figure() -> Figure:
    """DiT-XL/2 among the U-Nets of arXiv:2212.09748 Table 2 by printed Gflops, as its Figure 2, right."""
    gflops = printed_gflops()
    best: dict[tuple[str, str], PublishedValue] = {}
    for value in select_values(
        "results", paper=DIT_PAPERS, table="Table 2", model=tuple(COMPARED_NETWORKS), resolution="256", metric="FID"
    ):
        group = "no guidance" if value.columns["guidance"] == "none" else "guided"
        key = (group, value.columns["model"])
        best[key] = min(best.get(key, value), value, key=_printed_value)
    points: dict[str, list[Point]] = {"no guidance": [], "guided": []}
    for (group, model), value in best.items():
        points[group].append(_published_point(value, gflops[COMPARED_NETWORKS[model]] * 1e9, model))
    panels = tuple(
        Panel(
            title=f"Published: ImageNet 256, {group}",
            x=MACS_AXIS,
            y=FID_50K_AXIS,
            series=(Series(name=group, points=tuple(of_group), origin="published"),),
            caption="The networks were trained with different recipes and for different times. The best of several "
            "guidance scales is shown. arXiv:2212.09748 Table 2.",
        )
        for group, of_group in points.items()
    )
    return Figure(name="dit-compared", title="DiT among published U-Nets", panels=panels)


def ablation_panel(
    title: str, table: str, series: Mapping[str, Mapping[str, str]], caption: str, **columns: str
) -> Panel:
    """Build the dot plot of a table of ablations.csv: one row per variant, FID on the x axis.

    `series` maps a name to the columns that select its values.
    """
    values = {
        name: select_values("ablations", table=table, metric=("FID", "FID-50K"), **columns, **more)
        for name, more in series.items()
    }
    variants = tuple(dict.fromkeys(v.columns["variant"] for of_series in values.values() for v in of_series))
    dots = {
        name: tuple(
            Point(x=_printed_value(v), y=variants.index(v.columns["variant"]), note=v.source) for v in of_series
        )
        for name, of_series in values.items()
    }
    return Panel(
        title=title,
        x=Axis(name="FID ↓"),
        y=Axis(name="", categories=variants),
        series=tuple(Series(name=name, points=points, origin="published") for name, points in dots.items()),
        caption=caption,
    )


def conditioning_panels() -> Sequence[Panel]:
    """The four conditionings of DiT-XL/2 at 400K steps: arXiv:2212.09748 Table 4."""
    caption = "50,000 images, 250 DDPM steps, no guidance; one seed each. arXiv:2212.09748 Table 4."
    return [ablation_panel("Published: DiT-XL/2, ImageNet 256", "Figure 5 / Table 4", {"400K steps": {}}, caption)]


def adm_ablation_panels() -> Sequence[Panel]:
    """The ablations of ADM: arXiv:2105.05233 Tables 1 to 3.  Table 1 prints differences to its first row."""
    early = {"700K steps": {"steps": "700000"}}
    both = {**early, "1.2M steps": {"steps": "1200000"}}
    return [
        ablation_panel(
            f"Published: ADM, ImageNet 128, Table {n}",
            f"Table {n}",
            both if n == 1 else early,
            f"One seed each. arXiv:2105.05233 Table {n}.",
            paper="ADM",
        )
        for n in (1, 2, 3)
    ]
