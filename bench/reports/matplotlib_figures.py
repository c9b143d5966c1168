"""Figures of bench.series drawn with matplotlib, all in the look of bench.style.  Imports no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from bench.reports import label_placement, style
from bench.reports.figure_schema import Axis, Figure, Panel, Point, Series, engineering
from bench.storage.atomic import atomic_write

WIDTH, HEIGHT = 5.2, 3.6
"""Inches of a panel, about, without its caption."""
ALONE = 6.6
"""Inches of a figure's only panel, and of dot plots, whose names take room."""
ROW = 0.27
"""Inches of a line of a dot plot, and of its name's lines where those are several."""
NAME = 0.16
COLUMNS = {1: 1, 2: 2, 3: 3, 4: 2}
"""Of so many panels; more have three."""
NAMES = 34
"""Letters of a line of a dot plot's names."""
SMALL = 6.5
"""Points of a caption's letters, which are about 0.57 as wide."""
DPI = 130
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
CUT_AT = 10.0
CUT = "An interval that goes below a tenth of its mean is cut there."


def save(figure: Figure, path: Path, kind: str) -> None:
    """Write a figure as png or svg; the same figure is the same file."""
    with mpl.rc_context(style.rc()), atomic_write(path) as partial:
        canvas = drawn(figure)
        canvas.savefig(partial, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})


def drawn(figure: Figure) -> Canvas:
    """Draw the whole figure on one canvas, with titles and captions."""
    count, names = len(figure.panels), any(p.y.categories for p in figure.panels)
    columns = min(2, count) if names else COLUMNS.get(count, 3)
    width = ALONE if names or count == 1 else WIDTH
    rows = [figure.panels[i : i + columns] for i in range(0, count, columns)]
    heights = [max(_height(p) + _note(p) for p in row) for row in rows]
    canvas = Canvas(figsize=(width * columns, sum(heights) + 0.4), dpi=DPI, layout="constrained")
    canvas.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    title = textwrap.fill(figure.title, round(width * columns * 9.5))
    canvas.suptitle(title, x=0.12 / canvas.get_figwidth(), ha="left", fontsize=12, fontweight="bold")
    places = list(canvas.subplots(len(rows), columns, squeeze=False, height_ratios=heights).flat)
    for spare in places[count:]:
        spare.remove()
    both = list(zip(places, figure.panels, strict=False))
    for axes, panel in both:
        axes.set_title(panel.title)
    _fill(both, alike=figure.alike)
    canvas.draw_without_rendering()
    for axes, panel in both:
        _caption(axes, panel)
    _label([canvas], both)
    return canvas


def apart(figure: Figure) -> list[Canvas]:
    """Draw each panel on a canvas of its own, without title and caption, which a page writes as text."""
    canvases = [Canvas(figsize=(WIDTH, _height(p)), dpi=DPI, layout="constrained") for p in figure.panels]
    both = [(canvas.subplots(), panel) for canvas, panel in zip(canvases, figure.panels, strict=True)]
    _fill(both, alike=figure.alike)
    for axes, _ in both:
        axes.tick_params(bottom=False, left=False)
    _label(canvases, both)
    return canvases


def _fill(both: Sequence[tuple[Axes, Panel]], *, alike: bool) -> None:
    """Draw the data and axes of panels; `alike` axes get one range."""
    for axes, panel in both:
        _panel(axes, panel)
    if alike:
        _share(both)
    for axes, panel in both:
        _ticks(axes, "x", panel.x)
        _ticks(axes, "y", panel.y)


def _label(canvases: Sequence[Canvas], both: Sequence[tuple[Axes, Panel]]) -> None:
    """Place the labels in a fixed layout: adjustText works in pixels, and would compute the layout again."""
    for canvas in canvases:
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")
    for axes, panel in both:
        _labels(axes, panel)


def _note(panel: Panel) -> float:
    """Inches that the caption takes."""
    return 0.13 * (len(notes(panel)) + sum(map(len, notes(panel))) / 85)


def _height(panel: Panel) -> float:
    """Inches of a panel without its caption."""
    if panel.y.categories:
        lines = max(len(textwrap.wrap(name, NAMES)) for name in panel.y.categories)
        return max(1.0 + max(ROW, NAME * lines) * len(panel.y.categories), 1.8)
    return HEIGHT


