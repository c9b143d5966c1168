"""Write figures to files, and describe them for `bench.figures --list`.  Imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench.reports.figure_schema import Figure

log = logging.getLogger(__name__)


def write_figures(
    figures: Iterable[Figure], folder: Path, image_format: str, requested: Sequence[str]
) -> Iterator[Path]:
    """Draw figures as png or svg into a folder and yield each file; figures without data are logged.

    Raises ValueError, before anything is written, if a figure that was requested by name has no data.
    """
    from bench.reports import matplotlib_figures

    figures = list(figures)
    for figure in figures:
        if figure.name in requested and not figure.panels:
            raise ValueError(describe_missing(figure))
    for figure in figures:
        if figure.panels:
            path = folder / f"{figure.name}.{image_format}"
            folder.mkdir(parents=True, exist_ok=True)
            matplotlib_figures.save_figure(figure, path, image_format)
            yield path
        else:
            log.warning("skipped: %s", describe_missing(figure))


def describe_missing(figure: Figure) -> str:
    """Name the command that provides the data of an empty figure."""
    return f"{figure.name} has no data yet; run {figure.missing.partition('  #')[0]}"


def describe_figure(figure: Figure) -> str:
    """Describe a figure in lines: name, title, number of panels, and the commands for missing runs."""
    origins = [s.origin for panel in figure.panels for s in panel.series[:1]]
    counts = ", ".join(f"{origins.count(origin)} {origin}" for origin in ("published", "measured") if origin in origins)
    lines = [f"{figure.name:<32}{figure.title} (panels: {counts or 'none yet'})"]
    lines += [f"    {command}" for command in figure.missing.splitlines()]
    return "\n".join(lines)
