"""Filters and orders of the leaderboard, and what the command refuses."""

import pytest
from factories import config_of, full_record
from leaderboard_views import table_of, views

from bench import leaderboard
from bench.records import leaderboard_files, record

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
def test_filter_keeps_the_ranks_of_the_whole_table(mixed, flags):
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
            tmp_path, full_record(config_of(arch), fid=fid, macs=macs * 10**6, more={"is[digits-cnn]": score})
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
    "--check a.json --data digits --sort fid": "--check takes no filters; leave out --data, --sort",
    "--target sfid=1": "a metric that no run here has; choose one of ",
}


@pytest.mark.parametrize("flags", WRONG)
def test_wrong_flags_are_answered_in_a_sentence(mixed, flags, capsys):
    assert leaderboard.main(["--results", str(mixed), *flags.split()]) == 2
    said = capsys.readouterr()
    assert WRONG[flags] in said.err and said.err.count("\n") == 1 and not said.out


def test_views_leave_the_files_unchanged(mixed):
    leaderboard_files.write_leaderboard(mixed)
    before = [(mixed / f"leaderboard.{ending}").read_bytes() for ending in ("csv", "md")]
    views(mixed, "--arch", "dit")
    assert [(mixed / f"leaderboard.{ending}").read_bytes() for ending in ("csv", "md")] == before
    assert before[0].count(b"\n") == 6
