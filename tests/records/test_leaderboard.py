"""Rows of the leaderboard."""

import dataclasses

import pandas as pd
from factories import config_of, full_record, metric, short_record
from leaderboard_views import published, table_of

from bench.records import leaderboard_files, record
from bench.records.leaderboard import build_tables


def test_rows_are_ranked_within_one_protocol_only():
    table = leaderboard_files.csv_rows(
        [short_record("a", 3.0), short_record("b", 1.0), short_record("c", 2.0, samples=500)]
    )
    assert {row["model"]: row["rank"] for row in table} == {"a": 2, "b": 1, "c": 1}


def test_equal_values_share_a_rank():
    assert [
        row["rank"]
        for row in leaderboard_files.csv_rows([short_record("a"), short_record("b"), short_record("c", 2.0)])
    ] == [1, 1, 3]


def test_seeds_share_a_row_with_mean_std_and_count(tmp_path):
    runs = [short_record("a", value, seed=seed) for seed, value in enumerate((1.0, 2.0, 3.0))]
    for r in (*runs, short_record("b", 1.9)):
        record.publish_record(tmp_path, r)
    text = leaderboard_files.write_leaderboard(tmp_path)
    lines = [[cell.strip() for cell in x.split("|")] for x in text.splitlines() if x.startswith("| ")]
    assert [(x[1], x[3]) for x in lines[1:]] == [("1=", "b"), ("1=", "a")]
    assert lines[2][4] == "2.000 ± 1.000 (3)" and "0, 1, 2" in lines[2]
    assert all(r.id in text for r in runs)
    csv = pd.read_csv(tmp_path / "leaderboard.csv").sort_values("seed")
    assert sorted(csv[csv["model"] == "a"]["rank"]) == [1, 1, 1] and set(csv["seeds"]) == {3, 1}


def test_overlapping_rows_share_a_rank_the_better_first(tmp_path):
    text = leaderboard_files.write_leaderboard(
        published(tmp_path, short_record("a", 1.05), short_record("b", 1.0), short_record("c", 2.0))
    )
    rows = table_of(text)
    assert [(x["model"], x["rank"], x["ranks"]) for x in rows] == [
        ("b", "1=", "1 to 2"),
        ("a", "1=", "1 to 2"),
        ("c", "3", "3"),
    ]


def test_without_an_interval_there_is_no_rank():
    bare = dataclasses.replace(short_record("a", 0.5), metrics={"fid[digits-cnn]": metric(0.5, interval=False)})
    (board,) = build_tables([bare, short_record("b", 1.0)])
    assert [(x.label, x.rank and x.rank.best) for x in board.entries] == [("a", None), ("b", 1)]


def test_row_has_every_metric_with_its_arrow_and_every_cost(tmp_path):
    runs = [full_record(config_of(seed=s), fid=1 + s / 10, macs=2_000_000) for s in range(3)]
    runs[1] = dataclasses.replace(runs[1], incidents=[{"kind": "rollback"}], created="2026-11-23T00:00:00+00:00")
    (row,) = table_of(leaderboard_files.write_leaderboard(published(tmp_path, *runs)))
    assert {k: v for k, v in row.items() if k not in ("record", "95 %")} == {
        "rank": "1",
        "ranks": "1",
        "model": "dit nano/2",
        "fid[digits-cnn] ↓": "1.100 ± 0.100 (3)",
        "is ↑": "7.000 ± 0.000 (3)",
        "precision ↑": "0.800 ± 0.000 (3)",
        "recall ↑": "0.700 ± 0.000 (3)",
        "class_accuracy ↑": "0.900 ± 0.000 (3)",
        "N": "1,000",
        "params": "100 k",
        "MACs": "2 M",
        "training FLOPs": "1.33e+12",
        "hours": "0.0617",
        "images/s": "500",
        "incidents": "1",
        "seeds": "0, 1, 2",
        "date": "2026-11-23",
        "commit": "0123456789ab",
    }
    assert row["95 %"] == "0.852 to 1.348"
    for r in runs:
        assert f"(records/v1/{r.id}.json)" in row["record"] and (tmp_path / "records" / "v1" / f"{r.id}.json").is_file()
