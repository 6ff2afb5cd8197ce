"""Predictive rules against the posteriors that they come from."""

import pytest
import torch

from probnet.neural_process import CallableRule, NormalMean


def test_the_normal_mean_is_updated_to_the_conjugate_posterior():
    """Appending y one by one must end at the closed form of all data at once."""
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(9, 2, generator=rng, dtype=torch.float64)
    rule = NormalMean(0.7, prior_weight=2.5, prior_mean=-1.0)
    state = rule.start(torch.zeros(4, 0), y[:4], num_paths=3)
    for row in y[4:]:
        state = rule.update(state, torch.zeros(1, 1, 0), row.expand(3, 1, 2))
    expected = (2.5 * -1.0 + y.sum(0)) / (2.5 + 9)
    law = rule.predict(state, torch.zeros(1, 2, 0))
    torch.testing.assert_close(law.mean, expected.expand(3, 2, 2))
    expected_sd = torch.full((3, 2, 2), 0.7 * (1 + 1 / 11.5) ** 0.5, dtype=torch.float64)
    torch.testing.assert_close(law.stddev, expected_sd)


def least_squares(x, y, x_new):
    """Bayesian linear regression without intercept: prior N(0, 1) on the slope, noise 0.5."""
    precision = 1 + (x * x).sum() / 0.25
    slope = (x * y).sum() / 0.25 / precision
    return slope * x_new[:, 0], (0.25 + x_new[:, 0] ** 2 / precision) ** 0.5


def test_a_function_becomes_a_rule_whose_data_grow():
    x = torch.linspace(0.1, 1, 6, dtype=torch.float64)[:, None]
    y = 2 * x + 0.1
    rule = CallableRule(least_squares)
    state = rule.start(x, y, num_paths=3)
    new_y = torch.tensor([[[1.0]], [[2.0]], [[3.0]]], dtype=torch.float64)
    state = rule.update(state, torch.full((1, 1, 1), 0.5, dtype=torch.float64), new_y)
    law = rule.predict(state, torch.tensor([[[0.3], [0.9]]], dtype=torch.float64))
    assert law.batch_shape == (3, 2)
    precision = 1 + (float((x * x).sum()) + 0.25) / 0.25
    slopes = (float((x * y).sum()) + 0.5 * new_y[:, 0]) / 0.25 / precision
    torch.testing.assert_close(law.mean[..., 0], slopes * torch.tensor([0.3, 0.9]).double())


def test_a_function_may_return_a_distribution():
    def heavy(x, y, x_new):
        loc = torch.as_tensor(y.mean() + 0 * x_new)
        return torch.distributions.Independent(torch.distributions.StudentT(3.0, loc, 1.0), 1)

    rule = CallableRule(heavy)
    state = rule.start(torch.zeros(4, 1), torch.tensor([[1.0], [2.0], [3.0], [4.0]]), 5)
    law = rule.predict(state, torch.zeros(1, 2, 1))
    assert law.mean.shape == (5, 2, 1)
    assert law.log_prob(torch.full((5, 2, 1), 2.5)).shape == (5, 2)
    expected = torch.distributions.StudentT(3.0, 2.5, 1.0).log_prob(torch.tensor(2.5)).double()
    torch.testing.assert_close(
        law.log_prob(torch.full((5, 2, 1), 2.5)).double(), expected.expand(5, 2)
    )


def test_wrong_predictors_are_named():
    with pytest.raises(TypeError, match="`predictor` must be a function"):
        CallableRule(3)
    rule = CallableRule(lambda x, y, x_new: (x_new[:1, 0], x_new[:1, 0]))
    state = rule.start(torch.zeros(4, 1), torch.zeros(4, 1), 2)
    with pytest.raises(ValueError, match=r"`predictor\(...\)` must have shape \(3, 1\)"):
        rule.predict(state, torch.zeros(1, 3, 1))
    with pytest.raises(ValueError, match="`prior_weight`"):
        NormalMean(prior_weight=0.0)
