"""Build figures from records: one function and one entry in FIGURES per figure.  Draws nothing, imports no torch.

A panel holds runs of one setting, so all its FIDs come from one protocol; published numbers have panels of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from architectures.suggestions import did_you_mean
from bench.config.identity import MATCHED_COST, NETWORK, SAMPLING_STEPS, SEED, configuration_key
from bench.config.metric_specs import headline_metric
from bench.experiments import suites
from bench.records.equal_compute import training_flops_at
from bench.records.record import Record
from bench.reports import iso_flop, published_panels
from bench.reports.figure_schema import Axis, Figure, Panel, Point, Series, fit_points
from bench.reports.published_panels import MACS_AXIS, SAMPLING_FLOPS_AXIS, TRAINING_FLOPS_AXIS
from bench.reports.run_groups import (
    VariantRuns,
    describe_protocols,
    describe_seeds,
    fid_curve,
    final_fid,
    finished_models,
    group_by,
    group_by_family,
    group_by_shape,
    group_by_size,
    group_by_variant,
    group_matched_runs,
    group_suite_runs,
    matched_size,
    run_cost,
)
from bench.terminal.formatting import format_count

SCALES: Sequence[suites.Scale] = ("digits", "shapes", "paper")
TOY_CAVEAT = "Toy networks: their order need not hold at the papers' sizes."
REPEATED_RUN_NOTE = "A run contributes several correlated points, which makes bands and intervals too narrow."
LOSS_AXIS = Axis(name="training loss ↓", log=True)
IMAGES_AXIS = Axis(name="training images")
LOG_AXIS_RATIO = 5
"""Ratio of the largest to the smallest FID above which the axis of a dot plot is logarithmic."""
RESAMPLE_COMMAND = (
    "python -m bench.run --checkpoint results/runs/RUN/snapshots/FILE --data digits --set evaluation.steps=N"
)
"""Command that samples a finished run again with N steps, without training."""
BASE_VARIANTS = {"dit-conditioning": "adaLN-Zero", "uvit-ablation": "default"}
"""Suite -> the paper's default variant, drawn as a line through the dot plot."""


class FigureInput(NamedTuple):
    """Records, indexed for the functions that build figures."""

    models: Sequence[Record]
    runs_by_key: Mapping[str, Sequence[Record]]
    """Configuration key without the seed -> finished models."""
    floors: Mapping[str, tuple[tuple[str, float], ...]]
    """Evaluation fingerprint -> name and FID of held-out images, a lower bound in practice."""


def index_records(records: Iterable[Record]) -> FigureInput:
    """Select finished models and held-out references."""
    records = list(records)
    floors = {
        r.evaluation_fingerprint: ((r.label, final_fid(r)),)
        for r in records
        if r.kind == "reference" and r.label == "held-out" and headline_metric(r.metrics)
    }
    return FigureInput(models=finished_models(records), runs_by_key=group_by_variant(records), floors=floors)


def build_figures(records: Iterable[Record], names: Sequence[str] = ()) -> list[Figure]:
    """Build the named figures, or all of FIGURES; raises ValueError for an unknown name."""
    for name in names:
        if name not in FIGURES:
            raise ValueError(f"there is no figure {name}; {did_you_mean(name, FIGURES)}")
    data = index_records(records)
    return [FIGURES[name](data) for name in names or FIGURES]


def missing_commands(data: FigureInput, suite: str, scales: Sequence[suites.Scale]) -> str:
    """List the commands for the missing runs of a suite, with the number of variants that are measured."""
    lines = []
    for scale in scales:
        if scale in suites.SUITES[suite].shared:
            keys = set(suites.variant_keys(suite, scale).values())
            if absent := keys - set(data.runs_by_key):
                done = f"{len(keys) - len(absent)} of {len(keys)} variants measured"
                lines.append(f"python -m bench.run --suite {suite} --scale {scale}  # {done}")
    return "\n".join(lines)


def _measured_panel(
    data: FigureInput,
    variants: Sequence[VariantRuns],
    title: str,
    x: Axis,
    series: Sequence[Series],
    note: str = "",
    **fields: Any,
) -> Panel:
    """Build a panel of measured FIDs, with the FID of held-out images as a line and the protocol in its caption."""
    run = variants[0].runs[0]
    caveat = TOY_CAVEAT if run.data in ("digits", "shapes") else ""
    protocol = f"{describe_protocols(variants)}; {describe_seeds(variants)} per variant."
    return Panel(
        title=title,
        x=x,
        y=Axis(name=f"{headline_metric(run.metrics).replace('fid', 'FID')} ↓", log=True),
        series=tuple(series),
        levels=data.floors.get(run.evaluation_fingerprint, ()),
        caption=" ".join(filter(None, [protocol, note, caveat])),
        **fields,
    )