def _panel(axes: Axes, panel: Panel) -> None:
    _scale(axes, "x", panel.x)
    if panel.y.categories:
        _dots(axes, panel)
    else:
        _scale(axes, "y", panel.y)
        for i, (place, series) in enumerate(_placed(panel)):
            _series(axes, series, place, group(i))
        for fit in panel.fits:
            _fit(axes, panel, fit)
        for _, value in panel.levels:
            axes.axhline(value, color=style.GREY, linestyle=":", linewidth=1, zorder=1)
        _widen(axes, panel)


def notes(panel: Panel) -> list[str]:
    """Lines of a panel's caption: its fits, its own words, and whether an interval is cut."""
    fits = [f"{fit.of}: {fit.words}." if fit.of else f"{fit.words}." for fit in panel.fits]
    cut = [CUT] if any(_cut(panel, p) for s in panel.series for p in s.points) else []
    return [*fits, *filter(None, [panel.caption]), *cut]


def _cut(panel: Panel, p: Point) -> bool:
    """Whether a logarithmic axis cannot show all of a point's interval."""
    logarithmic = panel.x.log if panel.y.categories else panel.y.log
    return logarithmic and p.low is not None and p.low < (p.x if panel.y.categories else p.y) / CUT_AT


def _caption(axes: Axes, panel: Panel) -> None:
    """Below the axes, as wide as they are."""
    letters = int(axes.get_window_extent().width / (0.57 * SMALL * DPI / 72))
    axes.annotate(
        "\n".join(textwrap.fill(note, letters) for note in notes(panel)),
        (0, 0),
        xycoords=("axes fraction", axes.xaxis.label),
        xytext=(0, -6),
        textcoords="offset points",
        va="top",
        fontsize=SMALL,
        color=style.GREY,
        linespacing=1.3,
    )


def _scale(axes: Axes, which: str, axis: Axis) -> None:
    unit = f" ({axis.unit})" if axis.unit else ""
    axes.set(**{f"{which}label": f"{axis.name}{unit}"})
    if axis.log:
        axes.set(**{f"{which}scale": "log"})


def _ticks(axes: Axes, which: str, axis: Axis) -> None:
    """Labels at 1, at 1 2 5 or at more of each decade, as few decades as there are."""
    if axis.categories:
        return
    own = axes.xaxis if which == "x" else axes.yaxis
    own.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    if axis.log:
        low, high = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
        decades = np.log10(high / low)
        subs = (1, 1.5, 2, 3, 4, 5, 6, 8) if decades < 0.7 else (1, 2, 3, 5, 7) if decades < 1.3 else (1, 2, 5)
        own.set_major_locator(LogLocator(subs=subs if decades < 3.3 else (1,), numticks=20))
        own.set_minor_locator(NullLocator())
        own.set_minor_formatter(NullFormatter())


def _tick(value: float) -> str:
    """0.25, 12.75, 40k, 1.5G, and powers of ten beyond."""
    if 1e-4 < abs(value) < 1e3:
        return f"{value:.4g}"
    digits, _, power = engineering(value).replace(" ", "").partition("e")
    if not power:
        return digits
    return ("" if digits == "1" else f"{digits}·") + "10" + power.translate(SUPERSCRIPTS)


def _widen(axes: Axes, panel: Panel) -> None:
    """Room to the right for the names at the ends of lines."""
    axes.margins(x=0.1, y=0.1)
    if not any(s.joined for s in panel.series):
        return
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** 0.2 if panel.x.log else high + 0.25 * (high - low))


def _placed(panel: Panel) -> list[tuple[int, Series]]:
    """Each series with its place among the colours and markers."""
    return list(zip(style.places([s.name for s in panel.series]), panel.series, strict=True))


def group(i: int) -> str:
    """The id that the markers of a panel's i-th series have in an SVG file."""
    return f"series-{i}"


def _look(series: Series, place: int) -> dict[str, Any]:
    """Filled where measured, hollow where published."""
    colour = style.COLOURS[place]
    face = colour if series.kind == "measured" else "white"
    return dict(color=colour, marker=style.MARKERS[place], markerfacecolor=face, markeredgecolor=colour)


def _series(axes: Axes, series: Series, place: int, gid: str) -> None:
    look, x, y = _look(series, place), [p.x for p in series.points], [p.y for p in series.points]
    dense = len(x) > 20
    line = "-" if series.joined else "none"
    axes.plot(x, y, **(look | dict(marker="" if dense else look["marker"])), linestyle=line, gid=gid)
    for p in series.points:
        if p.low is not None and p.high is not None:
            axes.plot([p.x, p.x], [_shown(p.low, p.y), p.high], color=look["color"], linewidth=1, alpha=0.7)


