"""Pictures of a run and of a suite: sample grids, loss and FID curves.  Imports no torch.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from bench.reports import matplotlib_figures
from bench.reports.figure_schema import Axis, Figure, Panel, Point, Series
from bench.storage.atomic import atomic_write
from bench.storage.run_folder import RunFolder

CurvesByName = Mapping[str, tuple[RunFolder, Sequence[Mapping[str, Any]]]]
"""Name -> run folder, whose log has the losses, and the `curve` of its record."""
MAX_WEBP_SIZE = 640
"""Largest width and height of a WebP grid, in pixels."""


def save_sample_grid(
    images: np.ndarray, labels: np.ndarray | None, path: Path, columns: int = 10, per_class: int = 10
) -> None:
    """Save a grid of (N, C, H, W) uint8 images as PNG or WebP, with one class per column if there are labels (N,).

    Images below 48 pixels are enlarged.  A WebP is reduced to MAX_WEBP_SIZE, and lossless for images up to 16 pixels.
    """
    if labels is None:
        chosen = images[: columns * per_class]
    else:
        by_class = [images[labels == c][:per_class] for c in np.unique(labels)[:columns]]
        columns = len(by_class)
        depth = min(len(b) for b in by_class)
        chosen = np.stack([b[:depth] for b in by_class], axis=1).reshape(-1, *images.shape[1:])
    scale = max(1, 48 // images.shape[-1])
    rows = len(chosen) // columns
    tiles = chosen[: rows * columns].repeat(scale, axis=2).repeat(scale, axis=3)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=255)
    c, h, w = tiles.shape[1:]
    sheet = tiles.reshape(rows, columns, c, h, w).transpose(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)
    picture = Image.fromarray(sheet.squeeze(-1) if c == 1 else sheet)
    with atomic_write(path) as partial:
        if path.suffix == ".webp":
            picture.thumbnail((MAX_WEBP_SIZE, MAX_WEBP_SIZE), Image.Resampling.LANCZOS)
            picture.save(partial, format="WEBP", lossless=images.shape[-1] <= 16, quality=80, method=6)
        else:
            picture.save(partial, format="PNG")


def read_losses(run: RunFolder) -> list[tuple[int, float]]:
    """Read (training images, loss) from the log; a resume drops the losses after its checkpoint, which are repeated."""
    points: dict[int, float] = {}
    for event in run.events()[0]:
        if event["event"] == "resume":
            points = {i: v for i, v in points.items() if i <= event["images"]}
        if event["event"] == "train":
            points[event["images"]] = event["loss"]
    return sorted(points.items())


def thin_losses(run: RunFolder, most: int = 64) -> list[tuple[int, float]]:
    """Select at most `most` points of `read_losses` evenly, including the first and the last."""
    points = read_losses(run)
    indices = np.linspace(0, len(points) - 1, min(most, len(points))).round().astype(int)
    return [points[i] for i in indices]


def save_curves(runs: CurvesByName, path: Path, levels: Mapping[str, float] | None = None) -> None:
    """Plot loss and FID against training images on logarithmic axes, one labelled line per run.

    `levels` are named horizontal lines.
    """
    losses, fids, metric = [], [], "fid"
    for name, (run, curve) in runs.items():
        metric = next(m for m in curve[0]["metrics"] if m.startswith("fid"))
        losses.append(_curve_series(name, read_losses(run)))
        fids.append(_curve_series(name, ((p["images"], p["metrics"][metric]) for p in curve)))
    images, loss = Axis(name="training images"), Axis(name="training loss ↓", log=True)
    fid = Axis(name=f"{metric.replace('fid', 'FID')} ↓", log=True)
    panels = (
        Panel(title="Training loss", x=images, y=loss, series=tuple(losses)),
        Panel(title="FID of samples", x=images, y=fid, series=tuple(fids), levels=tuple((levels or {}).items())),
    )
    title = "Training of " + ", ".join(list(runs)[:6]) + (" and others" if len(runs) > 6 else "")
    matplotlib_figures.save_figure(Figure(name="curves", title=title, panels=panels), path, "png")


def _curve_series(name: str, points: Iterable[tuple[float, float]]) -> Series:
    return Series(name=name, points=tuple(Point(x=x, y=y) for x, y in points), joined=True)


def save_side_by_side(pictures: Mapping[str, Path], path: Path) -> None:
    """Save pictures next to each other, each below its name."""
    opened = {name: Image.open(file).convert("RGB") for name, file in pictures.items()}
    gap, title_height = 16, 20
    width = sum(p.width + gap for p in opened.values()) - gap
    sheet = Image.new("RGB", (width, title_height + max(p.height for p in opened.values())), "white")
    left = 0
    for name, picture in opened.items():
        ImageDraw.Draw(sheet).text((left + 2, 2), name, fill="black", font_size=14)
        sheet.paste(picture, (left, title_height))
        left += picture.width + gap
    with atomic_write(path) as partial:
        sheet.save(partial, format="PNG")
