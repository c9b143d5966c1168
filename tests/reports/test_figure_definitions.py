"""Figures from records: what stands on one axis, what is fitted, drawn and left out."""

import dataclasses
import json
import math
import re
from functools import cache
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import studies

from bench import figures
from bench.experiments import suites
from bench.records.protocol import fingerprint
from bench.records.record import record_id
from bench.reports import figure_definitions, matplotlib_figures, style, svg
from bench.reports.figure_schema import Axis, Figure, Panel, Point, Series
from bench.reports.published_panels import dit_400k_panel, dit_training_panel

MATCHED = studies.study("matched")
SCALING = studies.study("dit-scaling")
EVERYTHING = [*MATCHED, *SCALING, *studies.study("dit-conditioning"), *studies.study("uvit-ablation")]


@cache
def every():
    return {f.name: f for f in figure_definitions.build_figures(EVERYTHING)}


def figure(name, records):
    (found,) = figure_definitions.build_figures(records, [name])
    return found


def measured(found):
    return [p for p in found.panels if p.series[0].origin == "measured"]


def write(folder, records):
    path = folder / "records" / "v1"
    path.mkdir(parents=True)
    for r in records:
        (path / f"{r.id}.json").write_text(json.dumps(dataclasses.asdict(r)))
    return folder


def test_published_dits_correlate_as_the_paper_says():
    (fit,) = dit_400k_panel().fits
    assert round(fit.r, 2) == -0.93
    assert sum(len(s.points) for s in dit_400k_panel().series) == 12


def test_published_training_flops_are_six_macs_an_image():
    points = [p for s in dit_training_panel().series for p in s.points]
    assert max(p.x for p in points) == pytest.approx(6 * 118.64e9 * 256 * 7e6, rel=1e-3)


@pytest.mark.parametrize("name", figure_definitions.FIGURES)
def test_panels_mix_neither_origins_nor_protocols(name):
    by_id = {r.id: r for r in EVERYTHING}
    for panel in every()[name].panels:
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
    panels = measured(figure("dit-scaling", [*SCALING, *other]))
    assert [sum(len(s.points) for s in p.series) for p in panels] == [9, 2]


def test_point_is_mean_over_seeds_with_interval():
    panel = measured(figure("dit-scaling", SCALING))[0]
    p = panel.series[0].points[0]
    values = [next(iter(r.metrics.values())).value for r in SCALING if r.id in p.records]
    mean = sum(values) / 3
    half = 4.3027 * math.sqrt(sum((v - mean) ** 2 for v in values) / 2 / 3)
    assert (p.y, p.low, p.high) == pytest.approx((mean, mean - half, mean + half), rel=1e-4)
    assert sorted(p.values) == sorted(values)


def test_single_seed_keeps_interval_of_record():
    one = [r for r in SCALING if r.config["seed"] == 0]
    p = measured(figure("dit-scaling", one))[0].series[0].points[0]
    own = next(r for r in one if r.id in p.records)
    interval = next(iter(own.metrics.values())).interval
    assert (p.low, p.high, p.values) == (interval.low, interval.high, ())
    assert "one seed" in p.note


def test_training_compute_fit_recovers_the_law():
    (fit,) = next(p for p in measured(every()["training-compute"]) if "DiT" in p.title).fits
    assert fit.c == pytest.approx(0.5, abs=0.1) and fit.x and fit.r < 0


def test_three_matched_sizes_are_too_few_for_a_law():
    (panel,) = measured(figure("matched-macs", MATCHED))
    assert [f.series for f in panel.fits] == [s.name for s in panel.series] == ["dit", "uvit", "unet"]
    assert all("3 points: too few" in f.description and not f.x for f in panel.fits)


def test_iso_flop_line_interpolates_between_points():
    cells = suites.SUITES["matched"].at("digits")
    exact = [
        studies.run(c.name, c.request, macs, lambda flops: 5e6 / math.sqrt(flops))
        for c, macs in zip(cells, studies.costs(cells), strict=True)
    ]
    panels = measured(figure("iso-flop-digits", exact))
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
    panel = figure("convergence-matched-digits", shifted).panels[0]
    for s in panel.series:
        assert len(s.points) > 50
        assert [p.y for p in s.points] == pytest.approx([2 - (p.x - 100) / 1e5 for p in s.points])


