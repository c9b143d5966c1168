"""Ranks, rows and what the command prints; tests/records/test_record.py has how records come to be."""

import dataclasses
import json
import math
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from made_records import COST, config_of, made, many, metric, whole

from bench import leaderboard
from bench.records import equal_compute, leaderboard_files, ranking, record
from bench.records.leaderboard import build_tables
from bench.records.ranking import SeedStatistics


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


def places(*ends, direction="lower"):
    spreads = [e and SeedStatistics(mean=sum(e) / 2, n=1, low=e[0], high=e[1]) for e in ends]
    return [p and (p.best, p.worst) for p in ranking.assign_ranks(spreads, direction)]


CHAINS = {
    "apart": ([(0, 1), (2, 3), (4, 5)], [(1, 1), (2, 2), (3, 3)]),
    "a chain does not make a tie of its ends": ([(0, 2), (1, 4), (3, 6)], [(1, 2), (1, 3), (2, 3)]),
    "all overlap": ([(0, 9), (1, 8), (2, 7)], [(1, 3)] * 3),
    "one wide interval ties with all, and hides nothing": ([(0, 1), (2, 3), (0, 9)], [(1, 2), (2, 3), (1, 3)]),
    "what only touches overlaps": ([(0, 1), (1, 2)], [(1, 2), (1, 2)]),
    "points": ([(1, 1), (1, 1), (2, 2)], [(1, 2), (1, 2), (3, 3)]),
    "without an interval": ([(0, 1), None, (2, 3)], [(1, 1), None, (2, 2)]),
    "one": ([(0, 1)], [(1, 1)]),
}


@pytest.mark.parametrize("case", CHAINS)
def test_a_rank_is_one_more_than_the_rows_that_are_better_beyond_their_intervals(case):
    ends, expected = CHAINS[case]
    assert places(*ends) == expected
    mirrored = [e and (-e[1], -e[0]) for e in ends]
    assert places(*mirrored, direction="higher") == expected


def test_ranks_agree_with_comparing_every_pair():
    rng = np.random.default_rng(0)
    ends = [tuple(sorted(rng.integers(0, 12, size=2))) for _ in range(60)]
    better = [sum(other[1] < own[0] for other in ends) for own in ends]
    worse = [sum(other[0] > own[1] for other in ends) for own in ends]
    assert places(*ends) == [(1 + b, len(ends) - w) for b, w in zip(better, worse, strict=True)]


def test_the_interval_of_several_seeds_is_students_t_of_the_mean():
    found = ranking.seed_statistics([1.0, 2.0, 3.0])
    assert (found.mean, found.std, found.n) == (2.0, 1.0, 3)
    assert [found.low, found.high] == pytest.approx([2 + sign * 4.302652729911275 / math.sqrt(3) for sign in (-1, 1)])


def test_that_interval_holds_the_mean_of_all_seeds_in_95_of_100_studies():
    rng = np.random.default_rng(1)
    for n in (2, 3, 5):
        studies = [ranking.seed_statistics(list(rng.normal(size=n))) for _ in range(4000)]
        assert np.mean([s.low <= 0 <= s.high for s in studies]) == pytest.approx(0.95, abs=0.011)


@pytest.mark.parametrize(("interval", "low"), [(True, 1.9), (False, None)])
def test_the_interval_of_one_seed_is_the_records_own(interval, low):
    found = ranking.metric_statistics([metric(2.0, interval)])
    assert (found.mean, found.n, found.std) == (2.0, 1, None) and found.low == (low and pytest.approx(low))


def test_rows_are_ranked_within_one_protocol_only():
    table = leaderboard_files.csv_rows([made("a", 3.0), made("b", 1.0), made("c", 2.0, samples=500)])
    assert {row["model"]: row["rank"] for row in table} == {"a": 2, "b": 1, "c": 1}


def test_reference_rows_are_never_ranked(tmp_path):
    for r in (made("a", 3.0), made("noise", 0.1, kind="reference"), made("b", 1.0)):
        record.publish_record(tmp_path, r)
    text = leaderboard_files.write_leaderboard(tmp_path)
    lines = [x for x in text.splitlines() if x.startswith("|")]
    assert [x.split("|")[1].strip() for x in lines[2:]] == ["1", "2", "–"]
    assert "noise" in lines[-1]
    csv = pd.read_csv(tmp_path / "leaderboard.csv")
    assert csv[csv["kind"] == "reference"]["rank"].isna().all()


def test_equal_values_share_a_rank():
    assert [row["rank"] for row in leaderboard_files.csv_rows([made("a"), made("b"), made("c", 2.0)])] == [1, 1, 3]


