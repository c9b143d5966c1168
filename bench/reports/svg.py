"""Panels of figures as SVG elements of an HTML page, whose style sheet sets the colours for light and dark screens.

Imports no torch.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import matplotlib as mpl

from bench.reports import matplotlib_figures, style
from bench.reports.figure_schema import Axis, Figure, Panel, Point, Series, engineering

SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
COLOURS: Mapping[str, str] = {
    "#000000": "var(--ink)",
    "#333333": "var(--soft)",
    "#ffffff": "var(--page)",
    style.GREY: "var(--soft)",
    style.FAINT: "var(--line)",
    **{colour.lower(): f"var(--c{i})" for i, colour in enumerate(style.COLOURS)},
    **{style.ink(colour): f"var(--t{i})" for i, colour in enumerate(style.COLOURS)},
}
"""Colours of bench.reports.style -> variables of page/style.css: c0 to c5 of data, t0 to t5 of the text beside them."""
IGNORED = ("font-family", "stroke-miterlimit", "stroke-linecap", "stroke-linejoin", "stroke-dashoffset")
"""Properties that the page sets, or whose effect is not visible."""
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def elements(figure: Figure, name: str) -> list[str]:
    """Draw each panel as an <svg> element whose ids begin with `name`; the same figure gives the same text."""
    with mpl.rc_context(style.rc()):
        texts: list[str] = []
        for canvas, panel in zip(matplotlib_figures.apart(figure), figure.panels, strict=True):
            file = io.StringIO()
            canvas.savefig(file, format="svg", transparent=True, metadata=NO_METADATA)
            texts.append(inline(file.getvalue(), f"{name}-{len(texts)}", panel.title, titles(panel)))
    return texts


def inline(text: str, name: str, label: str, tips: Mapping[str, Sequence[str]]) -> str:
    """Convert an SVG file of matplotlib to an element without style attributes: the page's security policy blocks them.

    All ids begin with `name`; matplotlib's ids are hashes of unrounded coordinates and differ between processors.
    `tips` maps the id of a group to the tool-tips of its markers, in order.
    """
    root = ElementTree.fromstring(text)
    ElementTree.register_namespace("", SVG[1:-1])
    referred = dict.fromkeys(re.findall(r"(?:url\(|href=\")#(\w+)", text))
    ids = {old: f"{name}-{i}" for i, old in enumerate(referred)}
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in (f"{SVG}metadata", f"{SVG}style") or _invisible(c)]:
            parent.remove(child)
    for element in root.iter():
        markers = element.findall(f".//{SVG}use") if element.get("id") in tips else []
        for marker, tip in zip(markers, tips.get(element.get("id", ""), ()), strict=False):
            ElementTree.SubElement(marker, f"{SVG}title").text = tip
        _plain(element, ids)
    _unwrap(root)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    root.attrib |= {"fill": COLOURS["#000000"], "stroke-linejoin": "round"}
    return ElementTree.tostring(root, encoding="unicode")


def _invisible(element: ElementTree.Element) -> bool:
    """Tell whether a path is the background of a transparent figure, which draws nothing."""
    return element.tag == f"{SVG}path" and element.get("style") == "fill: none"


def _plain(element: ElementTree.Element, ids: Mapping[str, str]) -> None:
    """Turn style into attributes and colours into variables, shorten numbers, rename `ids` and drop all others."""
    attributes = dict(element.attrib)
    if old := attributes.pop("id", None):
        attributes |= {"id": ids[old]} if old in ids else {}
    if "clip-path" in attributes:
        attributes["clip-path"] = f"url(#{ids[attributes['clip-path'][5:-1]]})"
    for declaration in filter(None, attributes.pop("style", "").split(";")):
        name, value = (part.strip() for part in declaration.split(":"))
        if name not in IGNORED:
            attributes[name] = COLOURS.get(value.lower(), value.removesuffix("px"))
    if LINK in attributes:
        attributes["href"] = f"#{ids[attributes.pop(LINK)[1:]]}"
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    element.attrib = {name: _short(value) for name, value in attributes.items()}
    element.text = element.text if element.text and element.text.strip() else None
    element.tail = None


def _short(value: str) -> str:
    """Round coordinates to tenths, which hides differences between processors, and drop needless spaces."""
    tenths = NUMBER.sub(lambda number: f"{round(float(number[0]), 1) + 0:g}", value)
    return re.sub(r"\s*([MLCQz])\s*", r"\1", tenths).strip() if value.startswith("M ") else tenths


def _unwrap(element: ElementTree.Element) -> None:
    """Replace groups without attributes by their children, and drop empty ones."""
    children: list[ElementTree.Element] = []
    for child in element:
        _unwrap(child)
        bare = child.tag in (f"{SVG}g", f"{SVG}defs") and not child.attrib
        children += list(child) if bare and child.tag == f"{SVG}g" else [child] if len(child) or not bare else []
    element[:] = children


def titles(panel: Panel) -> dict[str, list[str]]:
    """Tool-tips of the markers: group id -> text of each point."""
    return {
        matplotlib_figures.group(i): [_words(panel, series, p) for p in series.points]
        for i, series in enumerate(panel.series)
    }


def _words(panel: Panel, series: Series, p: Point) -> str:
    name = panel.y.categories[int(p.y)] if panel.y.categories else p.label
    axes = [panel.x] if panel.y.categories else [panel.y, panel.x]
    lines = [f"{axis.name}: {written(p.x if axis is panel.x else p.y, axis)}" for axis in axes]
    lines[0] += f" [{interval(p).replace(' to ', ', ')}]" if interval(p) else ""
    title = " · ".join(dict.fromkeys(filter(None, (series.name, name))))
    return "\n".join([title, *lines])


def written(value: float, axis: Axis) -> str:
    """Format a value with the unit of its axis."""
    return f"{engineering(value)} {axis.unit}".strip() if axis.unit or abs(value) >= 1e6 else f"{value:.4g}"


def interval(p: Point) -> str:
    """Format the ends of a point's interval; "" where it has none."""
    return "" if p.low is None or p.high is None else f"{p.low:.4g} to {p.high:.4g}"
