"""Draw figures with matplotlib in the style of `bench.reports.style`.  Imports no torch."""

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
from bench.reports.figure_schema import Axis, Figure, Fit, Panel, Point, Series
from bench.storage.atomic import atomic_write
from bench.terminal.formatting import format_count

PANEL_WIDTH, PANEL_HEIGHT = 5.2, 3.6
"""Approximate size of a panel without its caption, in inches."""
WIDE_PANEL_WIDTH = 6.6
"""Width in inches of a figure's only panel, and of a dot plot, which needs space for its row names."""
DOT_ROW_HEIGHT = 0.27
"""Height in inches of a row of a dot plot."""
NAME_LINE_HEIGHT = 0.16
"""Height in inches of each line of a wrapped row name."""
NAME_CHARACTERS = 34
"""Maximum characters per line of a row name."""
COLUMNS_BY_COUNT = {1: 1, 2: 2, 3: 3, 4: 2}
"""Number of panels -> columns; more panels have three columns."""
CAPTION_SIZE = 6.5
"""Font size of a caption in points; a character is about 0.57 as wide."""
DPI = 130
DENSE = 20
"""Number of points above which a series is drawn without markers."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MAX_WHISKER_RATIO = 10.0
"""On a logarithmic axis, a whisker ends at the point's value divided by this."""
CUT_NOTE = "An interval that extends below a tenth of its mean is cut there."


def save_figure(figure: Figure, path: Path, image_format: str) -> None:
    """Write a figure as png or svg; equal figures give equal files."""
    with mpl.rc_context(style.rc_params()), atomic_write(path) as partial:
        canvas = draw_figure(figure)
        metadata = {"Date": None} if image_format == "svg" else {"Software": None}
        canvas.savefig(partial, format=image_format, metadata=metadata)


def draw_figure(figure: Figure) -> Canvas:
    """Draw the whole figure on one canvas, with titles and captions."""
    count, has_dots = len(figure.panels), any(p.y.categories for p in figure.panels)
    columns = min(2, count) if has_dots else COLUMNS_BY_COUNT.get(count, 3)
    width = WIDE_PANEL_WIDTH if has_dots or count == 1 else PANEL_WIDTH
    rows = [figure.panels[i : i + columns] for i in range(0, count, columns)]
    heights = [max(_panel_height(p) + _caption_height(p) for p in row) for row in rows]
    canvas = Canvas(figsize=(width * columns, sum(heights) + 0.4), dpi=DPI, layout="constrained")
    canvas.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    title = textwrap.fill(figure.title, round(width * columns * 9.5))
    canvas.suptitle(title, x=0.12 / canvas.get_figwidth(), ha="left", fontsize=12, fontweight="bold")
    grid = list(canvas.subplots(len(rows), columns, squeeze=False, height_ratios=heights).flat)
    for unused in grid[count:]:
        unused.remove()
    pairs = list(zip(grid, figure.panels, strict=False))
    for axes, panel in pairs:
        axes.set_title(panel.title)
    _draw_data(pairs, shared_ranges=figure.shared_ranges)
    canvas.draw_without_rendering()
    for axes, panel in pairs:
        _draw_caption(axes, panel)
    _place_labels([canvas], pairs)
    return canvas


def draw_panels(figure: Figure) -> list[Canvas]:
    """Draw each panel on its own canvas, without title and caption, which a page shows as text."""
    canvases = [Canvas(figsize=(PANEL_WIDTH, _panel_height(p)), dpi=DPI, layout="constrained") for p in figure.panels]
    pairs = [(canvas.subplots(), panel) for canvas, panel in zip(canvases, figure.panels, strict=True)]
    _draw_data(pairs, shared_ranges=figure.shared_ranges)
    for axes, _ in pairs:
        axes.tick_params(bottom=False, left=False)
    _place_labels(canvases, pairs)
    return canvases


def _draw_data(pairs: Sequence[tuple[Axes, Panel]], *, shared_ranges: bool) -> None:
    """Draw the data, axes and ticks of panels."""
    for axes, panel in pairs:
        _draw_panel(axes, panel)
    if shared_ranges:
        _share_ranges(pairs)
    for axes, panel in pairs:
        _set_ticks(axes, "x", panel.x)
        _set_ticks(axes, "y", panel.y)


def _place_labels(canvases: Sequence[Canvas], pairs: Sequence[tuple[Axes, Panel]]) -> None:
    """Place the labels in a fixed layout: adjustText works in pixels, and would trigger a new layout."""
    for canvas in canvases:
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")
    for axes, panel in pairs:
        _draw_labels(axes, panel)


def _caption_height(panel: Panel) -> float:
    """Estimate the height of the caption in inches."""
    lines = caption_lines(panel)
    return 0.13 * (len(lines) + sum(map(len, lines)) / 85)


def _panel_height(panel: Panel) -> float:
    """Return the height of a panel without its caption, in inches."""
    if panel.y.categories:
        lines = max(len(textwrap.wrap(name, NAME_CHARACTERS)) for name in panel.y.categories)
        return max(1.0 + max(DOT_ROW_HEIGHT, NAME_LINE_HEIGHT * lines) * len(panel.y.categories), 1.8)
    return PANEL_HEIGHT