def test_seeds_of_one_configuration_are_one_row_with_mean_deviation_and_number(tmp_path):
    runs = [made("a", value, seed=seed) for seed, value in enumerate((1.0, 2.0, 3.0))]
    for r in (*runs, made("b", 1.9)):
        record.publish_record(tmp_path, r)
    text = leaderboard_files.write_leaderboard(tmp_path)
    lines = [[cell.strip() for cell in x.split("|")] for x in text.splitlines() if x.startswith("| ")]
    assert [(x[1], x[3]) for x in lines[1:]] == [("1=", "b"), ("1=", "a")]
    assert lines[2][4] == "2.000 ± 1.000 (3)" and "0, 1, 2" in lines[2]
    assert all(r.id in text for r in runs)
    csv = pd.read_csv(tmp_path / "leaderboard.csv").sort_values("seed")
    assert sorted(csv[csv["model"] == "a"]["rank"]) == [1, 1, 1] and set(csv["seeds"]) == {3, 1}


def test_the_better_of_two_whose_intervals_overlap_is_first_and_shares_its_rank(tmp_path):
    text = leaderboard_files.write_leaderboard(published(tmp_path, made("a", 1.05), made("b", 1.0), made("c", 2.0)))
    rows = table_of(text)
    assert [(x["model"], x["rank"], x["ranks"]) for x in rows] == [
        ("b", "1=", "1 to 2"),
        ("a", "1=", "1 to 2"),
        ("c", "3", "3"),
    ]


def test_without_an_interval_there_is_no_rank():
    bare = dataclasses.replace(made("a", 0.5), metrics={"fid[digits-cnn]": metric(0.5, interval=False)})
    (board,) = build_tables([bare, made("b", 1.0)])
    assert [(x.label, x.rank and x.rank.best) for x in board.entries] == [("a", None), ("b", 1)]


def test_a_row_has_every_metric_with_its_arrow_and_every_cost(tmp_path):
    runs = [whole(config_of(seed=s), fid=1 + s / 10, macs=2_000_000) for s in range(3)]
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


def test_the_csv_has_each_run_with_its_groups_rank_mean_and_deviation_and_arrows(tmp_path):
    runs = [whole(config_of(seed=s), fid=1 + s / 10) for s in range(3)]
    leaderboard_files.write_leaderboard(published(tmp_path, *runs))
    table = pd.read_csv(tmp_path / "leaderboard.csv")
    assert list(table["fid[digits-cnn] ↓"]) == [1.0, 1.1, 1.2] and list(table["seed"]) == [0, 1, 2]
    for name, value in {"fid[digits-cnn] mean": 1.1, "fid[digits-cnn] deviation": 0.1, "rank_low": 0.8515862}.items():
        np.testing.assert_allclose(table[name], value, rtol=1e-6)
    assert set(table["rank"]) == set(table["rank_worst"]) == {1} and set(table["seeds"]) == {3}
    assert {f"{kind}[digits-cnn] ↑" for kind in ("is", "precision", "recall", "class_accuracy")} < set(table)
    costs = ["params", "macs", "training_flops", "accelerator_hours", "images_per_second"]
    assert not table[[*costs, "incidents", "date", "commit", "link"]].isna().any(axis=None)
    assert all((tmp_path / link).is_file() for link in table["link"])


def test_training_flops_beyond_64_bits_are_written_to_the_last_digit(tmp_path):
    cost = dataclasses.replace(COST, training_flops=3 * 10**20 + 1)
    leaderboard_files.write_leaderboard(
        published(tmp_path, dataclasses.replace(made("a"), cost=cost), made("noise", kind="reference"))
    )
    assert f",{3 * 10**20 + 1}," in (tmp_path / "leaderboard.csv").read_text()


def views(results, *flags):
    """What the command prints, by rows, and that it writes nothing."""
    before = sorted(p.name for p in results.iterdir())
    with redirect_stdout(StringIO()) as out:
        assert leaderboard.main(["--results", str(results), *flags]) == 0
    assert sorted(p.name for p in results.iterdir()) == before
    return table_of(out.getvalue())


@pytest.fixture
def mixed(tmp_path):
    """Three models of two budgets, one native."""
    runs = [
        whole(config_of(), fid=1.0, macs=3_000_000),
        whole(config_of("uvit"), fid=2.0, macs=1_000_000),
        whole(config_of("unet"), fid=3.0, macs=2_000_000),
        whole(config_of("unet", budget__images=60_000), fid=4.0),
    ]
    return published(tmp_path, *runs, made("b", training={"track": "native"}))


