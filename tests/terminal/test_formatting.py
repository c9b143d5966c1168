"""Numbers, durations and sizes as people read them."""

import pytest

from bench.terminal.formatting import format_bytes, format_count, format_duration


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.5, "0.5"), (999, "999"), (999.6, "1 k"), (1.234e6, "1.23 M"), (5e13, "50 T"), (1e21, "1e21")],
)
def test_counts_have_three_digits(value, text):
    assert format_count(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "1.5 min"), (5400, "1.5 h")])
def test_durations_have_a_unit_that_suits(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(2**20, "1.0 MiB"), (2**28 - 1, "256.0 MiB"), (2**30, "1.00 GiB"), (2**41, "2,048.00 GiB")]
)
def test_sizes_are_in_mib_or_gib(count, text):
    assert format_bytes(count) == text