def test_sampling_compute_joins_runs_over_steps():
    cell = suites.SUITES["dit-scaling"].at("digits")[0]
    runs = [
        studies.run(
            cell.name,
            dataclasses.replace(cell.request, settings={**cell.request.settings, "evaluation.steps": str(n)}),
            10**6,
            lambda flops, n=n: 10 / n,
        )
        for n in (16, 4, 8)
    ]
    (panel,) = measured(figure("sampling-compute", [*runs, *SCALING[3:]]))
    (s,) = panel.series
    assert [(p.x, p.label) for p in s.points] == [(8e6, "4"), (16e6, "8"), (32e6, "16 steps")]
    assert "step" not in panel.caption


def test_empty_figure_is_refused_with_its_command(tmp_path, capsys):
    results = write(tmp_path, [])
    assert figures.main(["iso-flop-digits", "--results", str(results)]) == 2
    assert capsys.readouterr().err == (
        "bench.figures: iso-flop-digits has no data yet; run python -m bench.run --suite matched --scale digits\n"
    )
    assert not (results / "figures").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["nothing"], "there is no figure nothing; known: dit-scaling, "),
        (["dit-scalin"], "there is no figure dit-scalin; did you mean dit-scaling"),
        (["--results", "nowhere"], "nowhere is no folder; name a results folder with --results"),
    ],
)
def test_mistake_is_one_sentence(argv, says, capsys):
    assert figures.main(argv) == 2
    assert capsys.readouterr().err.startswith(f"bench.figures: {says}")