FILTERS = {
    "--data digits": 5,
    "--track shared": 4,
    "--track native": 1,
    "--track shared,native": 5,
    "--arch unet": 2,
    "--arch unet,dit": 3,
    "--budget 60000": 1,
    "--budget 6e4": 1,
    "--budget 111_000 --arch unet": 1,
}


@pytest.mark.parametrize("flags", FILTERS)
def test_a_filter_shows_what_fits_and_leaves_ranks_as_they_are(mixed, flags):
    ranks = {x["record"]: x["rank"] for x in table_of(leaderboard_files.write_leaderboard(mixed))}
    shown = views(mixed, *flags.split())
    assert len(shown) == FILTERS[flags]
    assert all(ranks[x["record"]] == x["rank"] for x in shown)


SORTS = {
    "macs": ["uvit", "unet", "dit"],
    "fid": ["dit", "uvit", "unet"],
    "rank": ["dit", "uvit", "unet"],
    "is": ["unet", "uvit", "dit"],
    "model": ["dit", "unet", "uvit"],
}


@pytest.mark.parametrize("by", SORTS)
def test_sorting_puts_the_best_or_the_least_first(tmp_path, by):
    scores = {"dit": (1.0, 5.0, 3), "uvit": (2.0, 6.0, 1), "unet": (3.0, 7.0, 2)}
    for arch, (fid, score, macs) in scores.items():
        record.publish_record(
            tmp_path, whole(config_of(arch), fid=fid, macs=macs * 10**6, more={"is[digits-cnn]": score})
        )
    assert [x["model"].split()[0] for x in views(tmp_path, "--sort", by)] == SORTS[by]


WRONG = {
    "--data cats": "--data is cats, which no record has; there are digits",
    "--arch gan": "there are ",
    "--budget many": "--budget is many; it must be a number of training images",
    "--budget 5": "--budget is 5, which no record has; there are 1000, 111000, 60000",
    "--arch dit --budget 60000": "no finished run fits --budget 60000 and --arch dit",
    "--sort height": "--sort is height; choose one of ",
    "--at-compute 0": "--at-compute is 0; it must be a number above 0",
    "--at-compute much": "--at-compute is much; it must be a number above 0",
    "--target fid": "--target is fid; write METRIC=VALUE",
    "--target fid=low": "--target is fid=low; write METRIC=VALUE",
    "--target fid=-1": "write METRIC=VALUE with a positive value",
    "--check a.json --data digits --sort fid": "--check looks at whole files; leave out --data, --sort",
    "--target sfid=1": "a metric that no run here has; choose one of ",
}


@pytest.mark.parametrize("flags", WRONG)
def test_what_is_asked_for_wrongly_is_answered_in_a_sentence(mixed, flags, capsys):
    assert leaderboard.main(["--results", str(mixed), *flags.split()]) == 2
    said = capsys.readouterr()
    assert WRONG[flags] in said.err and said.err.count("\n") == 1 and not said.out


def test_a_folder_without_records_is_said_to_be_one(tmp_path, capsys):
    assert leaderboard.main(["--results", str(tmp_path)]) == 2
    assert "has no records yet; python -m bench.run makes them" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_terminal_shows_the_columns_that_fit_and_where_all_are(mixed, capsys, monkeypatch):
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


def test_at_equal_compute_each_run_stands_at_its_nearest_point_which_is_said(tmp_path):
    """Points at 30, 60 and 120 kFLOPs: 80 k is nearer to 60 k in ratio, 90 k to 120 k."""
    curve = [(250, 9.0), (500, 3.0), (1000, 1.0)]
    seeds = [made("a", 1.0 + s / 100, seed=s, curve=[(i, f + s / 100) for i, f in curve]) for s in range(3)]
    published(tmp_path, *seeds, made("b", 2.0, curve=[(250, 8.0), (500, 4.0), (1000, 2.0)]))
    at_80 = {x["model"]: x for x in views(tmp_path, "--at-compute", "80e3")}
    said = [at_80["a"][column] for column in ("at images", "training FLOPs", "of those asked")]
    assert said == ["500", "6.00e+04", "x 0.75"]
    assert at_80["a"]["fid[digits-cnn] ↓"] == "3.010 ± 0.010 (3)" and at_80["a"]["rank"] == "1"
    assert at_80["b"]["rank"] == "–", "one seed has no interval there"
    at_90 = {x["model"]: x for x in views(tmp_path, "--at-compute", "90e3")}
    assert at_90["b"]["at images"] == "1,000" and at_90["b"]["rank"] == "2" and at_90["a"]["rank"] == "1"


