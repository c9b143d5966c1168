"""Hashes of plain data.  Imports no torch."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest_json(data: Any) -> str:
    """SHA-256 of the canonical JSON of some plain data, in hexadecimal."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
