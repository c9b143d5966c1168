"""Test the conversion of panels to SVG elements of the page."""

import dataclasses
import math
import re
from functools import cache
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from figure_study import all_figures

from bench.reports import svg
from bench.reports.figure_schema import Axis, Figure, Panel, Point, Series


@cache
def elements():
    """Draw all figures; return figure name -> panels with their SVG elements."""
    return {f.name: list(zip(f.panels, svg.panel_svgs(f, f.name), strict=True)) for f in all_figures().values()}


def all_panels():
    return [pair for pairs in elements().values() for pair in pairs]


def test_svg_colours_are_variables_of_the_page():
    for panel, text in all_panels():
        assert "style=" not in text and "<style" not in text, "a content security policy blocks it"
        assert re.findall(r'(?:fill|stroke)="([^"]*)"', text)
        assert all(re.fullmatch(r"none|var\(--\w+\)", c) for c in re.findall(r'(?:fill|stroke)="([^"]*)"', text)), panel


def test_svg_ids_are_unique_and_complete():
    ids = [re.findall(r' id="([^"]+)"', text) for _, text in all_panels()]
    all_ids = [i for ids_of_panel in ids for i in ids_of_panel]
    assert len(set(all_ids)) == len(all_ids) > len(ids)
    for ids_of_panel, (_, text) in zip(ids, all_panels(), strict=True):
        assert set(re.findall(r"#([^\")]+)", text)) == set(ids_of_panel)


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
    """Processors round logarithms differently, but the page must have the same bytes."""

    def nudged(value):
        return math.nextafter(value, math.inf)

    panel = next(p for p in all_figures()["matched-macs"].panels if len(p.series) == 3)
    series = [
        dataclasses.replace(s, points=tuple(dataclasses.replace(p, x=nudged(p.x), y=nudged(p.y)) for p in s.points))
        for s in panel.series
    ]
    both = [Figure(name="f", title="f", panels=(p,)) for p in (panel, dataclasses.replace(panel, series=tuple(series)))]
    assert both[0] != both[1] and svg.panel_svgs(both[0], "f") == svg.panel_svgs(both[1], "f")
