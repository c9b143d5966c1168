"""Rows of the tables that `python -m bench.leaderboard` prints."""

from contextlib import redirect_stdout
from io import StringIO

from bench import leaderboard
from bench.records import record


def published(results, *records):
    for r in records:
        record.publish_record(results, r)
    return results


def table_of(text):
    """The rows of printed Markdown tables, by heading."""
    rows, head = [], None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            head = None
        elif head is None:
            head = cells
        elif not line.startswith("|--"):
            rows.append(dict(zip(head, cells, strict=True)))
    return rows


def views(results, *flags):
    """Run the command, assert that it writes nothing, and return the printed rows."""
    before = sorted(p.name for p in results.iterdir())
    with redirect_stdout(StringIO()) as out:
        assert leaderboard.main(["--results", str(results), *flags]) == 0
    assert sorted(p.name for p in results.iterdir()) == before
    return table_of(out.getvalue())
