"""Shapes: an endless synthetic class-conditional data set, at any resolution.

The classes are ten shapes.  Colour, texture, position, size and rotation vary within a class; the background is a
gradient.  Image i of seed s is a function of (s, i) alone.  Per pixel only sums, products, quotients, roots and
comparisons of float32 are computed.  Every processor rounds these alike, so all machines draw the same bytes.

B batch, K random numbers per image, S size.  Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.data.dataset import Dataset, DataSource, LazyImages

F = np.float32
IMAGES_PER_SEED = 1 << 40
"""Images of a seed's stream; row = seed * IMAGES_PER_SEED + position in the stream."""
MAX_SEEDS = 1 << 22
FIRST_REFERENCE_ROW, FIRST_HELD_OUT_ROW, FIRST_EXTRACTOR_ROW = (
    MAX_SEEDS * IMAGES_PER_SEED + i * IMAGES_PER_SEED for i in range(3)
)
"""First rows of the reference, the held-out images and the training set of the extractor shapes-cnn; in no stream."""
LISTED_IMAGES = 100_000
"""Length that the set reports; code that reads a whole set, like bench.encode, reads these images of seed 0."""
NUMBERS_PER_IMAGE = 20
PIXELS_PER_CHUNK = 1 << 22
"""Pixels drawn at a time."""
REFERENCE_IMAGES = {64: 10_000, 1024: 2_500}
"""Largest size -> number of reference images; a fifth as many are held out."""
Grid = np.ndarray
"""(B, S, S) float32."""


def _disk(u: Grid, v: Grid) -> Grid:
    return np.sqrt(u * u + v * v) - F(1)


def _ring(u: Grid, v: Grid) -> Grid:
    return np.abs(np.sqrt(u * u + v * v) - F(0.74)) - F(0.26)


def _half_disk(u: Grid, v: Grid) -> Grid:
    shifted = v - F(0.42)
    return np.maximum(np.sqrt(u * u + shifted * shifted) - F(1), shifted)


def _crescent(u: Grid, v: Grid) -> Grid:
    bite = u - F(0.5)
    return np.maximum(np.sqrt(u * u + v * v) - F(1), F(0.78) - np.sqrt(bite * bite + v * v))


def _square(u: Grid, v: Grid) -> Grid:
    return np.maximum(np.abs(u), np.abs(v)) - F(0.8)


def _triangle(u: Grid, v: Grid) -> Grid:
    return np.maximum(F(0.8660254) * np.abs(u) - F(0.5) * v, v) - F(0.55)


def _cross(u: Grid, v: Grid) -> Grid:
    u, v = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(u - F(1), v - F(0.3)), np.maximum(v - F(1), u - F(0.3)))


def _star(u: Grid, v: Grid) -> Grid:
    """Pentagram: a point is inside if it is on the inner side of at least four of the five lines."""
    turns = np.arange(5) * (2 * np.pi / 5)
    most = second = np.full_like(u, -np.inf)
    for x, y in zip(np.sin(turns).astype(F), np.cos(turns).astype(F), strict=True):
        distance = x * u + y * v
        second = np.maximum(second, np.minimum(most, distance))
        most = np.maximum(most, distance)
    return second - F(0.38)


def _heart(u: Grid, v: Grid) -> Grid:
    lobes = []
    for x, y in ((-0.52, 0.0), (0.0, -0.52)):
        du, dv = u - F(x) - F(0.15), v - F(y) - F(0.15)
        lobes.append(np.sqrt(du * du + dv * dv) - F(0.52))
    block = np.maximum(np.abs(u - F(0.15)), np.abs(v - F(0.15))) - F(0.52)
    return np.minimum(block, np.minimum(*lobes))


def _arrow(u: Grid, v: Grid) -> Grid:
    v = np.abs(v)
    head = np.maximum(F(-0.05) - u, F(0.62469506) * u + F(0.78086881) * v - F(0.62469506))
    shaft = np.maximum(v - F(0.28), np.maximum(F(-1) - u, u - F(0.1)))
    return np.minimum(head, shaft)


