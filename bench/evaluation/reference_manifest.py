"""Manifest of a file of reference statistics: the data, extractor and protocol that its numbers come from.

It is JSON text under the key `manifest` of an .npz file in ADM's layout.  Other programs that read mu and sigma can
use the file too.  Imports no torch.

N images, C channels, H height, W width, F features.
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
FACTS = {
    "size": "images of (C, H, W)",
    "extractor": "features of",
    "weights_sha256": "weights with the SHA-256",
    "protocol": "protocol",
}
"""Fields that two sample sets must share -> their names in messages."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReferenceManifest:
    """Contents of a manifest."""

    format: int
    data: str
    """Name of the data set, or of the file or folder."""
    data_sha256: str
    """Hash of the file, of a folder's file names and contents, or of a data set's images (its `reference_hash`)."""
    count: Annotated[int, Field(ge=2)]
    size: tuple[int, int, int]
    """(C, H, W) of the images that the extractor received."""
    resize: str
    crop: str
    left_out: int
    """Number of images that could not be used."""
    extractor: str
    weights: str
    """Name of the file of weights."""
    weights_sha256: str
    protocol: str
    layers: dict[str, str]
    """Array of the file -> layer of the extractor."""
    versions: dict[str, str]

    def to_json(self) -> str:
        return adapter(ReferenceManifest).dump_json(self, indent=2).decode()


def summarize_manifest(fields: Mapping[str, Any]) -> str:
    """Summarize a manifest's fields in one line."""
    (_, height, width), weights = fields["size"], fields["weights_sha256"][:12]
    images = f"{fields['count']:,} images of {width}x{height}"
    return f"{fields['data']}, {images}, {fields['extractor']} {weights}..., {fields['protocol']}"


def parse_manifest(text: str, name: str) -> ReferenceManifest:
    """Parse a manifest; ValueError names the file and the first field that is wrong."""
    try:
        manifest = validate_json(ReferenceManifest, text)
    except ValueError as error:
        raise ValueError(f"{name} has a manifest that cannot be read: {error}") from None
    if manifest.format != MANIFEST_FORMAT:
        raise ValueError(f"{name} has a manifest of format {manifest.format}; this version reads {MANIFEST_FORMAT}")
    return manifest


def read_manifest(path: str, z: Mapping[str, np.ndarray]) -> tuple[ReferenceManifest | None, np.ndarray | None]:
    """Read (manifest, features (N, F) float32) of an open .npz file; None for one that it lacks.

    ValueError if the features are not finite, or not as many as the manifest says.
    """
    if MANIFEST_KEY not in z:
        return None, None
    if z[MANIFEST_KEY].dtype.kind != "U" or z[MANIFEST_KEY].ndim:
        raise ValueError(f"{path} has a manifest that is no text")
    manifest = parse_manifest(str(z[MANIFEST_KEY]), path)
    if FEATURES_KEY not in z:
        return manifest, None
    x = z[FEATURES_KEY]
    if x.ndim != 2 or x.dtype != np.float32 or FEATURES_KEY not in manifest.layers:
        raise ValueError(f"{path}: features are {x.dtype} {x.shape}; they must be float32 (N, F), with a layer")
    if len(x) != manifest.count:
        raise ValueError(f"{path} has features of {len(x):,} images, and its manifest says {manifest.count:,}")
    if not np.isfinite(x).all():
        raise ValueError(f"{path}: features hold NaN or infinity")
    return manifest, x


def check_agreement(name: str, manifest: ReferenceManifest, other: str, facts: Mapping[str, Any]) -> None:
    """Compare a manifest with facts about the other sample set or the request; ValueError names a difference.

    `facts` has some of the keys of FACTS; None means unknown.
    """
    for key, label in FACTS.items():
        ours, theirs = getattr(manifest, key), facts.get(key)
        if theirs is not None and ours != theirs:
            ours, theirs = (str(v)[:16] + "..." if key == "weights_sha256" else str(v) for v in (ours, theirs))
            raise ValueError(
                f"{name} was made with {label} {ours}, and {other} with {theirs}; the two cannot be compared; "
                "request the same, or write the statistics again with python -m bench.reference"
            )
