"""Test labels and colours of drawn figures."""

import pytest
from figure_study import all_figures

from bench.reports import matplotlib_figures, style
from bench.reports.figure_schema import Axis, Figure, Panel, Point, Series


@pytest.mark.parametrize("name", ["dit-scaling", "convergence-matched-digits", "uvit-ablation", "training-compute"])
def test_labels_do_not_overlap_or_leave_the_figure(name):
    canvas = matplotlib_figures.draw_figure(all_figures()[name])
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


@pytest.mark.parametrize(
    ("names", "indices"),
    [
        (["unet", "dit"], [2, 0]),
        (["mine", "uvit"], [0, 1]),
        (["dit of 4 M", "dit of 8 M"], [0, 1]),
        (["a", "dit", "b"], [1, 0, 2]),
    ],
)
def test_families_keep_their_colours(names, indices):
    assert style.style_indices(names) == indices
