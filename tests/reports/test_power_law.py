"""Test that fits, bands and correlations recover known parameters, and refuse too little data."""

import re

import numpy as np
import pytest

from bench.reports import figure_schema, power_law
from bench.reports.figure_schema import Point

X = np.geomspace(1e9, 1e12, 8)


def law(x, a, b, c):
    return a + b * (x / np.exp(np.log(x).mean())) ** -c


@pytest.mark.parametrize(("a", "b", "c"), [(2.0, 20.0, 0.4), (0.0, 60.0, 0.36), (0.3, 0.2, 1.5), (500.0, 30.0, 0.2)])
def test_a_fit_recovers_the_law(a, b, c):
    result = power_law.fit_power_law(X, law(X, a, b, c))
    assert (result.a, result.b, result.c) == pytest.approx((a, b, c), rel=0.02, abs=0.1)
    assert result.determined and result.rms_error < 1e-3


def test_a_fit_is_a_minimum_of_the_relative_error():
    rng = np.random.default_rng(0)
    y = law(X, 2, 20, 0.4) * rng.normal(1, 0.1, len(X))
    result = power_law.fit_power_law(X, y)

    def error(a, b, c):
        return np.sqrt(np.mean(((a + b * (X / result.scale) ** -c) / y - 1) ** 2))

    assert result.rms_error == pytest.approx(error(result.a, result.b, result.c))
    for change in (0.99, 1.01):
        for k in range(3):
            moved = [v * (change if i == k else 1) for i, v in enumerate((result.a, result.b, result.c))]
            assert error(*moved) >= result.rms_error


@pytest.mark.parametrize("y", [X / 1e9, 1000 - np.log10(X), np.full(8, 3.0)])
def test_rising_linear_or_constant_points_determine_no_law(y):
    assert not power_law.fit_power_law(X, y).determined


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[:4], X[:4], "4 points; this needs 5"),
        ([1, 1, 2, 2, 3, 3], [1] * 6, "3 points of different x; a power law with offset needs 5"),
        ([0, 1, 2, 3, 4], [1] * 5, "x and y must be positive and finite"),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, np.nan], "x and y must be positive and finite"),
    ],
)
def test_a_fit_of_too_little_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        power_law.fit_power_law(x, y)


def test_a_band_is_repeatable_and_wider_for_noisier_seeds():
    rng = np.random.default_rng(1)

    def width(noise):
        seeds = [[v * rng.normal(1, noise) for _ in range(3)] for v in law(X, 2, 20, 0.4)]
        one, same = (power_law.bootstrap_band(X, seeds, X, resamples=200) for _ in range(2))
        assert (one.low == same.low).all() and (one.low <= one.high).all()
        return np.log(one.high / one.low).mean()

    assert 0 < width(0.01) < 0.5 * width(0.1)


def test_bands_cover_the_true_law_about_as_often_as_stated():
    truth, held = law(X, 2, 20, 0.4), []
    for k in range(40):
        rng = np.random.default_rng(k)
        seeds = [[v * rng.normal(1, 0.1) for _ in range(3)] for v in truth]
        band = power_law.bootstrap_band(X, seeds, X, resamples=100, seed=k)
        held.append((band.low <= truth) & (truth <= band.high))
    assert 0.8 <= np.mean(held) <= 0.99


def test_r_is_computed_on_log_x_and_lies_in_its_interval():
    result = power_law.pearson_correlation([1, 10, 100, 1000], [3, 2.5, 1.2, 1])
    assert result.r == pytest.approx(np.corrcoef([0, 1, 2, 3], [3, 2.5, 1.2, 1])[0, 1])
    assert result.low < result.r < result.high


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [1, 1, 1])])
def test_a_correlation_of_too_little_is_refused(x, y):
    with pytest.raises(ValueError, match=r"this needs 3|vary"):
        power_law.pearson_correlation(x, y)


@pytest.mark.parametrize(
    ("y", "message", "drawn"),
    [
        (law(X, 2, 20, 0.4), "FID = 2 \\+ 20 \\(C / 31.6 G\\)\\^-0.40 through 8 points, RMS relative error 0 %", True),
        (law(X, 2, 20, 0.4)[:4], "^4 points: too few for a power law with offset, which needs 5$", False),
        (X / 1e9, "do not determine a power law", False),
        (law(X, 2, 20, 0.4)[:2], "^2 points: too few for a power law with offset, which needs 5$", False),
    ],
)
def test_a_description_names_the_law_or_the_reason_for_none(y, message, drawn):
    fit = figure_schema.fit_points([Point(x=x, y=v) for x, v in zip(X, y, strict=False)])
    assert bool(fit.x) is drawn
    assert re.search(message, fit.description), fit.description


def test_a_frontier_excludes_points_that_a_cheaper_one_beats():
    points = [Point(x=x, y=y) for x, y in [(3, 2), (1, 5), (2, 6), (2, 4), (4, 2), (5, 1)]]
    assert [(p.x, p.y) for p in figure_schema.pareto_frontier(points)] == [(1, 5), (2, 4), (3, 2), (5, 1)]
