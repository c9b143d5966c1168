"""The figures' makers: from records to panels, one entry a figure.  Draws nothing, imports no torch.

A panel holds runs of one setting: their FIDs come from one protocol, and what is published has panels of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from architectures.registry import did_you_mean
from bench.config.identity import MATCHED_COST, NETWORK, SAMPLING_STEPS, SEED, configuration_key
from bench.config.metric_specs import headline_metric
from bench.experiments import suites
from bench.records.equal_compute import training_flops_at
from bench.records.record import Record
from bench.reports import published_panels
from bench.reports.figure_schema import Axis, Figure, Panel, Point, Series, engineering, fitted
from bench.reports.published_panels import COMPUTE, MACS, SAMPLING
from bench.reports.run_groups import (
    VariantRuns,
    by,
    by_family,
    by_key,
    by_shape,
    by_size,
    caption,
    cost,
    curve,
    fid,
    matched,
    models,
    of_suite,
    seeds,
    size,
)

SCALES: Sequence[suites.Scale] = ("digits", "shapes", "paper")
TOY = "Toy networks: what orders them here need not order networks of the papers' size."
LOSSES = Axis(name="training loss ↓", log=True)
IMAGES = Axis(name="training images")
LEVELS = tuple(m * 10.0**e for e in range(9, 27) for m in (1, 1.5, 2, 3, 5, 7))
"""Training FLOPs at which networks may be compared; those that most networks pass are shown."""
MOST_LEVELS = 4
APART = 1.6
"""Times that one of them is at least another, so that the lines can be told apart."""
WIDE = 5
"""Times that FIDs of a dot plot span before its axis is logarithmic."""


class Found(NamedTuple):
    """Records as the makers need them."""

    models: Sequence[Record]
    keys: Mapping[str, Sequence[Record]]
    floors: Mapping[str, tuple[tuple[str, float], ...]]
    """Evaluation fingerprint -> held-out images' FID, the least that can be hoped for."""


def found(records: Iterable[Record]) -> Found:
    every = list(records)
    floors = {
        r.evaluation_fingerprint: ((r.label, fid(r)),)
        for r in every
        if r.kind == "reference" and r.label == "held-out" and headline_metric(r.metrics)
    }
    return Found(models=models(every), keys=by_key(every), floors=floors)


def everything(records: Iterable[Record], names: Sequence[str] = ()) -> list[Figure]:
    """The figures of these names, or all; ValueError for a name that there is not."""
    for name in names:
        if name not in FIGURES:
            raise ValueError(f"there is no figure {name}; {did_you_mean(name, list(FIGURES))}")
    data = found(records)
    return [FIGURES[name](data) for name in names or FIGURES]


def _panel(
    data: Found,
    cells: Sequence[VariantRuns],
    title: str,
    x: Axis,
    series: Sequence[Series],
    note: str = "",
    **more: Any,
) -> Panel:
    """A panel of measured FIDs upwards, with the held-out level and the protocol in its caption."""
    one = cells[0].runs[0]
    toy = [TOY] if one.config["data"]["name"] in ("digits", "shapes") else []
    return Panel(
        title=title,
        x=x,
        y=Axis(name=f"{headline_metric(one.metrics).replace('fid', 'FID')} ↓", log=True),
        series=tuple(series),
        levels=data.floors.get(one.evaluation_fingerprint, ()),
        caption=" ".join([f"{caption(cells)}; {seeds(cells)} a cell.", note, *toy]).replace("  ", " "),
        **more,
    )


def missing(data: Found, suite: str, scales: Sequence[suites.Scale]) -> str:
    """The commands for what is not measured yet, with how much is."""
    lines = []
    for scale in scales:
        if scale in suites.SUITES[suite].shared:
            keys = set(suites.variant_keys(suite, scale).values())
            if there := keys - set(data.keys):
                done = f"{len(keys) - len(there)} of {len(keys)} cells measured"
                lines.append(f"python -m bench.run --suite {suite} --scale {scale}  # {done}")
    return "\n".join(lines)