def _draw_panel(axes: Axes, panel: Panel) -> None:
    _set_scale(axes, "x", panel.x)
    if panel.y.categories:
        _draw_dots(axes, panel)
        return
    _set_scale(axes, "y", panel.y)
    for i, (index, series) in enumerate(_styled_series(panel)):
        _draw_series(axes, series, index, svg_group_id(i))
    for fit in panel.fits:
        _draw_fit(axes, panel, fit)
    for _, value in panel.levels:
        axes.axhline(value, color=style.GREY, linestyle=":", linewidth=1, zorder=1)
    _widen_range(axes, panel)


def caption_lines(panel: Panel) -> list[str]:
    """Return the lines of a panel's caption: fits, text, and a note if an interval is cut."""
    fits = [f"{fit.series}: {fit.description}." if fit.series else f"{fit.description}." for fit in panel.fits]
    cut = [CUT_NOTE] if any(_is_cut(panel, p) for s in panel.series for p in s.points) else []
    return [*fits, *filter(None, [panel.caption]), *cut]


def _is_cut(panel: Panel, p: Point) -> bool:
    """Return whether a logarithmic axis cuts a point's interval."""
    value, axis = (p.x, panel.x) if panel.y.categories else (p.y, panel.y)
    return axis.log and p.low is not None and p.low < value / MAX_WHISKER_RATIO


def _draw_caption(axes: Axes, panel: Panel) -> None:
    """Draw the caption below the axes, as wide as they are."""
    characters = int(axes.get_window_extent().width / (0.57 * CAPTION_SIZE * DPI / 72))
    axes.annotate(
        "\n".join(textwrap.fill(line, characters) for line in caption_lines(panel)),
        (0, 0),
        xycoords=("axes fraction", axes.xaxis.label),
        xytext=(0, -6),
        textcoords="offset points",
        va="top",
        fontsize=CAPTION_SIZE,
        color=style.GREY,
        linespacing=1.3,
    )


def _set_scale(axes: Axes, which: str, axis: Axis) -> None:
    unit = f" ({axis.unit})" if axis.unit else ""
    axes.set(**{f"{which}label": f"{axis.name}{unit}"})
    if axis.log:
        axes.set(**{f"{which}scale": "log"})


def _set_ticks(axes: Axes, which: str, axis: Axis) -> None:
    """Set tick labels; a logarithmic axis has more labels per decade if it spans few decades."""
    if axis.categories:
        return
    ticks = axes.xaxis if which == "x" else axes.yaxis
    ticks.set_major_formatter(FuncFormatter(lambda value, _: _format_tick(value)))
    if axis.log:
        low, high = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
        decades = np.log10(high / low)
        subs = (1, 1.5, 2, 3, 4, 5, 6, 8) if decades < 0.7 else (1, 2, 3, 5, 7) if decades < 1.3 else (1, 2, 5)
        ticks.set_major_locator(LogLocator(subs=subs if decades < 3.3 else (1,), numticks=20))
        ticks.set_minor_locator(NullLocator())
        ticks.set_minor_formatter(NullFormatter())


def _format_tick(value: float) -> str:
    """Format a tick: 0.25, 12.75, 40k, 1.5G, and powers of ten beyond."""
    if 1e-4 < abs(value) < 1e3:
        return f"{value:.4g}"
    digits, _, power = format_count(value).replace(" ", "").partition("e")
    if not power:
        return digits
    return ("" if digits == "1" else f"{digits}·") + "10" + power.translate(SUPERSCRIPTS)


def _widen_range(axes: Axes, panel: Panel) -> None:
    """Make space at the right for the names at the ends of lines."""
    axes.margins(x=0.1, y=0.1)
    if not any(s.joined for s in panel.series):
        return
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** 0.2 if panel.x.log else high + 0.25 * (high - low))


def _styled_series(panel: Panel) -> list[tuple[int, Series]]:
    """Pair each series with its index into the colours and markers."""
    return list(zip(style.style_indices([s.name for s in panel.series]), panel.series, strict=True))


def svg_group_id(i: int) -> str:
    """Return the id of the markers of a panel's i-th series in an SVG file."""
    return f"series-{i}"


def _marker_style(series: Series, index: int) -> dict[str, Any]:
    """Choose filled markers for measured values, hollow markers for published ones."""
    colour = style.COLOURS[index]
    face = colour if series.origin == "measured" else "white"
    return dict(color=colour, marker=style.MARKERS[index], markerfacecolor=face, markeredgecolor=colour)


def _draw_series(axes: Axes, series: Series, index: int, group_id: str) -> None:
    marker_style, x, y = _marker_style(series, index), [p.x for p in series.points], [p.y for p in series.points]
    marker = "" if len(x) > DENSE else marker_style["marker"]
    axes.plot(x, y, **(marker_style | dict(marker=marker)), linestyle="-" if series.joined else "none", gid=group_id)
    for p in series.points:
        if p.low is not None and p.high is not None:
            axes.plot(
                [p.x, p.x], [_whisker_low(p.low, p.y), p.high], color=marker_style["color"], linewidth=1, alpha=0.7
            )


