"""Select figures, draw them to files, or list them.  Imports no torch."""

from __future__ import annotations

from pathlib import Path

from bench.reports.figure_schema import Figure


def raise_if_empty(asked: list[Figure]) -> None:
    for figure in asked:
        if not figure.panels:
            raise ValueError(describe_missing(figure))


def describe_missing(figure: Figure) -> str:
    return f"{figure.name} has nothing to show yet; run {figure.missing.partition('  #')[0]}"


def write_figure(figure: Figure, out: Path, kind: str) -> Path:
    from bench.reports import matplotlib_figures

    path = out / f"{figure.name}.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    matplotlib_figures.save_figure(figure, path, kind)
    return path


def describe_figure(figure: Figure) -> str:
    """A figure in some lines: its name, what it shows, its panels, and the commands for what is missing."""
    kinds = [s.kind for panel in figure.panels for s in panel.series[:1]]
    there = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("published", "measured") if kind in kinds)
    lines = [f"{figure.name:<32}{figure.title} (panels: {there or 'none yet'})"]
    lines += [f"    {command}" for command in figure.missing.splitlines()]
    return "\n".join(lines)
