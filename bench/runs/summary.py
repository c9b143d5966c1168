"""Show the results of runs on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bench.storage import lease
from bench.storage.run_folder import RunFolder


def show_results(
    runs: dict[str, RunFolder], unfinished: dict[str, RunFolder], results: Path, suite: str | None, all_done: bool
) -> int:
    """Print why runs are unfinished, the pictures and records of the others, and their part of the leaderboard.

    Returns the exit status: 0, 1 where a run is unfinished, or 2 where a ValueError, which users can mend, ended it.
    """
    from bench.records import leaderboard_files, text_tables
    from bench.records.record import read_record

    status = max((explain_unfinished(name, run) for name, run in unfinished.items()), default=0)
    finished = {name: read_record(run.record_path) for name, run in runs.items() if name not in unfinished}
    if not finished:
        return status
    pictures = [str(run.path / "samples.png") for name, run in runs.items() if name in finished]
    if suite and not unfinished:
        pictures += [str(path) for path in draw_suite(runs, finished, results, suite)]
    text = leaderboard_files.write_leaderboard(results)
    if all_done:
        print("all of this is done already; --fresh starts it over")
    print("pictures\n  " + "\n  ".join(pictures))
    print("records\n  " + "\n  ".join(str(results / "records" / "v1" / f"{r.id}.json") for r in finished.values()))
    print(f"leaderboard in {results / 'leaderboard.md'} and .csv\n")
    shown = {r.fingerprint for r in finished.values()}
    tables = ["Protocol " + part for part in text.split("## Protocol ")[1:] if part[:12] in shown]
    print(text_tables.fit_terminal("\n".join(tables).strip(), str(results / "leaderboard.md")))
    return status


def explain_unfinished(name: str, run: RunFolder) -> int:
    """Print to stderr why a run is unfinished; return its exit status, 2 for a ValueError, else 1."""
    error = run.path / "error.txt"
    if not error.is_file():
        holder = lease.current_holder(run.path)
        state = f"being worked on by {holder.describe()}" if holder else "unfinished; the same command continues it"
        print(f"{name} is {state}", file=sys.stderr)
        return 1
    last = error.read_text().strip().splitlines()[-1]
    print(f"{name} failed: {last.removeprefix('ValueError: ')}\n  the whole story: {error}", file=sys.stderr)
    return 2 if last.startswith("ValueError: ") else 1


def draw_suite(runs: dict[str, RunFolder], finished: dict[str, Any], results: Path, suite: str) -> list[Path]:
    """Draw a suite's FID curves, with the reference rows as levels, and its samples; return both files."""
    from bench.records import record
    from bench.reports import run_pictures

    first = next(iter(finished.values()))
    levels = {
        r.label: next(m.value for n, m in r.metrics.items() if n.startswith("fid"))
        for r in record.read_records(results)
        if r.kind == "reference" and r.evaluation_fingerprint == first.evaluation_fingerprint
    }
    paths = [results / "runs" / f"{suite}-{what}.png" for what in ("curves", "samples")]
    run_pictures.save_curves({finished[n].label: (run, finished[n].curve) for n, run in runs.items()}, paths[0], levels)
    run_pictures.save_side_by_side({finished[n].label: run.path / "samples.png" for n, run in runs.items()}, paths[1])
    return paths
