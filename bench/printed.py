"""Panels of what papers published: results/published/ as series, each with its source.  Nothing is measured here.

"Gflops" are as printed: multiply-accumulates of one image, in 1e9.  Imports no torch.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .published import FOLDER, models
from .series import Axis, Figure, Panel, Point, Series, fitted

MACS = Axis(name="network", unit="MACs of one image", log=True)
COMPUTE = Axis(name="training compute", unit="FLOPs", log=True)
SAMPLING = Axis(name="sampling compute", unit="FLOPs of one image", log=True)
FID_50K = Axis(name="FID-50K ↓", log=True)

BATCH = 256
"""Of every model in arXiv:2212.09748."""
DIT_SIZES = ("S", "B", "L", "XL")
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


def rows(name: str, folder: Path = FOLDER, **where: str) -> Iterator[dict[str, str]]:
    """The lines of a file of results/published/ whose columns hold these words exactly."""
    with (folder / name).open(newline="") as f:
        for line in csv.DictReader(f):
            if all(line[column] == word for column, word in where.items()):
                yield line


def gmacs() -> dict[str, float]:
    """Printed Gflops by id of the network."""
    return {row.id: float(row.gflops_printed) for row in models() if row.gflops_printed}


def _point(line: Mapping[str, str], x: float, label: str) -> Point:
    return Point(x=x, y=float(line["value"]), label=label, note=f"{line['source']}; {line['verified']}")


def dit_400k() -> Panel:
    """arXiv:2212.09748 Table 4, the 12 models of Figures 2, 6 and 8: FID against Gflops at 400K steps."""
    return _dit("Published: DiT, ImageNet 256, 400K steps", MACS, {"steps": "400000"}, frontier=False)


def dit_training() -> Panel:
    """The same and the longer runs of XL/2 against training compute, as Figure 9: three forward passes an image."""
    return _dit("Published: DiT, ImageNet 256", COMPUTE, {}, frontier=True)


def _dit(title: str, axis: Axis, where: Mapping[str, str], *, frontier: bool) -> Panel:
    cost = gmacs()
    series = {size: list[Point]() for size in DIT_SIZES}
    for line in rows("results.csv", paper="DiT", table="Table 4", resolution="256", metric="FID", **where):
        name = line["model"].removeprefix("DiT-")
        size, _, patch = name.partition("/")
        macs, steps = cost[f"dit_{size.lower()}_{patch}"] * 1e9, int(line["steps"])
        x = macs if axis is MACS else 6 * macs * BATCH * steps
        longer = f" at {steps / 1e6:.2g}M steps" if steps != 400_000 else ""
        series[size].append(_point(line, x, name + longer))
    made = tuple(Series(name=f"DiT-{s}", points=tuple(p), kind="published") for s, p in series.items())
    every = [p for s in made for p in s.points]
    return Panel(
        title=title,
        x=axis,
        y=FID_50K,
        series=made,
        fits=(fitted(every, frontier=frontier),),
        caption="50,000 images, 250 DDPM steps, no guidance; one seed each. arXiv:2212.09748 Table 4.",
    )


def dit_sampling() -> Panel:
    """The two points of arXiv:2212.09748 Figure 10 that are printed; its Tflops are multiply-accumulates too."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for line in rows("results.csv", paper="DiT", table="Section 5.2 text"):
        found.setdefault(line["model"], {})[line["metric"]] = line
    series = []
    for model, lines in found.items():
        steps = lines["FID-10K"]["sampler"].removeprefix("DDPM ")
        x = 2e12 * float(lines["sampling_Tflops_per_image"]["value"])
        series.append(Series(name=model, points=(_point(lines["FID-10K"], x, steps),), kind="published"))
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
    best: dict[tuple[str, str], dict[str, str]] = {}
    for line in rows("results.csv", table="Table 2", resolution="256", metric="FID"):
        if line["model"] in COMPARED and line["paper"].startswith("DiT"):
            group = "no guidance" if line["guidance"] == "none" else "guided"
            key = (group, line["model"])
            best[key] = min(best.get(key, line), line, key=lambda one: float(one["value"]))
    for (group, model), line in best.items():
        groups[group].append(_point(line, cost[COMPARED[model]] * 1e9, model))
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


def dots(title: str, table: str, series: Mapping[str, Mapping[str, str]], caption: str, **where: str) -> Panel:
    """A panel of ablations.csv: variants downwards, FID across; `series` are names and what selects each."""
    lines = {name: list(rows("ablations.csv", table=table, **where, **own)) for name, own in series.items()}
    names = tuple(dict.fromkeys(line["variant"] for found in lines.values() for line in found))
    made = []
    for name, found in lines.items():
        points = [Point(x=float(v["value"]), y=names.index(v["variant"]), note=v["source"]) for v in found]
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
        dots(f"Published: ADM, ImageNet 128, Table {n}", f"Table {n}", both if n == 1 else early, caption.format(n), paper="ADM")
        for n in (1, 2, 3)
    ]