SHAPES: dict[str, Callable[[Grid, Grid], Grid]] = {
    "disk": _disk,
    "ring": _ring,
    "half disk": _half_disk,
    "crescent": _crescent,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "star": _star,
    "heart": _heart,
    "arrow": _arrow,
}
"""Class -> signed distance, negative inside, in coordinates in which the shape is about as wide as the unit disk."""


def random_numbers(rows: np.ndarray) -> np.ndarray:
    """Return (B, K) float64 uniform in [0, 1), each a function of (row, k): splitmix64."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        key = _mix(rows.astype(np.uint64) * np.uint64(0xD1342543DE82EF95) + golden)
        z = _mix(key[:, None] + golden * np.arange(1, NUMBERS_PER_IMAGE + 1, dtype=np.uint64))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def class_labels(rows: np.ndarray) -> np.ndarray:
    """Return the class of each image, (B,) int64."""
    return (random_numbers(rows)[:, 0] * len(SHAPES)).astype(np.int64)


def draw_images(rows: np.ndarray, size: int) -> np.ndarray:
    """Draw the images of these rows, (B, 3, S, S) uint8."""
    each = max(1, PIXELS_PER_CHUNK // (size * size))
    parts = [_draw(rows[i : i + each], size) for i in range(0, len(rows), each)]
    return np.concatenate(parts) if parts else np.empty((0, 3, size, size), np.uint8)


def _draw(rows: np.ndarray, size: int) -> np.ndarray:
    n = random_numbers(rows)
    radius, centre_x, centre_y = shape_positions(n)
    x, y = _column(centre_x), _column(centre_y)
    at = ((np.arange(size) + 0.5) / size).astype(F)
    width, angle = _column(radius), 0.6 * n[:, 4] - 0.3
    u, v = _rotate((at[None, None, :] - x) / width, (at[None, :, None] - y) / width, angle)
    inside, pixels = np.empty((len(rows), size, size), F), _column(radius * size)
    classes = (n[:, 0] * len(SHAPES)).astype(np.int64)
    for label, distance in enumerate(SHAPES.values()):
        selected = classes == label
        if selected.any():
            inside[selected] = np.clip(F(0.5) - distance(u[selected], v[selected]) * pixels[selected], 0, 1)
    texture = _texture(u, v, n[:, 5:8], pixels)
    gradient = _column(n[:, 8]) * at[None, None, :] + _column(1 - n[:, 8]) * at[None, :, None]
    image = np.empty((len(rows), 3, size, size), np.uint8)
    colours = _colours(n)
    for c in range(3):
        first, second, near, far = (_column(colour[:, c]) for colour in colours)
        shape, background = first + (second - first) * texture, near + (far - near) * gradient
        image[:, c] = (background + (shape - background) * inside) * F(255) + F(0.5)
    return image


def shape_positions(n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (radius, x, y) of each shape, (B,), in units of the image width; the shape is inside the image."""
    radius = 0.28 + 0.14 * n[:, 1]
    x, y = (0.5 + (0.5 - radius) * (1.4 * n[:, k] - 0.7) for k in (2, 3))
    return radius, x, y


def _rotate(u: Grid, v: Grid, angle: np.ndarray) -> tuple[Grid, Grid]:
    """Rotate coordinates by angles in radians, (B,)."""
    cos, sin = _column(np.cos(angle)), _column(np.sin(angle))
    return cos * u + sin * v, cos * v - sin * u


def _texture(u: Grid, v: Grid, n: np.ndarray, pixels: Grid) -> Grid:
    """Return the weight of the second colour at each point: 0 (half of the images), stripes, squares or dots."""
    width = _column(0.5 + 0.4 * n[:, 1])
    across, along = _rotate(u / width, v / width, 6.0 * n[:, 2])
    sharp = pixels * width
    waves = [np.abs(w - np.floor(w) - F(0.5)) - F(0.25) for w in (across, along)]
    style = (n[:, 0] * 6).astype(np.int64)[:, None, None]
    squares = np.where((waves[0] < 0) == (waves[1] < 0), -1, 1) * np.minimum(*(np.abs(w) for w in waves))
    dots = np.sqrt((waves[0] - F(0.25)) ** 2 + (waves[1] - F(0.25)) ** 2) - F(0.3)
    marks = np.select([style == 1, style == 2, style == 3], [waves[0], squares, dots], F(-1e3))
    return np.clip(F(0.5) + marks * sharp, 0, 1)