def test_weights_that_others_trained_are_left_out_of_equal_compute(tmp_path):
    cost = dataclasses.replace(COST, training_flops=None, images_per_second=None)
    theirs = dataclasses.replace(made("b", training={"track": "published"}), cost=cost)
    published(tmp_path, made("a", curve=[(1000, 1.0)]), theirs)
    assert [x["model"] for x in views(tmp_path, "--at-compute", "9")] == ["a"]


REACHES = {
    "between two points": ([(100, 4.0), (1000, 2.0)], 3.0, (100 * 10**0.5, False)),
    "at a point": ([(100, 4.0), (1000, 2.0)], 2.0, (1000, False)),
    "at the first": ([(100, 4.0), (1000, 2.0)], 4.5, (100, True)),
    "never": ([(100, 4.0), (1000, 2.0)], 1.0, (math.inf, False)),
    "the first time of two": ([(1, 4.0), (10, 2.0), (100, 4.0), (1000, 1.0)], 3.0, (10**0.5, False)),
}


@pytest.mark.parametrize("case", REACHES)
def test_a_target_is_reached_where_the_line_between_two_points_does_in_the_logarithm_of_images(case):
    curve, value, expected = REACHES[case]
    for sign, direction in ((1, "lower"), (-1, "higher")):
        own = [{"images": i, "metrics": {"x": sign * v}} for i, v in curve]
        assert equal_compute.images_to_target(own, "x", sign * value, direction) == pytest.approx(expected)


def test_the_target_is_told_in_training_flops_and_hours_of_the_median_seed(tmp_path):
    ends = {0: 1.0, 1: 2.0, 2: 3.9}
    runs = [made("a", end, seed=s, curve=[(10, 4.0), (1000, end)]) for s, end in ends.items()]
    published(tmp_path, *runs, made("b", 1.0, curve=[(10, 2.5), (1000, 1.0)]), made("c", 9.0, curve=[(1000, 9.0)]))
    rows = {x["model"]: x for x in views(tmp_path, "--target", "fid=3")}
    # seed 1 goes from 4 to 2, so it is at 3 half-way from 10 to 1,000 images: 100, of 120 kFLOPs and 0.1 h for 1,000
    assert (rows["a"]["training FLOPs"], rows["a"]["hours"], rows["a"]["seeds"]) == ("1.20e+04", "0.01", "2 of 3")
    assert (rows["b"]["training FLOPs"], rows["b"]["seeds"]) == ("≤ 1.20e+03", "1 of 1")
    assert (rows["c"]["training FLOPs"], rows["c"]["hours"], rows["c"]["seeds"]) == ("not reached", "", "0 of 1")
    assert [x["model"] for x in views(tmp_path, "--target", "fid=3")] == ["b", "a", "c"]


def test_the_files_are_whole_whatever_was_shown(mixed):
    leaderboard_files.write_leaderboard(mixed)
    before = [(mixed / f"leaderboard.{ending}").read_bytes() for ending in ("csv", "md")]
    views(mixed, "--arch", "dit")
    assert [(mixed / f"leaderboard.{ending}").read_bytes() for ending in ("csv", "md")] == before
    assert before[0].count(b"\n") == 6


SECONDS, MEMORY = 5.0, 2**30


@pytest.mark.slow
def test_ten_thousand_records_become_a_leaderboard_in_5_s_and_a_gibibyte(tmp_path):
    """Of processor time, which other work on the machine does not lengthen."""
    record.records_folder(tmp_path).mkdir(parents=True)
    for r in many(10_000):
        data = {k: v for k, v in dataclasses.asdict(r).items() if k != "error"}
        (record.records_folder(tmp_path) / f"{r.id}.json").write_text(json.dumps(data, indent=2))
    code = (
        "import os, sys; from pathlib import Path; from bench import leaderboard\n"
        "assert leaderboard.main(['--results', sys.argv[1]]) == 0 and 'torch' not in sys.modules\n"
        "(kib,) = [x.split()[1] for x in Path('/proc/self/status').read_text().splitlines() if x.startswith('VmHWM')]\n"
        "print(sum(os.times()[:2]), int(kib) * 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    seconds, memory = map(float, done.stdout.splitlines()[-1].split())
    print(f"{seconds:.2f} s, {memory / 2**20:.0f} MiB")
    assert seconds < SECONDS and memory < MEMORY
    assert len(pd.read_csv(tmp_path / "leaderboard.csv")) == 10_000