def dit_scaling_figure(data: FigureInput) -> Figure:
    """FID against MACs over depth, width and patch size, as arXiv:2212.09748 Figures 6 and 8."""
    panels = [published_panels.dit_400k_panel()]
    for scale in SCALES:
        for variants in group_suite_runs(data.runs_by_key, "dit-scaling", scale).values():
            series = [
                Series(
                    name=name,
                    points=tuple(v.mean_point(v.macs, label=v.name.removeprefix("DiT-")) for v in group),
                )
                for name, group in group_by_shape(variants).items()
            ]
            fit = fit_points([p for s in series for p in s.points])
            panels.append(_measured_panel(data, variants, f"Measured: DiT, {scale}", MACS_AXIS, series, fits=(fit,)))
    return Figure(
        name="dit-scaling",
        title="FID against a DiT's compute, by depth, width and patch size",
        panels=tuple(panels),
        missing=missing_commands(data, "dit-scaling", SCALES),
    )


def matched_macs_figure(data: FigureInput) -> Figure:
    """FID against MACs of the three families, at equal cost."""
    panels = []
    for scale in SCALES:
        for variants in group_matched_runs(data.models, data.runs_by_key, "matched", scale).values():
            series = [
                Series(name=name, points=tuple(v.mean_point(v.macs) for v in group), joined=True)
                for name, group in group_by_family(variants).items()
            ]
            fits = tuple(fit_points(s.points, s.name) for s in series)
            panels.append(_measured_panel(data, variants, f"Measured: {scale}", MACS_AXIS, series, fits=fits))
    return Figure(
        name="matched-macs",
        title="FID at equal compute: DiT, U-ViT and U-Net",
        panels=tuple(panels),
        missing=missing_commands(data, "matched", SCALES),
    )


def _curve_points(variant: VariantRuns) -> Iterator[tuple[int, Point]]:
    """Yield (training images, point) at each evaluation that all seeds share: x in training FLOPs, y the mean FID."""
    curves = [dict(fid_curve(r)) for r in variant.runs]
    shared = sorted(set.intersection(*map(set, curves)))
    for images in shared:
        final = images == shared[-1]
        x = training_flops_at(variant.runs[0], images)
        yield images, variant.mean_point(x, None if final else partial(_fid_after, images))


def _fid_after(images: int, r: Record) -> float:
    return dict(fid_curve(r))[images]


def training_compute_figure(data: FigureInput) -> Figure:
    """FID against training FLOPs of each network at each evaluation, with power laws on the Pareto frontier."""
    panels = [published_panels.dit_training_panel()]
    for scale in SCALES:
        for variants in group_matched_runs(data.models, data.runs_by_key, "matched", scale).values():
            series = _series_of_curves(group_by_family(variants))
            fits = tuple(fit_points(s.points, s.name, frontier=True) for s in series)
            title, axis = f"Measured: three families, {scale}", TRAINING_FLOPS_AXIS
            panels.append(_measured_panel(data, variants, title, axis, series, REPEATED_RUN_NOTE, fits=fits))
        for variants in group_suite_runs(data.runs_by_key, "dit-scaling", scale).values():
            series = _series_of_curves(group_by_shape(variants))
            fit = fit_points([p for s in series for p in s.points], frontier=True)
            title, axis = f"Measured: DiT, {scale}", TRAINING_FLOPS_AXIS
            panels.append(_measured_panel(data, variants, title, axis, series, REPEATED_RUN_NOTE, fits=(fit,)))
    commands = [missing_commands(data, suite, SCALES) for suite in ("matched", "dit-scaling")]
    return Figure(
        name="training-compute",
        title="FID against training compute",
        panels=tuple(panels),
        missing="\n".join(filter(None, commands)),
    )


def _series_of_curves(groups: Mapping[str, Sequence[VariantRuns]]) -> list[Series]:
    return [
        Series(name=name, points=tuple(p for v in group for _, p in _curve_points(v))) for name, group in groups.items()
    ]


