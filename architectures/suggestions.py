"""Suggestions for misspelt names.  Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CUTOFF = 0.6
"""Smallest similarity of a suggestion, as difflib.SequenceMatcher's ratio."""


def did_you_mean(word: str, known: Iterable[str], prefix: str = "", listed: Iterable[str] | None = None) -> str:
    """Return "did you mean ...?" with the known names nearest to a word, or "known: ..." with all of them.

    `prefix` is put before each name, for example "slurm.".  If no name is near, `listed` replaces `known` in the list.
    """
    names = list(known)
    near = difflib.get_close_matches(word, names, n=3, cutoff=CUTOFF)
    near = near or [k for k in names if word and (word.lower() in k.lower() or k.lower() in word.lower())]
    if near:
        return f"did you mean {' or '.join(prefix + name for name in near)}?"
    return f"known: {', '.join(prefix + name for name in (names if listed is None else listed))}"
