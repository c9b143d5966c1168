"""Fixtures of the tests of records."""

import pytest
from factories import config_of, full_record, short_record
from leaderboard_views import published


@pytest.fixture
def mixed(tmp_path):
    """Three models of two budgets, one native."""
    runs = [
        full_record(config_of(), fid=1.0, macs=3_000_000),
        full_record(config_of("uvit"), fid=2.0, macs=1_000_000),
        full_record(config_of("unet"), fid=3.0, macs=2_000_000),
        full_record(config_of("unet", budget__images=60_000), fid=4.0),
    ]
    return published(tmp_path, *runs, short_record("b", training={"track": "native"}))