def iso_flop_figure(data: FigureInput, scale: suites.Scale) -> Figure:
    """FID against MACs at equal training FLOPs, interpolated on the runs' curves; one panel per family."""
    matched = group_matched_runs(data.models, data.runs_by_key, "matched", scale).values()
    studies = [group_by_family(variants) for variants in matched]
    for variants in group_suite_runs(data.runs_by_key, "dit-scaling", scale).values():
        studies.append({"DiT by depth, width and patch size": sorted(variants, key=lambda v: v.macs)})
    panels = []
    for families in studies:
        levels = iso_flop.common_levels(families.values())
        for name, group in families.items():
            series = [
                Series(name=f"{format_count(level)}FLOPs", points=points, joined=True)
                for level in levels
                if len(points := tuple(iso_flop.points_at_compute(group, level))) > 1
            ]
            if series:
                panels.append(_measured_panel(data, group, f"Measured: {name}, {scale}", MACS_AXIS, series))
    return Figure(
        name=f"iso-flop-{scale}",
        title="FID against a network's compute at equal training compute",
        panels=tuple(panels),
        shared_ranges=True,
        missing=missing_commands(data, "matched", [scale]),
    )


def sampling_compute_figure(data: FigureInput) -> Figure:
    """FID against the FLOPs of sampling one image, as arXiv:2212.09748 Figure 10.

    A series joins runs that differ only in the number of sampling steps.
    """
    panels = [published_panels.dit_sampling_panel()]
    for runs in group_by(data.models, lambda r: _key_without_steps(r, *SEED, *NETWORK)).values():
        networks = [
            group for group in group_by(runs, lambda r: _key_without_steps(r, *SEED)).values() if _varies_steps(group)
        ]
        if not networks:
            continue
        series, shown = list[Series](), list[VariantRuns]()
        for group in sorted(networks, key=lambda group: run_cost(group[0]).macs):
            variants = _group_by_steps(group)
            name = f"{group[0].arch} of {format_count(run_cost(group[0]).macs)} MACs"
            name = group[0].label if any(s.name == name for s in series) else name
            series.append(Series(name=name, points=_sampling_points(variants), joined=True))
            shown += variants
        title = f"Measured: {runs[0].data}"
        panels.append(_measured_panel(data, shown, title, SAMPLING_FLOPS_AXIS, series))
    return Figure(
        name="sampling-compute",
        title="A network's compute against its sampling steps",
        panels=tuple(panels),
        missing="" if len(panels) > 1 else RESAMPLE_COMMAND,
    )


def _key_without_steps(r: Record, *ignored: str) -> str:
    """Return a key of protocol, network and seed, equal for runs that differ only in steps and matched cost."""
    run = {**r.protocol, "model": r.config["model"], "seed": r.config["seed"]}
    return configuration_key(run, (*SAMPLING_STEPS, *MATCHED_COST, *ignored))


def _varies_steps(runs: Sequence[Record]) -> bool:
    return len({r.steps for r in runs}) > 1


def _group_by_steps(runs: Sequence[Record]) -> list[VariantRuns]:
    """Group runs of one network by their sampling steps, fewest first; the name is the number of steps."""
    groups = group_by(runs, lambda r: str(r.steps))
    return [VariantRuns(name=steps, runs=tuple(groups[steps])) for steps in sorted(groups, key=int)]


def _sampling_points(variants: Sequence[VariantRuns]) -> tuple[Point, ...]:
    """Label points with their number of steps; the last label also has the word "steps"."""
    points = [v.mean_point(run_cost(v.runs[0]).sampling_flops_per_image, label=v.name) for v in variants]
    return (*points[:-1], replace(points[-1], label=f"{points[-1].label} steps"))


def convergence_figure(data: FigureInput, suite: str, scale: suites.Scale) -> Figure:
    """Loss and FID against training images; one column of panels per matched cost."""
    loss_panels, fid_panels = [], []
    for group in group_matched_runs(data.models, data.runs_by_key, suite, scale).values():
        for variants in group_by_size(group).values():
            cost = f"at {matched_size(variants[0].runs[0])}'s MACs"
            losses = tuple(s for v in variants if len((s := _mean_loss(v)).points) > 1)
            if losses:
                note = f"{describe_protocols(variants)}; mean over {describe_seeds(variants)}."
                panel = Panel(title=f"Loss {cost}", x=IMAGES_AXIS, y=LOSS_AXIS, series=losses, caption=note)
                loss_panels.append(panel)
            series = [
                Series(name=v.runs[0].label, points=tuple(replace(p, x=i) for i, p in _curve_points(v)), joined=True)
                for v in variants
            ]
            fid_panels.append(_measured_panel(data, variants, f"FID {cost}", IMAGES_AXIS, series))
    return Figure(
        name=f"convergence-{suite}-{scale}",
        title=f"Convergence, {suite} on {scale}",
        panels=(*loss_panels, *fid_panels),
        shared_ranges=True,
        missing=missing_commands(data, suite, [scale]),
    )


