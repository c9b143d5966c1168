"""Paths of this code and of its data files.  Imports no torch.

A checkout and an editable install have slurm/ and results/ beside bench/; a wheel has copies in bench/_shipped/.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

PACKAGES = ("architectures", "bench")
"""The top-level packages of this project."""
ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the packages: a checkout, a copy of the code, or site-packages."""


def data_file(name: str) -> Path:
    """Path of a data file or folder, given relative to the top of the checkout, for example "slurm"."""
    in_checkout = ROOT / name
    shipped = ROOT / "bench" / "_shipped" / name
    return shipped if shipped.exists() and not in_checkout.exists() else in_checkout


def code_hash(root: Path = ROOT) -> str:
    """SHA-256 of the paths and sources of all modules of this project, sub-packages included."""
    sha256 = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        sha256.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return sha256.hexdigest()