def _whisker_low(low: float, value: float) -> float:
    """Return the lower end of a whisker, at most a decade below its point: a logarithmic axis has no zero."""
    return max(low, value / MAX_WHISKER_RATIO)


def _draw_fit(axes: Axes, panel: Panel, fit: Fit) -> None:
    colours = {series.name: style.COLOURS[index] for index, series in _styled_series(panel)}
    colour = colours.get(fit.series, style.GREY)
    if fit.x:
        axes.plot(fit.x, fit.y, color=colour, linestyle="--", linewidth=1.2)
        axes.fill_between(fit.x, fit.low, fit.high, color=colour, alpha=0.13, linewidth=0)


def _draw_dots(axes: Axes, panel: Panel) -> None:
    """Draw a dot plot: mean, interval, and a tick for each seed."""
    names = panel.y.categories
    axes.set_yticks(range(len(names)), [textwrap.fill(name, NAME_CHARACTERS) for name in names], fontsize=8.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="x")
    for _, value in panel.levels:
        axes.axvline(value, color=style.GREY, linestyle=":", linewidth=1, zorder=1)
    for i, (index, series) in enumerate(_styled_series(panel)):
        marker_style = _marker_style(series, index)
        for p in series.points:
            if p.low is not None and p.high is not None:
                low = _whisker_low(p.low, p.x) if panel.x.log else p.low
                axes.plot([low, p.high], [p.y, p.y], color=marker_style["color"], linewidth=1.2)
            axes.plot(
                p.values, [p.y] * len(p.values), "|", color=marker_style["color"], markersize=6, markeredgewidth=0.9
            )
        x, y = [p.x for p in series.points], [p.y for p in series.points]
        axes.plot(x, y, **marker_style, linestyle="none", gid=svg_group_id(i))


def _share_ranges(pairs: Sequence[tuple[Axes, Panel]]) -> None:
    """Give axes of the same quantity the same range."""
    for which in ("x", "y"):
        groups: dict[str, list[Axes]] = {}
        for axes, panel in pairs:
            groups.setdefault(panel.y.name + getattr(panel, which).name, []).append(axes)
        for group in groups.values():
            ranges = [getattr(axes, f"get_{which}lim")() for axes in group]
            for axes in group:
                axes.set(**{f"{which}lim": (min(r[0] for r in ranges), max(r[1] for r in ranges))})


def _draw_labels(axes: Axes, panel: Panel) -> None:
    labels, points, lines = [], [], []
    for index, series in _styled_series(panel):
        colour = style.darken(style.COLOURS[index])
        ends = [series.points[-1]] if series.joined else []
        labels += [label_placement.Label(text, p.x, p.y, colour, p in ends) for p, text in _point_labels(panel, series)]
        points += [(p.x, p.y) for p in series.points]
        lines += _whisker_lines(panel, series)
        if series.joined:
            lines.append(([p.x for p in series.points], [p.y for p in series.points]))
    lines += [(fit.x, fit.y) for fit in panel.fits if fit.x]
    for name, value in panel.levels:
        if not panel.y.categories:
            lines.append((axes.get_xlim(), (value, value)))
            _draw_level_name(axes, f"{name} {value:.3g}", value)
    label_placement.place_labels(axes, labels, points, lines)


def _draw_level_name(axes: Axes, text: str, value: float) -> None:
    """Write the name of a horizontal line at its left end."""
    axes.annotate(
        text,
        (0, value),
        xycoords=("axes fraction", "data"),
        xytext=(2, 3),
        textcoords="offset points",
        fontsize=label_placement.LABEL_SIZE,
        color=style.GREY,
    )


def _whisker_lines(panel: Panel, series: Series) -> list[Any]:
    """Return whiskers as lines (x, y), each a pair of ends."""
    lines: list[Any] = []
    for p in series.points:
        if p.low is None or p.high is None:
            continue
        if panel.y.categories:
            lines.append(((_whisker_low(p.low, p.x), p.high), (p.y, p.y)))
        else:
            lines.append(((p.x, p.x), (_whisker_low(p.low, p.y), p.high)))
    return lines


def _point_labels(panel: Panel, series: Series) -> list[tuple[Point, str]]:
    """Choose the labels of a series: those of its points, with the name of the series at its last point."""
    if panel.y.categories:
        return [(series.points[0], series.name)] if len(panel.series) > 1 and series.points else []
    last = max(series.points, key=lambda p: p.x)
    labels = [(p, p.label) for p in series.points if p.label and p is not last]
    alone = len(series.points) == 1 and series.name.rpartition("-")[2] not in last.label
    if series.joined or alone or not (labels or last.label):
        return [*labels, (last, ", ".join(filter(None, (series.name, last.label))))]
    return [*labels, (last, last.label)] if last.label else labels