def dit_scaling(data: Found) -> Figure:
    """FID against MACs over depth, width and patch, as arXiv:2212.09748 Figures 6 and 8."""
    panels = [published_panels.dit_400k()]
    for scale in SCALES:
        for cells in of_suite(data.keys, "dit-scaling", scale).values():
            series = [
                Series(name=name, points=tuple(c.point(c.macs, label=c.name.removeprefix("DiT-")) for c in group))
                for name, group in by_shape(cells).items()
            ]
            fit = fitted([p for s in series for p in s.points])
            panels.append(_panel(data, cells, f"Measured: DiT, {scale}", MACS, series, fits=(fit,)))
    return Figure(
        name="dit-scaling",
        title="FID against a DiT's compute, by depth, width and patch",
        panels=tuple(panels),
        missing=missing(data, "dit-scaling", SCALES),
    )


def matched_macs(data: Found) -> Figure:
    """FID against MACs of the families whose costs were made equal."""
    panels = []
    for scale in SCALES:
        for cells in matched(data.models, data.keys, "matched", scale).values():
            series = [
                Series(name=name, points=tuple(c.point(c.macs) for c in group), joined=True)
                for name, group in by_family(cells).items()
            ]
            fits = tuple(fitted(s.points, s.name) for s in series)
            panels.append(_panel(data, cells, f"Measured: {scale}", MACS, series, fits=fits))
    return Figure(
        name="matched-macs",
        title="FID at equal compute: DiT, U-ViT and U-Net",
        panels=tuple(panels),
        missing=missing(data, "matched", SCALES),
    )


def _along(cell: VariantRuns) -> Iterator[tuple[int, Point]]:
    """A cell's mean FID at each evaluation point that all of its seeds have; x is in training FLOPs."""
    curves = [dict(curve(r)) for r in cell.runs]
    shared = sorted(set.intersection(*map(set, curves)))
    for images in shared:
        final = images == shared[-1]
        x = training_flops_at(cell.runs[0], images)
        yield images, cell.point(x, None if final else partial(_fid_at, images))


def _fid_at(images: int, r: Record) -> float:
    return dict(curve(r))[images]


POINTS_OF_A_RUN = "Several points are of one run, which makes bands and intervals too narrow."


def training_compute(data: Found) -> Figure:
    """FID against training FLOPs, every network at every evaluation point; laws through the best at their cost."""
    panels = [published_panels.dit_training()]
    for scale in SCALES:
        for cells in matched(data.models, data.keys, "matched", scale).values():
            series = [
                Series(name=name, points=tuple(p for c in group for _, p in _along(c)))
                for name, group in by_family(cells).items()
            ]
            fits = tuple(fitted(s.points, s.name, frontier=True) for s in series)
            title = f"Measured: three families, {scale}"
            panels.append(_panel(data, cells, title, COMPUTE, series, POINTS_OF_A_RUN, fits=fits))
        for cells in of_suite(data.keys, "dit-scaling", scale).values():
            series = [
                Series(name=name, points=tuple(p for c in group for _, p in _along(c)))
                for name, group in by_shape(cells).items()
            ]
            fit = fitted([p for s in series for p in s.points], frontier=True)
            panels.append(_panel(data, cells, f"Measured: DiT, {scale}", COMPUTE, series, POINTS_OF_A_RUN, fits=(fit,)))
    commands = [missing(data, suite, SCALES) for suite in ("matched", "dit-scaling")]
    return Figure(
        name="training-compute",
        title="FID against training compute",
        panels=tuple(panels),
        missing="\n".join(filter(None, commands)),
    )


def iso_flop(data: Found, scale: suites.Scale) -> Figure:
    """FID against a network's MACs at equal training FLOPs, read off the runs' curves; a panel a family."""
    panels = []
    studies = [by_family(cells) for cells in matched(data.models, data.keys, "matched", scale).values()]
    dits = of_suite(data.keys, "dit-scaling", scale).values()
    studies += [{"DiT by depth, width and patch": sorted(cells, key=lambda c: c.macs)} for cells in dits]
    for families in studies:
        levels = _levels(families.values())
        for name, group in families.items():
            series = [
                Series(name=f"{engineering(level)}FLOPs", points=points, joined=True)
                for level in levels
                if len(points := tuple(_at_compute(group, level))) > 1
            ]
            if series:
                panels.append(_panel(data, group, f"Measured: {name}, {scale}", MACS, series))
    return Figure(
        name=f"iso-flop-{scale}",
        title="FID against a network's compute at equal training compute",
        panels=tuple(panels),
        alike=True,
        missing=missing(data, "matched", [scale]),
    )