def _mean_loss(variant: VariantRuns) -> Series:
    """Average the loss over the seeds, interpolated linearly; the series is empty if a seed has no losses.

    Losses are logged at intervals of time, so the image counts differ between seeds.
    """
    curves = [np.array(r.losses).T for r in variant.runs if len(r.losses) > 1]
    if len(curves) < len(variant.runs):
        return Series(name=variant.runs[0].label, points=())
    start, end = max(images[0] for images, _ in curves), min(images[-1] for images, _ in curves)
    shared = np.linspace(start, end, min(len(images) for images, _ in curves))
    means = np.mean([np.interp(shared, *curve) for curve in curves], axis=0)
    records = tuple(r.id for r in variant.runs)
    points = [Point(x=float(x), y=float(y), records=records) for x, y in zip(shared, means, strict=True)]
    return Series(name=variant.runs[0].label, points=tuple(points), joined=True)


def ablation_figure(data: FigureInput, suite: str, published: Callable[[], Sequence[Panel]] | None = None) -> Figure:
    """Dot plots of the FID of each variant with its interval and seeds; ADM's ablations have one panel per table."""
    panels = list(published()) if published else []
    for scale in SCALES:
        for variants in group_suite_runs(data.runs_by_key, suite, scale).values():
            for table, group in group_by(variants, _table_of).items():
                title = f"Measured: {table or suite}, {scale}"
                panels.append(_dot_plot(data, group, title, table, BASE_VARIANTS.get(suite, "")))
    return Figure(
        name=suite,
        title=suites.SUITES[suite].about,
        panels=tuple(panels),
        missing=missing_commands(data, suite, SCALES),
    )


def _table_of(variant: VariantRuns) -> str:
    """Return the table in a variant's name: "Table 1" of "Table 1: depth 4"."""
    return variant.name.partition(": ")[0] if variant.name.startswith("Table ") else ""


def _dot_plot(data: FigureInput, variants: Sequence[VariantRuns], title: str, table: str, base: str) -> Panel:
    means = [v.mean_point(0) for v in variants]
    names = tuple(v.name.removeprefix(f"{table}: ") for v in variants)
    dots = [replace(p, x=p.y, y=i) for i, p in enumerate(means)]
    levels = tuple((base, p.x) for name, p in zip(names, dots, strict=True) if name == base)
    panel = _measured_panel(data, variants, title, MACS_AXIS, [Series(name="mean of the seeds", points=tuple(dots))])
    log = max(p.y for p in means) > LOG_AXIS_RATIO * min(p.y for p in means)
    return replace(panel, x=replace(panel.y, log=log), y=Axis(name="", categories=names), levels=levels)


FIGURES: Mapping[str, Callable[[FigureInput], Figure]] = {
    "dit-scaling": dit_scaling_figure,
    "dit-compared": lambda data: published_panels.dit_compared_figure(),
    "matched-macs": matched_macs_figure,
    "training-compute": training_compute_figure,
    **{f"iso-flop-{scale}": partial(iso_flop_figure, scale=scale) for scale in SCALES},
    "sampling-compute": sampling_compute_figure,
    "convergence-quickstart-digits": partial(convergence_figure, suite="quickstart", scale="digits"),
    **{f"convergence-matched-{scale}": partial(convergence_figure, suite="matched", scale=scale) for scale in SCALES},
    "dit-conditioning": partial(
        ablation_figure, suite="dit-conditioning", published=published_panels.conditioning_panels
    ),
    "uvit-ablation": partial(ablation_figure, suite="uvit-ablation"),
    "unet-ablation": partial(ablation_figure, suite="unet-ablation", published=published_panels.adm_ablation_panels),
}
"""Figure name -> the function that builds it, in the order of the page."""