def _shown(low: float, value: float) -> float:
    """The end of a whisker; one at or below zero, which a logarithmic axis lacks, ends a decade below its point."""
    return max(low, value / CUT_AT)


def _fit(axes: Axes, panel: Panel, fit: Any) -> None:
    colour = next((style.COLOURS[place] for place, series in _placed(panel) if series.name == fit.of), style.GREY)
    if fit.x:
        axes.plot(fit.x, fit.y, color=colour, linestyle="--", linewidth=1.2)
        axes.fill_between(fit.x, fit.low, fit.high, color=colour, alpha=0.13, linewidth=0)


def _dots(axes: Axes, panel: Panel) -> None:
    names = panel.y.categories
    axes.set_yticks(range(len(names)), [textwrap.fill(name, NAMES) for name in names], fontsize=8.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="x")
    for _, value in panel.levels:
        axes.axvline(value, color=style.GREY, linestyle=":", linewidth=1, zorder=1)
    for i, (place, series) in enumerate(_placed(panel)):
        look = _look(series, place)
        for p in series.points:
            if p.low is not None and p.high is not None:
                low = _shown(p.low, p.x) if panel.x.log else p.low
                axes.plot([low, p.high], [p.y, p.y], color=look["color"], linewidth=1.2)
            axes.plot(p.values, [p.y] * len(p.values), "|", color=look["color"], markersize=6, markeredgewidth=0.9)
        axes.plot([p.x for p in series.points], [p.y for p in series.points], **look, linestyle="none", gid=group(i))


def _share(both: Sequence[tuple[Axes, Panel]]) -> None:
    """One range for all panels whose axes mean the same."""
    for which in ("x", "y"):
        groups: dict[str, list[Axes]] = {}
        for axes, panel in both:
            groups.setdefault(panel.y.name + getattr(panel, which).name, []).append(axes)
        for group in groups.values():
            ends = [getattr(a, f"get_{which}lim")() for a in group]
            for a in group:
                a.set(**{f"{which}lim": (min(e[0] for e in ends), max(e[1] for e in ends))})


def _labels(axes: Axes, panel: Panel) -> None:
    texts, points, lines = [], [], []
    for place, series in _placed(panel):
        colour = style.ink(style.COLOURS[place])
        ends = [series.points[-1]] if series.joined else []
        texts += [label_placement.Label(text, p.x, p.y, colour, p in ends) for p, text in _texts(panel, series)]
        points += [(p.x, p.y) for p in series.points]
        lines += _whiskers(panel, series)
        if series.joined:
            lines.append(([p.x for p in series.points], [p.y for p in series.points]))
    lines += [(fit.x, fit.y) for fit in panel.fits if fit.x]
    for name, value in panel.levels:
        if not panel.y.categories:
            lines.append((axes.get_xlim(), (value, value)))
            _level(axes, f"{name} {value:.3g}", value)
    label_placement.place(axes, texts, points, lines)


def _level(axes: Axes, text: str, value: float) -> None:
    """The name of a horizontal line, on its left end."""
    axes.annotate(
        text,
        (0, value),
        xycoords=("axes fraction", "data"),
        xytext=(2, 3),
        textcoords="offset points",
        fontsize=label_placement.SIZE,
        color=style.GREY,
    )


def _whiskers(panel: Panel, series: Series) -> list[Any]:
    """Each interval's ends, as a line."""
    found: list[Any] = []
    for p in series.points:
        if p.low is not None and p.high is not None:
            across, up = ((_shown(p.low, p.x), p.high), (p.y, p.y)), ((p.x, p.x), (_shown(p.low, p.y), p.high))
            found.append(across if panel.y.categories else up)
    return found


def _texts(panel: Panel, series: Series) -> list[tuple[Any, str]]:
    """Which points are labelled with what: each with its own, and one with the series' name."""
    if panel.y.categories:
        return [(series.points[0], series.name)] if len(panel.series) > 1 and series.points else []
    last = max(series.points, key=lambda p: p.x)
    own = [(p, p.label) for p in series.points if p.label and p is not last]
    alone = len(series.points) == 1 and series.name.rpartition("-")[2] not in last.label
    if series.joined or alone or not (own or last.label):
        return [*own, (last, ", ".join(filter(None, (series.name, last.label))))]
    return [*own, (last, last.label)] if last.label else own