def _levels(families: Iterable[Sequence[VariantRuns]]) -> list[float]:
    """Up to MOST_LEVELS of the LEVELS, those that most networks pass, APART from each other."""
    groups = list(families)
    counts = {level: max((len(list(_at_compute(g, level))) for g in groups), default=0) for level in LEVELS}
    chosen: list[float] = []
    for level in sorted((one for one, count in counts.items() if count > 1), key=lambda one: -counts[one]):
        if all(max(level, other) / min(level, other) > APART for other in chosen):
            chosen.append(level)
    return sorted(chosen[:MOST_LEVELS])


def _at_compute(cells: Sequence[VariantRuns], level: float) -> Iterator[Point]:
    """Each cell's FID at so many training FLOPs, between evaluation points straight in both logarithms."""
    for c in cells:
        if all(_passes(r, level) for r in c.runs):
            yield c.point(c.macs, partial(_between, level))


def _passes(r: Record, level: float) -> bool:
    compute = [training_flops_at(r, images) for images, _ in curve(r)]
    return bool(compute) and compute[0] <= level <= compute[-1]


def _between(level: float, r: Record) -> float:
    images, values = zip(*curve(r), strict=True)
    compute = [training_flops_at(r, i) for i in images]
    return float(np.exp(np.interp(np.log(level), np.log(compute), np.log(values))))


RESAMPLE = "python -m bench.run --checkpoint results/runs/RUN/snapshots/FILE --data digits --set evaluation.steps=N"
"""Samples a finished run again, for each number of steps; trains nothing."""


def sampling_compute(data: Found) -> Figure:
    """FID against the FLOPs of sampling one image, as arXiv:2212.09748 Figure 10: runs that differ in steps alone."""
    panels = [published_panels.dit_sampling()]
    for runs in by(data.models, lambda r: _key_without_steps(r, *SEED, *NETWORK)).values():
        networks = {k: v for k, v in by(runs, lambda r: _key_without_steps(r, *SEED)).items() if len(_steps(v)) > 1}
        if not networks:
            continue
        series, cells = list[Series](), list[VariantRuns]()
        for group in sorted(networks.values(), key=lambda group: cost(group[0]).macs):
            own = [
                VariantRuns(name=steps, runs=tuple(same))
                for steps, same in by(group, lambda r: f"{r.config['evaluation']['steps']:05d}").items()
            ]
            own.sort(key=lambda c: c.name)
            points = [c.point(cost(c.runs[0]).sampling_flops_per_image, label=f"{int(c.name)}") for c in own]
            points[-1] = replace(points[-1], label=f"{points[-1].label} steps")
            name = f"{group[0].config['model']['arch']} of {engineering(cost(group[0]).macs)} MACs"
            twice = any(s.name == name for s in series)
            name = group[0].label if twice else name
            series.append(Series(name=name, points=tuple(points), joined=True))
            cells += own
        title = f"Measured: {runs[0].protocol['evaluation']['data']}"
        panels.append(_panel(data, cells, title, SAMPLING, series))
    return Figure(
        name="sampling-compute",
        title="A network's compute against its sampling steps",
        panels=tuple(panels),
        missing="" if len(panels) > 1 else RESAMPLE,
    )


def _steps(runs: Sequence[Record]) -> set[int]:
    return {r.config["evaluation"]["steps"] for r in runs}


def _key_without_steps(r: Record, *ignored: str) -> str:
    """Key of a run's protocol, network and seed: equal for runs that differ only in steps and matched cost."""
    run = {**r.protocol, "model": r.config["model"], "seed": r.config["seed"]}
    return configuration_key(run, (*SAMPLING_STEPS, *MATCHED_COST, *ignored))