def test_list_shows_panels_and_missing_commands(tmp_path, capsys):
    results = write(tmp_path, SCALING[:4])
    assert figures.main(["--list", "--results", str(results)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(figure_definitions.FIGURES)
    assert "    python -m bench.run --suite dit-scaling --scale digits  # 2 of 9 variants measured" in lines


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_equal_figures_give_equal_files(tmp_path, kind):
    results = write(tmp_path, MATCHED)
    drawn = []
    for out in ("a", "b"):
        assert (
            figures.main(["matched-macs", "--results", str(results), "--out", str(tmp_path / out), "--format", kind])
            == 0
        )
        drawn.append((tmp_path / out / f"matched-macs.{kind}").read_bytes())
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith(b"\x89PNG" if kind == "png" else b"<?xml")


@pytest.mark.parametrize("name", ["dit-scaling", "convergence-matched-digits", "uvit-ablation", "training-compute"])
def test_labels_do_not_overlap_or_leave_the_figure(name):
    canvas = matplotlib_figures.draw_figure(every()[name])
    for axes in canvas.axes:
        texts = [t for t in axes.texts if t.get_fontsize() > matplotlib_figures.CAPTION_SIZE]
        boxes = [t.get_window_extent() for t in texts]
        ticks = [t for t in axes.get_xticklabels() if axes.get_xlim()[0] <= t.get_position()[0] <= axes.get_xlim()[1]]
        assert len(ticks) > 1
        boxes_of_ticks = [t.get_window_extent() for t in ticks]
        for group in (boxes, boxes_of_ticks):
            shrunk = [b.padded(-1) for b in group]
            covered = [(i, j) for i in range(len(group)) for j in range(i) if shrunk[i].overlaps(shrunk[j])]
            assert not covered, [texts[i].get_text() for pair in covered for i in pair]
        inside = canvas.bbox
        assert all(inside.x0 <= b.x0 and b.x1 <= inside.x1 for b in boxes)


def test_names_of_close_line_ends_keep_their_order():
    ends = {"a": 1.0, "b": 1.01, "c": 1.02, "d": 3.0}
    series = tuple(Series(name=n, points=(Point(x=1, y=2.0), Point(x=2, y=y)), joined=True) for n, y in ends.items())
    panel = Panel(title="", x=Axis(name="x"), y=Axis(name="y"), series=series)
    (axes,) = matplotlib_figures.draw_figure(Figure(name="f", title="f", panels=(panel,))).axes
    heights = {t.get_text(): t.get_window_extent() for t in axes.texts if t.get_text() in ends}
    assert [heights[a].y1 <= heights[b].y0 + 1 for a, b in ("ab", "bc", "cd")] == [True] * 3


@cache
def elements():
    """Figure -> panels with their SVG elements."""
    return {f.name: list(zip(f.panels, svg.panel_svgs(f, f.name), strict=True)) for f in every().values()}


def on_a_page():
    return [pair for pairs in elements().values() for pair in pairs]


def test_svg_colours_are_variables_of_the_page():
    for panel, text in on_a_page():
        assert "style=" not in text and "<style" not in text, "a content security policy blocks it"
        assert re.findall(r'(?:fill|stroke)="([^"]*)"', text)
        assert all(re.fullmatch(r"none|var\(--\w+\)", c) for c in re.findall(r'(?:fill|stroke)="([^"]*)"', text)), panel


def test_svg_ids_are_unique_and_complete():
    ids = [re.findall(r' id="([^"]+)"', text) for _, text in on_a_page()]
    together = [i for own in ids for i in own]
    assert len(set(together)) == len(together) > len(ids)
    for own, (_, text) in zip(ids, on_a_page(), strict=True):
        assert set(re.findall(r"#([^\")]+)", text)) == set(own)


def markers(panel, text):
    """(series, point, marker) of an SVG element; long curves have none."""
    uses = [
        e
        for e in ElementTree.fromstring(text).iter(f"{svg.SVG_NAMESPACE}use")
        if e.find(f"{svg.SVG_NAMESPACE}title") is not None
    ]
    points = [(s, p) for s in panel.series if len(s.points) <= 20 for p in s.points]
    return [(*pair, use) for pair, use in zip(points, uses, strict=True)]


@pytest.mark.parametrize("name", ["dit-scaling", "matched-macs", "training-compute", "uvit-ablation", "unet-ablation"])
def test_markers_have_tooltips_and_are_hollow_if_published(name):
    for panel, text in elements()[name]:
        shown = markers(panel, text)
        assert shown
        for series, p, use in shown:
            value = panel.x if panel.y.categories else panel.y
            words = use.find(f"{svg.SVG_NAMESPACE}title").text
            assert f"{value.name}: {svg.format_value(p.x if panel.y.categories else p.y, value)}" in words
            assert words.startswith(series.name) and (use.get("fill") == "var(--page)") == (
                series.origin == "published"
            )
        places = [tuple(float(use.get(c)) for c in "xy") for *_, use in shown]
        by_x = sorted(range(len(shown)), key=lambda i: shown[i][1].x)
        assert all(places[a][0] <= places[b][0] for a, b in pairwise(by_x))


def test_names_are_neither_formulas_nor_markup():
    name = "$\\frac{$ <b>&amp;"
    points = (Point(x=1, y=2.0), Point(x=2, y=1.0))
    panel = Panel(
        title=name, x=Axis(name="x"), y=Axis(name="y"), series=(Series(name=name, points=points, joined=True),)
    )
    (text,) = svg.panel_svgs(Figure(name="f", title=name, panels=(panel,)), "f")
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == name and name in [e.text for e in root.iter(f"{svg.SVG_NAMESPACE}text")]


def test_svg_does_not_depend_on_last_bits():
    """Processors round logarithms differently, and the page is compared byte for byte."""

    def nudged(value):
        return math.nextafter(value, math.inf)

    panel = next(p for p in every()["matched-macs"].panels if len(p.series) == 3)
    series = [
        dataclasses.replace(s, points=tuple(dataclasses.replace(p, x=nudged(p.x), y=nudged(p.y)) for p in s.points))
        for s in panel.series
    ]
    both = [Figure(name="f", title="f", panels=(p,)) for p in (panel, dataclasses.replace(panel, series=tuple(series)))]
    assert both[0] != both[1] and svg.panel_svgs(both[0], "f") == svg.panel_svgs(both[1], "f")


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["unet", "dit"], [2, 0]),
        (["mine", "uvit"], [0, 1]),
        (["dit of 4 M", "dit of 8 M"], [0, 1]),
        (["a", "dit", "b"], [1, 0, 2]),
    ],
)
def test_families_keep_their_colours(names, places):
    assert style.style_indices(names) == places
