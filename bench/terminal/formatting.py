"""Numbers, durations and sizes as people read them."""

from __future__ import annotations


def format_count(count: float | None) -> str:
    """Format to three digits: 1,234,567 is "1.23 M", 1,234e12 is "1.23e15", None is ""."""
    if count is None:
        return ""
    if abs(count) >= 999.5e12:
        digits, _, power = f"{count:.2e}".partition("e+")
        return f"{float(digits):g}e{power}"
    for unit in ("", " k", " M", " G"):
        if abs(count) < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g} T"


def format_duration(seconds: float) -> str:
    """Format in the unit that suits the length: "45 s", "12.3 min" or "5.2 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"


def format_bytes(count: float) -> str:
    """Format in MiB below 256 MiB, otherwise in GiB."""
    return f"{count / 2**30:,.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
