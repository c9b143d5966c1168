"""Tables on a terminal."""

from bench import leaderboard


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
