"""Calibration checks: uniform where the forecast is right, and not where it is wrong."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Independent, Normal, Poisson

from probnet import DrawsMixture, metrics
from probnet.predictive import StudentT

COUNT = 4000
RNG = np.random.default_rng(1)
LOC, SCALE = RNG.normal(size=COUNT), RNG.uniform(0.5, 2, COUNT)
Y = LOC + SCALE * RNG.normal(size=COUNT)
LEVELS = (0.5, 0.8, 0.95)
FIVE_ERRORS = 5 * np.sqrt(np.array(LEVELS) * (1 - np.array(LEVELS)) / COUNT)


def normal(factor=1.0):
    return Normal(torch.tensor(LOC), torch.tensor(SCALE * factor))


def test_pit_of_a_distribution_is_its_cdf():
    np.testing.assert_allclose(metrics.pit(Y, normal()), stats.norm.cdf(Y, LOC, SCALE))


def test_pit_of_a_calibrated_forecast_is_uniform_and_of_a_narrow_one_not():
    assert stats.kstest(metrics.pit(Y, normal()), "uniform").pvalue > 1e-3
    assert stats.kstest(metrics.pit(Y, normal(0.7)), "uniform").pvalue < 1e-6


@pytest.mark.parametrize("num_draws", [1, 4, 50])
def test_randomised_pit_of_draws_is_exactly_uniform_for_any_number_of_draws(num_draws):
    draws = LOC + SCALE * RNG.normal(size=(num_draws, COUNT))
    assert stats.kstest(metrics.pit(Y, draws, seed=0), "uniform").pvalue > 1e-3
    wide = LOC + 2 * SCALE * RNG.normal(size=(50, COUNT))
    assert stats.kstest(metrics.pit(Y, wide, seed=0), "uniform").pvalue < 1e-6


def test_randomised_pit_of_counts_is_uniform_and_the_plain_one_is_not():
    y, draws = RNG.poisson(2, COUNT), RNG.poisson(2, (30, COUNT))
    assert stats.kstest(metrics.pit(y, draws, seed=0), "uniform").pvalue > 1e-3
    assert stats.kstest(metrics.pit(y, draws), "uniform").pvalue < 1e-6


def test_pit_of_draws_counts_ranks():
    draws = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    np.testing.assert_allclose(metrics.pit([2.5, 2.0], draws), [2.5 / 4, 2 / 4])
    np.testing.assert_allclose(metrics.pit([2.5, 2.0], draws.T, draw_axis=1), [2.5 / 4, 2 / 4])
    seeded = metrics.pit([2.5, 2.0], draws, seed=3)
    np.testing.assert_array_equal(seeded, metrics.pit([2.5, 2.0], draws, seed=3))


def test_central_intervals_are_quantiles():
    lower, upper = metrics.central_interval(normal(), 0.8)
    np.testing.assert_allclose(lower, stats.norm.ppf(0.1, LOC, SCALE))
    np.testing.assert_allclose(upper, stats.norm.ppf(0.9, LOC, SCALE))
    draws = np.arange(101.0)[:, None]
    lower, upper = metrics.central_interval(draws, 0.9)
    np.testing.assert_allclose([lower[0], upper[0]], [5, 95])


def test_coverage_is_nominal_for_the_true_law_only():
    assert (np.abs(metrics.interval_coverage(Y, normal(), LEVELS) - LEVELS) < FIVE_ERRORS).all()
    narrow = metrics.interval_coverage(Y, normal(0.7), LEVELS)
    assert (narrow < np.array(LEVELS) - 3 * FIVE_ERRORS / 5).all()
    expected = [2 * stats.norm.cdf(0.7 * stats.norm.ppf((1 + p) / 2)) - 1 for p in LEVELS]
    assert (np.abs(narrow - expected) < FIVE_ERRORS).all()


def test_coverage_by_draws_and_by_mixtures_agrees_with_that_of_the_law():
    grid = (np.arange(999) + 0.5) / 999
    draws = LOC[:, None] + SCALE[:, None] * stats.norm.ppf(grid)
    by_law = metrics.interval_coverage(Y, normal(), LEVELS)
    by_draws = metrics.interval_coverage(Y, draws, LEVELS, draw_axis=1)
    np.testing.assert_allclose(by_draws, by_law, atol=2e-3)
    one = DrawsMixture(Normal(torch.tensor(LOC)[None], torch.tensor(SCALE)[None]))
    np.testing.assert_allclose(metrics.interval_coverage(Y, one, LEVELS), by_law)


def test_width_scales_with_the_forecast():
    width = metrics.interval_width(normal(), LEVELS)
    np.testing.assert_allclose(
        width, 2 * stats.norm.ppf((1 + np.array(LEVELS)) / 2) * SCALE.mean()
    )
    np.testing.assert_allclose(metrics.interval_width(normal(3.0), LEVELS), 3 * width)
    draws = np.linspace(0, 1, 101)[:, None] * np.array([1.0, 3.0])
    np.testing.assert_allclose(metrics.interval_width(draws, [0.5]), [1.0])


def test_heavy_tails_have_intervals_too():
    t = StudentT(
        torch.tensor(3.0, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), 1.0
    )
    np.testing.assert_allclose(metrics.interval_width(t, [0.9]), 2 * stats.t.ppf(0.95, 3))


def test_calibration_curve_and_error_by_hand():
    values = np.array([0.05, 0.15, 0.15, 0.95])
    np.testing.assert_allclose(
        metrics.calibration_curve(values, [0.1, 0.2, 0.9]), [0.25, 0.75, 0.75]
    )
    observed = np.array([1, 3, 3, 3, 3, 3, 3, 3, 3]) / 4
    expected = np.sum((observed - np.arange(1, 10) / 10) ** 2)
    assert metrics.regression_calibration_error(values) == pytest.approx(expected)
    exact = (np.arange(1000) + 0.5) / 1000
    assert metrics.regression_calibration_error(exact) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: metrics.pit(Y[:5], normal()), ValueError, "`y` must have shape"),
        (lambda: metrics.pit(Y, Independent(normal(), 1)), ValueError, "joint law"),
        (lambda: metrics.pit(Y, Poisson(torch.ones(COUNT))), TypeError, "has no `cdf`.*sample"),
        (
            lambda: metrics.interval_width(Poisson(torch.ones(3))),
            TypeError,
            "has no `icdf`.*sample",
        ),
        (
            lambda: metrics.pit(Y, np.ones((COUNT, 3))),
            ValueError,
            "`forecast` must have the shape",
        ),
        (lambda: metrics.interval_coverage(Y, normal(), [95]), ValueError, "`level"),
        (lambda: metrics.calibration_curve(Y), ValueError, "Pass the result of `pit`"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