def convergence(data: Found, suite: str, scale: suites.Scale) -> Figure:
    """Loss and FID against training images, a column of panels for each cost that was made equal."""
    losses, fids = [], []
    for group in matched(data.models, data.keys, suite, scale).values():
        for cells in by_size(group).values():
            what = f"at {size(cells[0].runs[0])}'s MACs"
            if drawn := [s for c in cells if len((s := _losses(c)).points) > 1]:
                note = f"{caption(cells)}; mean over {seeds(cells)}."
                losses.append(Panel(title=f"Loss {what}", x=IMAGES, y=LOSSES, series=tuple(drawn), caption=note))
            series = [
                Series(name=c.runs[0].label, points=tuple(replace(p, x=i) for i, p in _along(c)), joined=True)
                for c in cells
            ]
            fids.append(_panel(data, cells, f"FID {what}", IMAGES, series))
    return Figure(
        name=f"convergence-{suite}-{scale}",
        title=f"Convergence, {suite} on {scale}",
        panels=(*losses, *fids),
        alike=True,
        missing=missing(data, suite, [scale]),
    )


def _losses(cell: VariantRuns) -> Series:
    """The mean loss over the seeds, straight between what each logged; no points where one logged nothing.

    When a run logs depends on the clock, so seeds have their own images.
    """
    own = [np.array(r.losses).T for r in cell.runs if len(r.losses) > 1]
    if len(own) < len(cell.runs):
        return Series(name=cell.runs[0].label, points=())
    shared = np.linspace(max(o[0][0] for o in own), min(o[0][-1] for o in own), min(len(o[0]) for o in own))
    means = np.mean([np.interp(shared, *o) for o in own], axis=0)
    records = tuple(r.id for r in cell.runs)
    points = [Point(x=float(x), y=float(y), records=records) for x, y in zip(shared, means, strict=True)]
    return Series(name=cell.runs[0].label, points=tuple(points), joined=True)


BASES = {"dit-conditioning": "adaLN-Zero", "uvit-ablation": "default"}
"""The variant that the paper departs from, drawn as a line through its dot plot."""


def dots(data: Found, suite: str, published: Callable[[], Sequence[Panel]] | None = None) -> Figure:
    """Each variant's FID with its interval and seeds; a part of the names before ": " is a panel for ADM's tables."""
    panels = list(published()) if published else []
    for scale in SCALES:
        for cells in of_suite(data.keys, suite, scale).values():
            for part, group in by(cells, _part).items():
                panels.append(_dots(data, group, f"Measured: {part or suite}, {scale}", part, BASES.get(suite, "")))
    return Figure(
        name=suite,
        title=suites.SUITES[suite].about,
        panels=tuple(panels),
        missing=missing(data, suite, SCALES),
    )


def _part(cell: VariantRuns) -> str:
    return cell.name.partition(": ")[0] if cell.name.startswith("Table ") else ""


def _dots(data: Found, cells: Sequence[VariantRuns], title: str, part: str, base: str) -> Panel:
    points = [c.point(0) for c in cells]
    names = tuple(c.name.removeprefix(f"{part}: ") for c in cells)
    across = [replace(p, x=p.y, y=i) for i, p in enumerate(points)]
    levels = tuple((base, p.x) for name, p in zip(names, across, strict=True) if name == base)
    made = _panel(data, cells, title, MACS, [Series(name="mean of the seeds", points=tuple(across))])
    axis = replace(made.y, log=max(p.y for p in points) > WIDE * min(p.y for p in points))
    return replace(made, x=axis, y=Axis(name="", categories=names), levels=levels)


FIGURES: Mapping[str, Callable[[Found], Figure]] = {
    "dit-scaling": dit_scaling,
    "dit-compared": lambda data: published_panels.compared(),
    "matched-macs": matched_macs,
    "training-compute": training_compute,
    **{f"iso-flop-{scale}": partial(iso_flop, scale=scale) for scale in SCALES},
    "sampling-compute": sampling_compute,
    "convergence-quickstart-digits": partial(convergence, suite="quickstart", scale="digits"),
    **{f"convergence-matched-{scale}": partial(convergence, suite="matched", scale=scale) for scale in SCALES},
    "dit-conditioning": partial(dots, suite="dit-conditioning", published=published_panels.conditionings),
    "uvit-ablation": partial(dots, suite="uvit-ablation"),
    "unet-ablation": partial(dots, suite="unet-ablation", published=published_panels.adm_ablations),
}
"""Every figure, in the order of the page."""
