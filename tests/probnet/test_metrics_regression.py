"""Scores of real-valued predictions, against closed forms and direct integration."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import integrate, stats

from probnet import DrawsMixture, metrics

RNG = np.random.default_rng(0)
Y, MEAN = RNG.normal(size=(2, 7))
SD = RNG.uniform(0.5, 2, 7)


def crps_by_integration(cdf, y):
    """∫ (F(t) - 1[t >= y])² dt, the definition."""
    below = integrate.quad(lambda t: cdf(t) ** 2, -60, y, limit=300, points=[y - 3, y - 0.3])[0]
    above = integrate.quad(
        lambda t: (1 - cdf(t)) ** 2, y, 60, limit=300, points=[y + 0.3, y + 3]
    )
    return below + above[0]


def test_rmse():
    assert metrics.rmse([0.0, 0.0], [3.0, 4.0]) == pytest.approx(np.sqrt(12.5))
    assert isinstance(metrics.rmse(torch.zeros(2, 3), torch.ones(2, 3)), float)


def test_relative_l2_of_one_field_and_of_many():
    y, off = np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([[3.0, 5.0], [0.0, 3.0]])
    assert metrics.relative_l2(y, off) == pytest.approx(np.sqrt(5 / 26))
    assert metrics.relative_l2(y, off, case_axis=0) == pytest.approx((1 / 5 + 2) / 2)
    assert metrics.relative_l2(y.T, off.T, case_axis=-1) == pytest.approx((1 / 5 + 2) / 2)
    with pytest.raises(ValueError, match="field 1 is"):
        metrics.relative_l2([[1.0], [0.0]], [[1.0], [1.0]], case_axis=0)
    with pytest.raises(ValueError, match="`case_axis` must be an axis"):
        metrics.relative_l2(y, off, case_axis=2)


@given(y=arrays(float, 5, elements=st.floats(-5, 5)), factor=st.floats(0.1, 10))
def test_relative_l2_has_no_unit_and_rmse_has(y, factor):
    truth = y + 20
    assert metrics.relative_l2(truth * factor, y * factor) == pytest.approx(
        metrics.relative_l2(truth, y)
    )
    assert metrics.rmse(truth * factor, y * factor) == pytest.approx(20 * factor)


def test_nll_of_moments_is_the_mean_log_density():
    expected = -stats.norm.logpdf(Y, MEAN, SD).mean()
    assert metrics.nll_gaussian(Y, MEAN, SD**2) == pytest.approx(expected)
    assert metrics.nll_gaussian(Y, MEAN, SD) != pytest.approx(expected)


def test_nll_of_a_mixture_is_that_of_the_mixture():
    means, sds = RNG.normal(size=(4, 3, 7)), RNG.uniform(0.2, 2, (4, 3, 7))
    logs = stats.norm.logpdf(Y, means, sds)
    components = torch.distributions.Normal(torch.tensor(means), torch.tensor(sds))
    mixture = DrawsMixture(components, num_draw_axes=2)
    expected = -float(mixture.log_prob(torch.tensor(Y)).mean())
    assert metrics.nll_mixture(logs, draw_axis=(0, 1)) == pytest.approx(expected)
    moved = np.moveaxis(logs.reshape(12, 7), 0, -1)
    assert metrics.nll_mixture(torch.tensor(moved), draw_axis=-1) == pytest.approx(expected)


def test_nll_of_a_mixture_forgives_a_draw_that_excludes_the_truth():
    assert metrics.nll_mixture([[0.0], [-np.inf]]) == pytest.approx(np.log(2))
    assert metrics.nll_mixture([[-np.inf], [-np.inf]]) == np.inf
    assert metrics.nll_mixture([[-2000.0], [-2000.0]]) == pytest.approx(2000)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="1 of 2 entries"):
            metrics.nll_mixture([[0.0], [bad]])


def test_crps_of_a_gaussian_is_its_definition():
    expected = np.mean(
        [
            crps_by_integration(stats.norm(m, s).cdf, y)
            for y, m, s in zip(Y, MEAN, SD, strict=True)
        ]
    )
    assert metrics.crps_gaussian(Y, MEAN, SD) == pytest.approx(expected, rel=1e-7)
    assert metrics.crps_gaussian(Y, MEAN, SD**2) != pytest.approx(expected, rel=1e-2)


@given(draws=arrays(float, (6, 3), elements=st.floats(-5, 5)))
def test_crps_of_draws_is_the_kernel_form(draws):
    y = np.array([-1.0, 0.0, 2.0])
    pairs = np.abs(draws[:, None] - draws[None]).mean((0, 1))
    expected = np.mean(np.abs(draws - y).mean(0) - pairs / 2)
    assert metrics.crps_ensemble(y, draws) == pytest.approx(expected, abs=1e-12)
    assert metrics.crps_ensemble(y, draws.T, draw_axis=-1) == pytest.approx(expected, abs=1e-12)


def test_crps_of_many_draws_tends_to_that_of_their_law():
    quantiles = stats.norm.ppf((np.arange(5000) + 0.5) / 5000)[:, None]
    draws = MEAN + SD * quantiles
    assert metrics.crps_ensemble(Y, draws) == pytest.approx(
        metrics.crps_gaussian(Y, MEAN, SD), rel=1e-3
    )


def test_crps_of_a_mixture_is_its_definition():
    means, sds = RNG.normal(size=(3, 2)), RNG.uniform(0.3, 1, (3, 2))
    y = np.array([0.4, -1.0])
    expected = np.mean(
        [
            crps_by_integration(
                lambda t, j=j: stats.norm.cdf(t, means[:, j], sds[:, j]).mean(), y[j]
            )
            for j in range(2)
        ]
    )
    assert metrics.crps_mixture(y, means, sds) == pytest.approx(expected, rel=1e-6)


def test_crps_of_a_mixture_does_not_depend_on_its_blocks(monkeypatch):
    means, sds = RNG.normal(size=(10, 7)), RNG.uniform(0.3, 1, (10, 7))
    whole = metrics.crps_mixture(Y, means, sds)
    monkeypatch.setattr("probnet.metrics.regression._MAX_PAIRS", 200)  # two cases at a time
    assert metrics.crps_mixture(Y, means, sds) == pytest.approx(whole, rel=1e-12)
    monkeypatch.setattr("probnet.metrics.regression._MAX_PAIRS", 99)
    with pytest.raises(ValueError, match=r"10 draws.*`crps_ensemble`"):
        metrics.crps_mixture(Y, means, sds)


def test_equal_components_score_as_one():
    means, sds = np.tile(MEAN, (5, 1)), np.tile(SD, (5, 1))
    one = metrics.crps_gaussian(Y, MEAN, SD)
    assert metrics.crps_mixture(Y, means, sds) == pytest.approx(one, rel=1e-10)


@pytest.mark.parametrize("score", [metrics.crps_gaussian, metrics.nll_gaussian])
def test_the_true_law_scores_best(score):
    """Proper scores: on data from N(0, 1), other means and scales lose on average."""
    y = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    best = score(y, np.zeros(2000), np.ones(2000))
    for mean, scale in [(0.3, 1), (0, 1.5), (0, 0.6)]:
        assert score(y, np.full(2000, mean), np.full(2000, float(scale))) > best + 0.005


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.rmse(Y, MEAN[:, None]), r"`mean` must have shape \(7,\).*squeeze"),
        (lambda: metrics.rmse([], []), "`y` must not be empty"),
        (lambda: metrics.rmse([np.nan], [0.0]), "`y` holds 1 non-finite"),
        (lambda: metrics.nll_gaussian(Y, MEAN, 0 * SD), "`variance` must be finite and > 0"),
        (lambda: metrics.crps_gaussian(Y, MEAN, -SD), "`sd` must be finite and > 0"),
        (lambda: metrics.crps_ensemble(Y, np.ones((7, 5))), r"`draws` must have the shape of"),
        (lambda: metrics.crps_ensemble(Y, np.ones((5, 7)), draw_axis=2), "`draw_axis`"),
        (lambda: metrics.nll_mixture(np.ones((2, 3)), draw_axis=(0, 5)), "`draw_axis`"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
