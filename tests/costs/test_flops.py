"""The definition of training FLOPs gives the recorded totals of all committed records, at every evaluation point."""

from fractions import Fraction
from pathlib import Path

from bench.costs.counting import NetworkCost
from bench.costs.flops import training_flops
from bench.records.equal_compute import training_flops_at
from bench.records.record import read_records

RESULTS = Path(__file__).parents[2] / "results"


def test_training_takes_three_forward_passes():
    cost = NetworkCost(params=1, macs=10**20 + 1)
    assert cost.training_flops == 3 * cost.flops == training_flops(cost.macs, 1) == 6 * (10**20 + 1)


def test_recorded_training_flops_are_recomputed():
    trained = [r for r in read_records(RESULTS) if r.cost and r.cost.training_flops]
    assert trained
    for r in trained:
        for point in r.curve:
            share = Fraction(point["images"], r.curve[-1]["images"])
            assert training_flops_at(r, point["images"]) == float(r.cost.training_flops * share)
