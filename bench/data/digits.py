"""scikit-learn's handwritten digits (UCI).  Imports no torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bench.data.dataset import Dataset

GREY_LEVELS = 16
"""Largest pixel value in the file."""
HELD_OUT_EVERY = 4
"""Spacing of the held-out images."""


def load_digits(_: Path) -> Dataset:
    """Load the 1,797 digits, 8x8 pixels of 17 grey levels; every fourth is held out.

    The file is read without scikit-learn, whose import would add 1.5 s to the start of every process.
    """
    spec = find_spec("sklearn")
    assert spec and spec.submodule_search_locations, "scikit-learn is a dependency of this package"
    table = np.loadtxt(Path(spec.submodule_search_locations[0]) / "datasets/data/digits.csv.gz", delimiter=",")
    images = np.rint(table[:, :-1].reshape(-1, 1, 8, 8) * (255 / GREY_LEVELS)).astype(np.uint8)
    labels = table[:, -1].astype(np.int64)
    held_out = np.arange(len(images)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return Dataset(
        images=images[~held_out],
        labels=labels[~held_out],
        reference=images[~held_out],
        held_out=images[held_out],
        held_out_labels=labels[held_out],
    )
