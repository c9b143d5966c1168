"""Convert panels to SVG elements of the HTML page, whose style sheet sets the colours for light and dark screens.

Imports no torch.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import matplotlib as mpl

from bench.reports import matplotlib_figures, style
from bench.reports.figure_schema import Axis, Figure, Panel, Point, Series
from bench.terminal.formatting import format_count

SVG_NAMESPACE, HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
COLOUR_VARIABLES: Mapping[str, str] = {
    "#000000": "var(--ink)",
    "#333333": "var(--soft)",
    "#ffffff": "var(--page)",
    style.GREY: "var(--soft)",
    style.FAINT: "var(--line)",
    **{colour.lower(): f"var(--c{i})" for i, colour in enumerate(style.COLOURS)},
    **{style.darken(colour): f"var(--t{i})" for i, colour in enumerate(style.COLOURS)},
}
"""Colours of a figure -> variables of page/style.css: c0 to c5 for data, t0 to t5 for text."""
IGNORED_PROPERTIES = ("font-family", "stroke-miterlimit", "stroke-linecap", "stroke-linejoin", "stroke-dashoffset")
"""Properties that the page sets, or that have no visible effect."""
DECIMAL = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def panel_svgs(figure: Figure, name: str) -> list[str]:
    """Draw each panel as an <svg> element whose ids begin with `name`; equal figures give equal text."""
    with mpl.rc_context(style.rc_params()):
        texts: list[str] = []
        for canvas, panel in zip(matplotlib_figures.draw_panels(figure), figure.panels, strict=True):
            file = io.StringIO()
            canvas.savefig(file, format="svg", transparent=True, metadata=NO_METADATA)
            texts.append(inline_svg(file.getvalue(), f"{name}-{len(texts)}", panel.title, tooltips(panel)))
    return texts


def inline_svg(text: str, name: str, label: str, tips: Mapping[str, Sequence[str]]) -> str:
    """Convert matplotlib's SVG to an element without style attributes, which the content security policy blocks.

    All ids begin with `name`; matplotlib's ids are hashes of unrounded coordinates and differ between processors.
    `tips` maps the id of a group to the tool-tips of its markers, in order.
    """
    root = ElementTree.fromstring(text)
    ElementTree.register_namespace("", SVG_NAMESPACE[1:-1])
    used_ids = dict.fromkeys(re.findall(r"(?:url\(|href=\")#(\w+)", text))
    ids = {old: f"{name}-{i}" for i, old in enumerate(used_ids)}
    removed = (f"{SVG_NAMESPACE}metadata", f"{SVG_NAMESPACE}style")
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in removed or _is_invisible(c)]:
            parent.remove(child)
    for element in root.iter():
        markers = element.findall(f".//{SVG_NAMESPACE}use") if element.get("id") in tips else []
        for marker, tip in zip(markers, tips.get(element.get("id", ""), ()), strict=False):
            ElementTree.SubElement(marker, f"{SVG_NAMESPACE}title").text = tip
        _inline_attributes(element, ids)
    _unwrap_groups(root)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    root.attrib |= {"fill": COLOUR_VARIABLES["#000000"], "stroke-linejoin": "round"}
    return ElementTree.tostring(root, encoding="unicode")


def _is_invisible(element: ElementTree.Element) -> bool:
    """Return whether a path is the background of a transparent figure."""
    return element.tag == f"{SVG_NAMESPACE}path" and element.get("style") == "fill: none"


def _inline_attributes(element: ElementTree.Element, ids: Mapping[str, str]) -> None:
    """Turn style into attributes and colours into variables, shorten numbers, rename `ids` and drop all others."""
    attributes = dict(element.attrib)
    if old := attributes.pop("id", None):
        attributes |= {"id": ids[old]} if old in ids else {}
    if "clip-path" in attributes:
        attributes["clip-path"] = f"url(#{ids[attributes['clip-path'][5:-1]]})"
    for declaration in filter(None, attributes.pop("style", "").split(";")):
        name, value = (part.strip() for part in declaration.split(":"))
        if name not in IGNORED_PROPERTIES:
            attributes[name] = COLOUR_VARIABLES.get(value.lower(), value.removesuffix("px"))
    if HREF in attributes:
        attributes["href"] = f"#{ids[attributes.pop(HREF)[1:]]}"
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    element.attrib = {name: _round_coordinates(value) for name, value in attributes.items()}
    element.text = element.text if element.text and element.text.strip() else None
    element.tail = None


def _round_coordinates(value: str) -> str:
    """Round coordinates to tenths, which hides differences between processors, and drop needless spaces."""
    tenths = DECIMAL.sub(lambda number: f"{round(float(number[0]), 1) + 0:g}", value)
    return re.sub(r"\s*([MLCQz])\s*", r"\1", tenths).strip() if value.startswith("M ") else tenths


def _unwrap_groups(element: ElementTree.Element) -> None:
    """Replace groups without attributes by their children, and drop empty ones."""
    group, definitions = f"{SVG_NAMESPACE}g", f"{SVG_NAMESPACE}defs"
    children: list[ElementTree.Element] = []
    for child in element:
        _unwrap_groups(child)
        bare = child.tag in (group, definitions) and not child.attrib
        if bare and child.tag == group:
            children += list(child)
        elif len(child) or not bare:
            children.append(child)
    element[:] = children


def tooltips(panel: Panel) -> dict[str, list[str]]:
    """Return the tool-tips of the markers: group id -> text of each point."""
    return {
        matplotlib_figures.svg_group_id(i): [_tooltip(panel, series, p) for p in series.points]
        for i, series in enumerate(panel.series)
    }


def _tooltip(panel: Panel, series: Series, p: Point) -> str:
    name = panel.y.categories[int(p.y)] if panel.y.categories else p.label
    axes = [panel.x] if panel.y.categories else [panel.y, panel.x]
    lines = [f"{axis.name}: {format_value(p.x if axis is panel.x else p.y, axis)}" for axis in axes]
    lines[0] += f" [{format_interval(p).replace(' to ', ', ')}]" if format_interval(p) else ""
    title = " · ".join(dict.fromkeys(filter(None, (series.name, name))))
    return "\n".join([title, *lines])


def format_value(value: float, axis: Axis) -> str:
    """Format a value with the unit of its axis."""
    return f"{format_count(value)} {axis.unit}".strip() if axis.unit or abs(value) >= 1e6 else f"{value:.4g}"


def format_interval(p: Point) -> str:
    """Format the ends of a point's interval; "" without one."""
    return "" if p.low is None or p.high is None else f"{p.low:.4g} to {p.high:.4g}"
