"""Names of data sets as records show them.  Imports no torch."""

from __future__ import annotations

import re
from pathlib import PurePath

ARCHIVE_SUFFIX = r"\.(tar\.gz|tgz|tar|npz|parquet)$"


def dataset_title(name: str) -> str:
    """Return a data set's name without folders and suffixes of archives: latents:/a/b/cats is latents:cats."""
    kind, colon, path = name.rpartition(":")
    path, at, size = path.rpartition("@") if re.search(r"@\d+$", path) else (path, "", "")
    location = PurePath(path)
    last = (location.parent.name if location.name == "train" else "") or location.name or path
    return f"{kind}{colon}{re.sub(ARCHIVE_SUFFIX, '', last)}{at}{size}"
