"""Tables on a terminal."""

import pytest
from factories import config_of, full_record, short_record
from leaderboard_views import published

from bench import leaderboard


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


def test_terminal_shows_the_columns_that_fit(mixed, capsys, monkeypatch):
    assert leaderboard.main(["--results", str(mixed)]) == 0
    whole_ = capsys.readouterr().out.splitlines()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    assert leaderboard.main(["--results", str(mixed)]) == 0
    *cut, note = capsys.readouterr().out.splitlines()
    tables = [line for line in cut if line.startswith("|")]
    assert tables and all(len(line) <= 80 and line.endswith("|") and "model" in tables[0] for line in tables)
    assert note.startswith("Columns that do not fit into 80 characters: ") and "leaderboard.md" in note
    assert [line for line in whole_ if line.startswith("|")] != tables
