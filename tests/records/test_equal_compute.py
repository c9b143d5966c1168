"""Leaderboards at equal compute, and the cost to reach a target."""

import dataclasses
import math

import pytest
from factories import COST, short_record
from leaderboard_views import published, views

from bench.records import equal_compute


def test_equal_compute_takes_the_nearest_evaluation_point(tmp_path):
    """Points at 30, 60 and 120 kFLOPs: 80 k is nearer to 60 k in ratio, 90 k to 120 k."""
    curve = [(250, 9.0), (500, 3.0), (1000, 1.0)]
    seeds = [short_record("a", 1.0 + s / 100, seed=s, curve=[(i, f + s / 100) for i, f in curve]) for s in range(3)]
    published(tmp_path, *seeds, short_record("b", 2.0, curve=[(250, 8.0), (500, 4.0), (1000, 2.0)]))
    at_80 = {x["model"]: x for x in views(tmp_path, "--at-compute", "80e3")}
    said = [at_80["a"][column] for column in ("at images", "training FLOPs", "of those asked")]
    assert said == ["500", "6.00e+04", "x 0.75"]
    assert at_80["a"]["fid[digits-cnn] ↓"] == "3.010 ± 0.010 (3)" and at_80["a"]["rank"] == "1"
    assert at_80["b"]["rank"] == "–", "one seed has no interval there"
    at_90 = {x["model"]: x for x in views(tmp_path, "--at-compute", "90e3")}
    assert at_90["b"]["at images"] == "1,000" and at_90["b"]["rank"] == "2" and at_90["a"]["rank"] == "1"


def test_equal_compute_leaves_out_published_weights(tmp_path):
    cost = dataclasses.replace(COST, training_flops=None, images_per_second=None)
    theirs = dataclasses.replace(short_record("b", training={"track": "published"}), cost=cost)
    published(tmp_path, short_record("a", curve=[(1000, 1.0)]), theirs)
    assert [x["model"] for x in views(tmp_path, "--at-compute", "9")] == ["a"]


REACHES = {
    "between two points": ([(100, 4.0), (1000, 2.0)], 3.0, (100 * 10**0.5, False)),
    "at a point": ([(100, 4.0), (1000, 2.0)], 2.0, (1000, False)),
    "at the first": ([(100, 4.0), (1000, 2.0)], 4.5, (100, True)),
    "never": ([(100, 4.0), (1000, 2.0)], 1.0, (math.inf, False)),
    "the first time of two": ([(1, 4.0), (10, 2.0), (100, 4.0), (1000, 1.0)], 3.0, (10**0.5, False)),
}


@pytest.mark.parametrize("case", REACHES)
def test_target_is_interpolated_in_the_logarithm_of_images(case):
    curve, value, expected = REACHES[case]
    for sign, direction in ((1, "lower"), (-1, "higher")):
        points = [{"images": i, "metrics": {"x": sign * v}} for i, v in curve]
        assert equal_compute.images_to_target(points, "x", sign * value, direction) == pytest.approx(expected)


def test_cost_to_target_is_that_of_the_median_seed(tmp_path):
    ends = {0: 1.0, 1: 2.0, 2: 3.9}
    runs = [short_record("a", end, seed=s, curve=[(10, 4.0), (1000, end)]) for s, end in ends.items()]
    published(
        tmp_path,
        *runs,
        short_record("b", 1.0, curve=[(10, 2.5), (1000, 1.0)]),
        short_record("c", 9.0, curve=[(1000, 9.0)]),
    )
    rows = {x["model"]: x for x in views(tmp_path, "--target", "fid=3")}
    # seed 1 goes from 4 to 2, so it is at 3 half-way from 10 to 1,000 images: 100, of 120 kFLOPs and 0.1 h for 1,000
    assert (rows["a"]["training FLOPs"], rows["a"]["hours"], rows["a"]["seeds"]) == ("1.20e+04", "0.01", "2 of 3")
    assert (rows["b"]["training FLOPs"], rows["b"]["seeds"]) == ("≤ 1.20e+03", "1 of 1")
    assert (rows["c"]["training FLOPs"], rows["c"]["hours"], rows["c"]["seeds"]) == ("not reached", "", "0 of 1")
    assert [x["model"] for x in views(tmp_path, "--target", "fid=3")] == ["b", "a", "c"]
