"""The manifest inside a file of reference statistics: what they were made of, and what must agree with it.

It is JSON text under the key `manifest` of an .npz in ADM's layout, so the file is read by whoever reads
mu and sigma.  Imports no torch.

N images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.config.validation import STRICT, adapter, validate_json

MANIFEST_FORMAT = 1
MANIFEST_KEY, FEATURES_KEY = "manifest", "features"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReferenceManifest:
    """What a file of statistics says of itself."""

    format: int
    data: str
    """Name of the data set, or of the file or folder."""
    data_sha256: str
    """Of the file, of a folder's names and files, or of the images of a data set (its `reference_hash`)."""
    count: Annotated[int, Field(ge=2)]
    size: tuple[int, int, int]
    """(C, H, W) as the extractor was given them."""
    resize: str
    crop: str
    left_out: int
    """Images that could not be used."""
    extractor: str
    weights: str
    """Name of the file of weights."""
    weights_sha256: str
    protocol: str
    layers: dict[str, str]
    """Array of the file -> layer of the extractor."""
    versions: dict[str, str]

    def text(self) -> str:
        return adapter(ReferenceManifest).dump_json(self, indent=2).decode()


def summarize_manifest(m: Mapping[str, Any]) -> str:
    """One line of a report, of a manifest's fields."""
    (_, height, width), weights = m["size"], m["weights_sha256"][:12]
    return f"{m['data']}, {m['count']:,} images of {width}x{height}, {m['extractor']} {weights}..., {m['protocol']}"


def parse_manifest(text: str, name: str) -> ReferenceManifest:
    """A manifest from its text; ValueError names the file and what is wrong."""
    try:
        found = validate_json(ReferenceManifest, text)
    except ValueError as error:
        raise ValueError(f"{name} has a manifest that cannot be read: {error}") from None
    if found.format != MANIFEST_FORMAT:
        raise ValueError(f"{name} has a manifest of format {found.format}; this version reads {MANIFEST_FORMAT}")
    return found


def read_manifest(path: str, z: Mapping[str, np.ndarray]) -> tuple[ReferenceManifest | None, np.ndarray | None]:
    """(manifest, features (N, F) float32) of an opened .npz; None where it has none.

    ValueError where the features are not as many as the manifest says, or not finite.
    """
    if MANIFEST_KEY not in z:
        return None, None
    if z[MANIFEST_KEY].dtype.kind != "U" or z[MANIFEST_KEY].ndim:
        raise ValueError(f"{path} has a manifest that is no text")
    found = parse_manifest(str(z[MANIFEST_KEY]), path)
    if FEATURES_KEY not in z:
        return found, None
    rows = z[FEATURES_KEY]
    if rows.ndim != 2 or rows.dtype != np.float32 or FEATURES_KEY not in found.layers:
        raise ValueError(f"{path}: features are {rows.dtype} {rows.shape}; they must be float32 (N, F), with a layer")
    if len(rows) != found.count:
        raise ValueError(f"{path} has features of {len(rows):,} images, and its manifest says {found.count:,}")
    if not np.isfinite(rows).all():
        raise ValueError(f"{path}: features hold NaN or infinity")
    return found, rows


def check_agreement(name: str, manifest: ReferenceManifest, other: str, facts: Mapping[str, Any]) -> None:
    """ValueError where what is known of the other side, or asked for, is not what the manifest says.

    `facts` has some of size, extractor, weights_sha256 and protocol.
    """
    for key, what in {
        "size": "images of (C, H, W)",
        "extractor": "features of",
        "weights_sha256": "weights with the SHA-256",
        "protocol": "protocol",
    }.items():
        own, found = getattr(manifest, key), facts.get(key)
        if found is not None and own != found:
            short = [str(v)[:16] + "..." if key == "weights_sha256" else str(v) for v in (own, found)]
            raise ValueError(
                f"{name} was made with {what} {short[0]}, and {other} with {short[1]}; the two cannot be compared; "
                "ask for the same, or make the statistics again with python -m bench.reference"
            )
