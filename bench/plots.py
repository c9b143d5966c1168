"""Pictures of a run and of a suite: sample grids, loss and FID curves.  Imports no torch.

N images, C channels, H W size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from PIL import Image, ImageDraw

from . import style
from .files import atomic
from .runfolder import RunFolder

Runs = Mapping[str, tuple[RunFolder, Sequence[Mapping[str, Any]]]]
THUMBNAIL = 640
"""Widest a WebP grid is, in pixels; of small images it is lossless."""


def grid(images: np.ndarray, labels: np.ndarray | None, path: Path, columns: int = 10, per_class: int = 10) -> None:
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
    with atomic(path) as partial:
        if path.suffix == ".webp":
            picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
            picture.save(partial, format="WEBP", lossless=images.shape[-1] <= 16, quality=80, method=6)
        else:
            picture.save(partial, format="PNG")


def loss_points(run: RunFolder) -> tuple[list[int], list[float]]:
    """(images, losses) of the log; where a resumed run repeats images, the later values stand."""
    points: dict[int, float] = {}
    for event in run.events()[0]:
        if event["event"] == "resume":
            points = {i: v for i, v in points.items() if i <= event["images"]}
        if event["event"] == "train":
            points[event["images"]] = event["loss"]
    images = sorted(points)
    return images, [points[i] for i in images]


def thinned(run: RunFolder, most: int = 64) -> list[tuple[int, float]]:
    """(images, loss) at `most` points of the log, evenly, the last among them."""
    points = list(zip(*loss_points(run), strict=True))
    kept = np.linspace(0, len(points) - 1, min(most, len(points))).round().astype(int)
    return [points[i] for i in kept]


def curves(
    runs: Runs,
    path: Path,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Loss and FID against training images, logarithmic upwards, one colour a run, labelled at its end.

    `runs` maps a name to its folder and its record's curve; `levels` are horizontal lines.
    """
    with mpl.rc_context(style.rc()):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        _curves(figure, runs, levels or {})
        with atomic(path) as partial:
            figure.savefig(partial, format="png", dpi=120)


def _curves(figure: Figure, runs: Runs, levels: Mapping[str, float]) -> None:
    left, right = figure.subplots(1, 2)
    for index, (name, (run, curve)) in enumerate(runs.items()):
        place = style.place(name, index)
        colour, marker = style.COLOURS[place], style.MARKERS[place]
        images, losses = loss_points(run)
        left.plot(images, losses, color=colour, label=name)
        metric = next(m for m in curve[0]["metrics"] if m.startswith("fid"))
        x, y = [p["images"] for p in curve], [p["metrics"][metric] for p in curve]
        right.plot(x, y, color=colour, marker=marker, label=name)
        right.annotate(f"  {name} {y[-1]:.2f}", (x[-1], y[-1]), color=style.ink(colour), va="center", fontsize=9)
        right.set_ylabel(f"{metric} (lower is better)")
    for label, value in levels.items():
        right.axhline(value, color=style.GREY, linestyle=":", linewidth=1)
        right.annotate(
            f"{label} {value:.2f}", (0.01, value), xycoords=("axes fraction", "data"), color=style.GREY, fontsize=8
        )
    left.set_ylabel("training loss")
    for axis in (left, right):
        axis.set(xlabel="training images", yscale="log")
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    right.margins(x=0.22)
    left.legend()


def beside(pictures: Mapping[str, Path], path: Path) -> None:
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
    with atomic(path) as partial:
        sheet.save(partial, format="PNG")
