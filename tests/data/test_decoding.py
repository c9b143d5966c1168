"""Compare the crop with its definition, implemented here in integers and without Pillow's resize."""

import numpy as np
import pytest
from PIL import Image

from bench.data.decoding import centre_crop

BITS = 22


def box(x):
    return (abs(x) <= 0.5).astype(float) * (x != -0.5)


def cubic(x):
    """Keys' cubic with a = -1/2."""
    a, x = -0.5, abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def weights(before, after, kernel, support):
    """Return weights (after, before) in units of 2^-22: the kernel, stretched to the scale, around each output."""
    scale = before / after
    stretch = max(scale, 1.0)
    table = np.zeros((after, before), np.int64)
    for i in range(after):
        centre = (i + 0.5) * scale
        first = max(int(centre - support * stretch + 0.5), 0)
        last = min(int(centre + support * stretch + 0.5), before)
        at = np.arange(first, last)
        w = kernel((at - centre + 0.5) / stretch)
        table[i, first:last] = np.floor(np.abs(w / w.sum()) * 2**BITS + 0.5) * np.sign(w)
    return table


def resized(pixels, height, width, kernel, support, first):
    """Resize (H, W, C) uint8 in two passes, each rounded to integers; `first` is the axis of the first pass."""
    for axis in (first, 1 - first):
        size = (height, width)[axis]
        if pixels.shape[axis] != size:
            w = weights(pixels.shape[axis], size, kernel, support)
            sums = np.moveaxis(np.tensordot(w, pixels.astype(np.int64), (1, axis)), 0, axis)
            pixels = np.clip((sums + (1 << (BITS - 1))) >> BITS, 0, 255).astype(np.uint8)
    return pixels


def reference(pixels, size, first=1):
    """Crop as ADM (arXiv:2105.05233): halve by box filters while possible, resize bicubically, take the centre."""
    while min(pixels.shape[:2]) >= 2 * size:
        pixels = resized(pixels, pixels.shape[0] // 2, pixels.shape[1] // 2, box, 0.5, first)
    scale = size / min(pixels.shape[:2])
    pixels = resized(pixels, round(pixels.shape[0] * scale), round(pixels.shape[1] * scale), cubic, 2.0, first)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


SHAPES = {
    "as it is": (32, 32),
    "wide": (32, 57),
    "halved": (64, 64),
    "halved twice, odd sides": (131, 197),
    "almost halved": (63, 75),
    "enlarged": (19, 23),
    "tall": (60, 33),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_crop_is_equal_to_its_definition(shape):
    rng = np.random.RandomState(sum(shape))
    noise = rng.randint(0, 256, (*shape, 3)).astype(np.uint8)
    smooth = (np.add.outer(np.arange(shape[0]) * 3, np.arange(shape[1])) % 256).astype(np.uint8)[..., None].repeat(3, 2)
    for pixels in (noise, smooth):
        assert np.array_equal(np.asarray(centre_crop(Image.fromarray(pixels), 32)), reference(pixels, 32))


def test_tall_images_may_be_resized_rows_or_columns_first():
    """Pillow 13 resizes the columns of tall images first, older versions the rows; the definition allows both."""
    pixels = np.random.RandomState(0).randint(0, 256, (211, 33, 3)).astype(np.uint8)
    cropped = np.asarray(centre_crop(Image.fromarray(pixels), 32))
    assert any(np.array_equal(cropped, reference(pixels, 32, first)) for first in (0, 1))


def test_boxes_come_before_the_cubic():
    """A single bicubic resize of the whole image gives a different result."""
    noise = np.random.RandomState(0).randint(0, 256, (128, 128, 3)).astype(np.uint8)
    plain = np.asarray(Image.fromarray(noise).resize((32, 32), Image.Resampling.BICUBIC))
    assert not np.array_equal(np.asarray(centre_crop(Image.fromarray(noise), 32)), plain)


def test_an_odd_remainder_is_cut_from_the_last_rows():
    columns = np.broadcast_to(np.arange(35, dtype=np.uint8)[None, :, None], (32, 35, 3))
    assert np.asarray(centre_crop(Image.fromarray(columns.copy()), 32))[0, [0, -1], 0].tolist() == [1, 32]
