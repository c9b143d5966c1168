"""Pictures of a run and of a suite: sample grids, loss and FID curves.  Imports no torch.

N images, C channels, H W size.
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
MAX_WEBP_SIZE = 640
"""Widest a WebP grid is, in pixels; of small images it is lossless."""


def save_sample_grid(
    images: np.ndarray, labels: np.ndarray | None, path: Path, columns: int = 10, per_class: int = 10
) -> None:
    """(N, C, H, W) uint8 images, one class a column, small images enlarged, as PNG, or as a WebP to be kept."""
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


def read_losses(run: RunFolder) -> tuple[list[int], list[float]]:
    """(images, losses) of the log; where a resumed run repeats images, the later values stand."""
    points: dict[int, float] = {}
    for event in run.events()[0]:
        if event["event"] == "resume":
            points = {i: v for i, v in points.items() if i <= event["images"]}
        if event["event"] == "train":
            points[event["images"]] = event["loss"]
    images = sorted(points)
    return images, [points[i] for i in images]


def thin_losses(run: RunFolder, most: int = 64) -> list[tuple[int, float]]:
    """(images, loss) at `most` points of the log, evenly, the last among them."""
    points = list(zip(*read_losses(run), strict=True))
    kept = np.linspace(0, len(points) - 1, min(most, len(points))).round().astype(int)
    return [points[i] for i in kept]


def save_curves(runs: CurvesByName, path: Path, levels: Mapping[str, float] | None = None) -> None:
    """Loss and FID against training images, logarithmic upwards, one colour a run, labelled at its end.

    `runs` maps a name to its folder and its record's curve; `levels` are horizontal lines.
    """
    losses, fids, metric = [], [], "fid"
    for name, (run, curve) in runs.items():
        metric = next(m for m in curve[0]["metrics"] if m.startswith("fid"))
        losses.append(_curve_series(name, zip(*read_losses(run), strict=True)))
        fids.append(_curve_series(name, ((p["images"], p["metrics"][metric]) for p in curve)))
    images, loss = Axis(name="training images"), Axis(name="training loss ↓", log=True)
    fid = Axis(name=f"{metric.replace('fid', 'FID')} ↓", log=True)
    panels = (
        Panel(title="Training loss", x=images, y=loss, series=tuple(losses)),
        Panel(title="FID of samples", x=images, y=fid, series=tuple(fids), levels=tuple((levels or {}).items())),
    )
    matplotlib_figures.save_figure(
        Figure(
            name="curves",
            title="Training of " + ", ".join(list(runs)[:6]) + (" and others" if len(runs) > 6 else ""),
            panels=panels,
        ),
        path,
        "png",
    )


def _curve_series(name: str, points: Iterable[tuple[float, float]]) -> Series:
    return Series(name=name, points=tuple(Point(x=x, y=y) for x, y in points), joined=True)


def save_side_by_side(pictures: Mapping[str, Path], path: Path) -> None:
    """Pictures next to each other, each under its name."""
    opened = {name: Image.open(file).convert("RGB") for name, file in pictures.items()}
    gap, title = 16, 20
    width = sum(p.width + gap for p in opened.values()) - gap
    sheet = Image.new("RGB", (width, title + max(p.height for p in opened.values())), "white")
    left = 0
    for name, picture in opened.items():
        ImageDraw.Draw(sheet).text((left + 2, 2), name, fill="black", font_size=14)
        sheet.paste(picture, (left, title))
        left += picture.width + gap
    with atomic_write(path) as partial:
        sheet.save(partial, format="PNG")
