"""Compare our counts of every published network with its published cost."""

import json
import re

import pytest

from bench import cost
from bench.costs import counting
from bench.papers import published_costs, published_networks

ROWS = published_networks.read_networks()
COUNTED = [row for row in ROWS if row.id not in published_networks.NOT_PUBLISHED]
DIT_TABLE_4 = {
    **{"dit_s_8": 0.36, "dit_s_4": 1.41, "dit_s_2": 6.06, "dit_b_8": 1.42, "dit_b_4": 5.56, "dit_b_2": 23.01},
    **{"dit_l_8": 5.01, "dit_l_4": 19.70, "dit_l_2": 80.71, "dit_xl_8": 7.39, "dit_xl_4": 29.05, "dit_xl_2": 118.64},
    **{"dit_xl_2_incontext": 119.37, "dit_xl_2_crossattn": 137.62, "dit_xl_2_adaln": 118.56},
}


@pytest.fixture(scope="module")
def table():
    return {row.id: published_costs.compare_cost(row) for row in ROWS}


@pytest.mark.long
def test_every_row_is_counted_or_says_why_not(table):
    assert len(table) == 67
    assert {name for name, comparison in table.items() if comparison.cost is None} == set(
        published_networks.NOT_PUBLISHED
    )
    assert set(published_networks.NETWORKS) | set(published_networks.CASCADES) | set(
        published_networks.NOT_PUBLISHED
    ) == set(table)


@pytest.mark.parametrize("row", [r for r in ROWS if r.params_official], ids=lambda r: r.id)
def test_counts_equal_the_official_definition(table, row):
    """Parameters are equal; multiply-accumulates agree within 0.1 %."""
    comparison = table[row.id]
    assert comparison.cost.params == row.params_official
    assert comparison.cost.macs / 1e9 == pytest.approx(row.gmacs_official, rel=1e-3)
    assert comparison.verdict().startswith("exact")


@pytest.mark.parametrize("name", DIT_TABLE_4)
def test_dit_table_4_agrees_within_two_hundredths(table, name):
    assert float(table[name].row.gflops_printed) == DIT_TABLE_4[name]
    assert table[name].cost.macs / 1e9 == pytest.approx(DIT_TABLE_4[name], abs=0.02)


def test_dit_at_512_agrees_within_a_tenth(table):
    assert table["dit_xl_2_512"].cost.macs / 1e9 == pytest.approx(524.6, abs=0.1)


def test_the_counts_that_tables_read_are_these(table):
    assert published_networks.COUNTS_FILE.read_text() == published_costs.format_counts_csv(list(table.values())), (
        "run python -m bench.cost --write"
    )


def test_a_cascade_is_the_sum_of_its_parts(table):
    for name, parts in published_networks.CASCADES.items():
        assert table[name].cost.macs == sum(table[part].cost.macs for part in parts)
        assert table[name].verdict() == "as printed"


def test_the_four_costs_are_columns_of_their_own(table):
    line = published_costs.comparison_to_dict(table["dit_xl_2"])
    assert (line["macs"], line["flops"], line["training_flops"]) == (118621421568, 2 * 118621421568, 6 * 118621421568)
    assert line["guidance_multiplier"] == 2
    assert (
        published_costs.comparison_to_dict(table["adm_256"])["guidance_multiplier"] == 1
    )  # classes, but none of them null
    assert published_costs.comparison_to_dict(table["uvit_s_2_coco"])["guidance_multiplier"] == 2


@pytest.mark.parametrize(
    ("params", "macs", "verdict"),
    [
        (0, 1.0, "exact"),
        (1, 1.0, r"differs: official parameters \+1"),
        (0, 1.002, r"differs: official MACs \+0\.[12]\d%"),
        (-5, 0.99, r"differs: official parameters -5, official MACs -1\.0\d%"),
    ],
)
def test_a_verdict_can_fail(table, params, macs, verdict):
    right = table["dit_s_2"]
    wrong = counting.NetworkCost(params=right.cost.params + params, macs=int(right.cost.macs * macs))
    comparison = published_costs.CostComparison(row=right.row, cost=wrong, guidance=2)
    assert re.fullmatch(verdict, comparison.verdict())


def test_a_printed_number_that_disagrees_is_named(table):
    assert table["ldm_4_analysis"].verdict() == "differs; printed 391 M +2.54%"
    assert table["uvit_l_2_in256"].verdict() == "exact; printed 77 G -0.71%"


def test_the_command_prints_rows_by_name(capsys):
    assert cost.main(["dit_xl_2_a", "gentron_g"]) == 0
    out = capsys.readouterr().out
    assert "600,452,384" in out and "118.56" in out and "711.3" in out and "x 2" in out
    assert "not counted: its text projections are not published" in out


def test_the_command_prints_numbers_for_scripts(capsys):
    assert cost.main(["uvit_h_2", "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)
    assert line["params"] == line["params_official"] == 500_832_016 and line["verdict"] == "exact"


def test_an_unknown_name_gets_the_nearest_ones(capsys):
    assert cost.main(["dit_xl_3"]) == 2
    assert "did you mean dit_xl_" in capsys.readouterr().err


def test_a_wrong_count_is_the_exit_status(monkeypatch, capsys):
    monkeypatch.setattr(
        published_costs,
        "compare_cost",
        lambda row: published_costs.CostComparison(row=row, cost=counting.NetworkCost(params=1, macs=1), guidance=1),
    )
    assert cost.main(["dit_s_2"]) == 1
