"""Test figures built from records: comparable runs per panel, means, intervals, fits and interpolation."""

import dataclasses
import math

import pytest
import studies
from figure_study import ALL_RECORDS, MATCHED, SCALING, all_figures

from bench.experiments import suites
from bench.records.protocol import fingerprint
from bench.records.record import record_id
from bench.reports import figure_definitions
from bench.reports.published_panels import dit_400k_panel, dit_training_panel


def build_figure(name, records):
    (figure,) = figure_definitions.build_figures(records, [name])
    return figure


def measured_panels(figure):
    return [p for p in figure.panels if p.series[0].origin == "measured"]


def test_published_dits_correlate_as_the_paper_says():
    (fit,) = dit_400k_panel().fits
    assert round(fit.r, 2) == -0.93
    assert sum(len(s.points) for s in dit_400k_panel().series) == 12


def test_published_training_flops_are_six_macs_an_image():
    points = [p for s in dit_training_panel().series for p in s.points]
    assert max(p.x for p in points) == pytest.approx(6 * 118.64e9 * 256 * 7e6, rel=1e-3)


@pytest.mark.parametrize("name", figure_definitions.FIGURES)
def test_panels_mix_neither_origins_nor_protocols(name):
    by_id = {r.id: r for r in ALL_RECORDS}
    for panel in all_figures()[name].panels:
        assert len({s.origin for s in panel.series}) == 1
        for s in panel.series:
            assert all(bool(p.records) == (s.origin == "measured") for p in s.points)
        ids = {i for s in panel.series for p in s.points for i in p.records}
        assert len({by_id[i].evaluation_fingerprint for i in ids}) <= 1
        assert any(s.points for s in panel.series)


def test_each_protocol_has_its_own_panel():
    other = []
    for r in SCALING[:6]:
        evaluation = {**r.protocol["evaluation"], "reference_hash": "another"}
        whole = {**r.protocol, "evaluation": evaluation}
        prints = dict(fingerprint=fingerprint(whole), evaluation_fingerprint=fingerprint(evaluation))
        id_ = record_id(r.label, r.config, prints["fingerprint"])
        other.append(dataclasses.replace(r, id=id_, protocol=whole, **prints))
    panels = measured_panels(build_figure("dit-scaling", [*SCALING, *other]))
    assert [sum(len(s.points) for s in p.series) for p in panels] == [9, 2]


def test_point_is_mean_over_seeds_with_interval():
    panel = measured_panels(build_figure("dit-scaling", SCALING))[0]
    p = panel.series[0].points[0]
    values = [next(iter(r.metrics.values())).value for r in SCALING if r.id in p.records]
    mean = sum(values) / 3
    half = 4.3027 * math.sqrt(sum((v - mean) ** 2 for v in values) / 2 / 3)
    assert (p.y, p.low, p.high) == pytest.approx((mean, mean - half, mean + half), rel=1e-4)
    assert sorted(p.values) == sorted(values)


def test_single_seed_keeps_interval_of_record():
    one = [r for r in SCALING if r.config["seed"] == 0]
    p = measured_panels(build_figure("dit-scaling", one))[0].series[0].points[0]
    record = next(r for r in one if r.id in p.records)
    interval = next(iter(record.metrics.values())).interval
    assert (p.low, p.high, p.values) == (interval.low, interval.high, ())
    assert "one seed" in p.note


def test_training_compute_fit_recovers_the_law():
    (fit,) = next(p for p in measured_panels(all_figures()["training-compute"]) if "DiT" in p.title).fits
    assert fit.c == pytest.approx(0.5, abs=0.1) and fit.x and fit.r < 0


def test_three_matched_sizes_are_too_few_for_a_law():
    (panel,) = measured_panels(build_figure("matched-macs", MATCHED))
    assert [f.series for f in panel.fits] == [s.name for s in panel.series] == ["dit", "uvit", "unet"]
    assert all("3 points: too few" in f.description and not f.x for f in panel.fits)


def test_iso_flop_line_interpolates_between_points():
    cells = suites.SUITES["matched"].at("digits")
    exact = [
        studies.run(c.request, macs, lambda flops: 5e6 / math.sqrt(flops))
        for c, macs in zip(cells, studies.costs(cells), strict=True)
    ]
    panels = measured_panels(build_figure("iso-flop-digits", exact))
    assert len(panels) == 3
    for panel in panels:
        for s in panel.series:
            level = float(s.name.split()[0]) * {"T": 1e12, "G": 1e9}[s.name.split()[1][0]]
            assert len(s.points) > 1
            assert [p.y for p in s.points] == pytest.approx([5e6 / math.sqrt(level)] * len(s.points))


def test_mean_loss_interpolates_unequal_image_counts():
    shifted = [
        dataclasses.replace(r, losses=[[i + 100 * r.config["seed"], 2 - i / 1e5] for i in range(1000, 50000, 700)])
        for r in MATCHED
    ]
    panel = build_figure("convergence-matched-digits", shifted).panels[0]
    for s in panel.series:
        assert len(s.points) > 50
        assert [p.y for p in s.points] == pytest.approx([2 - (p.x - 100) / 1e5 for p in s.points])


def test_sampling_compute_joins_runs_over_steps():
    cell = suites.SUITES["dit-scaling"].at("digits")[0]
    runs = [
        studies.run(
            dataclasses.replace(cell.request, settings={**cell.request.settings, "evaluation.steps": str(n)}),
            10**6,
            lambda flops, n=n: 10 / n,
        )
        for n in (16, 4, 8)
    ]
    (panel,) = measured_panels(build_figure("sampling-compute", [*runs, *SCALING[3:]]))
    (s,) = panel.series
    assert [(p.x, p.label) for p in s.points] == [(8e6, "4"), (16e6, "8"), (32e6, "16 steps")]
    assert "step" not in panel.caption