def _colours(n: np.ndarray) -> list[np.ndarray]:
    """Return four colours, (B, 3): two of the shape, of similar hue, and the ends of the background's gradient."""
    pale = n[:, 9] < 0.5
    value, ground = np.where(pale, 0.5, 0.8) + 0.2 * n[:, 11], np.where(pale, 0.8, 0.05)
    shape = _rgb(n[:, 10], 0.7 + 0.3 * n[:, 12], value)
    other = _rgb(n[:, 10] + 0.2 * n[:, 13] - 0.1, 0.5 + 0.5 * n[:, 14], value * (0.5 + 0.25 * n[:, 15]))
    ends = [_rgb(n[:, 16], 0.2 * n[:, 17], ground + 0.2 * n[:, k]) for k in (18, 19)]
    return [shape, other, *ends]


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Convert hue (in turns), saturation and value, (B,) each, to RGB, (B, 3)."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6
    return value[:, None] * (1 - saturation[:, None] * np.clip(np.minimum(k, 4 - k), 0, 1))


def _column(x: np.ndarray) -> np.ndarray:
    return x.astype(F)[:, None, None]


@dataclass(frozen=True, kw_only=True)
class ShapeImages(LazyImages):
    """Images drawn on demand from row `first`; `count` is the reported length, and later rows exist too."""

    first: int = 0

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        return draw_images(row_numbers(rows, self.count) + self.first, self.size)


@dataclass(frozen=True, kw_only=True)
class ShapeLabels:
    """Classes of the images `first` to `first + count`, (N,) int64, computed on demand."""

    count: int
    first: int = 0

    dtype = np.dtype(np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count,)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        return class_labels(row_numbers(rows, self.count) + self.first)


def row_numbers(rows: np.ndarray | slice, count: int) -> np.ndarray:
    """Convert rows to numbers; a slice selects from the first `count`."""
    return np.arange(count)[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)


@dataclass(frozen=True, kw_only=True)
class EndlessDataset(Dataset):
    """A set whose stream never repeats: image i of a run with seed s is drawn from (s, i)."""

    def stream_rows(self, seed: int, position: int, count: int) -> np.ndarray:
        """Return the rows of images `position` to `position + count` of the seed's stream, (count,)."""
        if not 0 <= seed < MAX_SEEDS or position + count > IMAGES_PER_SEED:
            raise ValueError(
                f"seed {seed} at image {position + count:,} is beyond the shapes that can be drawn: seeds below "
                f"{MAX_SEEDS:,}, and {IMAGES_PER_SEED:,} images of each"
            )
        return seed * IMAGES_PER_SEED + np.arange(position, position + count)


def open_shapes(size: int) -> DataSource:
    """Open shapes of this size; ValueError for a size out of range."""
    if not 16 <= size <= 1024:
        raise ValueError(f"shapes-{size} would be {size} pixels wide; it must be from 16 to 1024")
    return DataSource(
        channels=3,
        size=size,
        num_classes=len(SHAPES),
        about=f"ten classes of shapes, {size}x{size}, synthetic, endless",
        classes=tuple(SHAPES),
        load=lambda folder: load_shapes(size),
    )


def load_shapes(size: int) -> EndlessDataset:
    """Load shapes: the endless training set, the reference and the held-out images."""
    count = next(count for largest, count in REFERENCE_IMAGES.items() if size <= largest)
    return EndlessDataset(
        images=ShapeImages(size=size, count=LISTED_IMAGES),
        labels=ShapeLabels(count=LISTED_IMAGES),
        reference=ShapeImages(size=size, count=count, first=FIRST_REFERENCE_ROW),
        held_out=ShapeImages(size=size, count=count // 5, first=FIRST_HELD_OUT_ROW),
        held_out_labels=class_labels(FIRST_HELD_OUT_ROW + np.arange(count // 5)),
    )
