"""The copula rule against its formulas, and its martingale."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from inference.rng import scoped_seed
from probnet.neural_process import Copula, PredictiveResampler
from probnet.neural_process.copula import permutations, weight


def bimodal(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.5, -1.0, 1.0) + 0.4 * rng.normal(size=n)


def test_weights():
    assert [weight(i) for i in (1, 2, 3)] == pytest.approx([1 / 2, 1 / 2, 5 / 12])


def test_steps_are_those_of_the_recursion():
    """Written out by hand with SciPy's normal distribution."""
    y, t, rho = [0.3, -1.2, 0.8], np.linspace(-2, 2, 9), 0.6

    def step(u, v, alpha):
        h = norm.cdf((norm.ppf(u) - rho * norm.ppf(v)) / np.sqrt(1 - rho**2))
        return (1 - alpha) * u + alpha * h

    u_data, u = norm.cdf(y), norm.cdf(t)
    for i in range(3):
        v = u_data[i]
        u, u_data = step(u, v, weight(i + 1)), step(u_data, v, weight(i + 1))
    rule = Copula(rho=rho).update(y)
    np.testing.assert_allclose(rule.cdf(t), u, atol=1e-10)
    one_by_one = Copula(rho=rho).update(y[0]).update(y[1:])
    np.testing.assert_allclose(one_by_one.cdf(t), u, atol=1e-10)


def test_the_density_is_the_derivative_and_integrates_to_one():
    rule = Copula(rho=0.8).update(bimodal(30))
    t = torch.linspace(-6, 6, 4001).double()
    assert float(torch.trapezoid(rule.pdf(t), t)) == pytest.approx(1, abs=1e-3)
    cdf = rule.cdf(t)
    assert (cdf.diff() >= 0).all()
    slope = (cdf[2:] - cdf[:-2]) / (t[2:] - t[:-2])
    torch.testing.assert_close(slope, rule.pdf(t)[1:-1], rtol=1e-3, atol=1e-5)


def test_units_of_the_first_law():
    y, t = bimodal(10), torch.linspace(-2, 2, 5).double()
    a = Copula(0.7).update(y)
    b = Copula(0.7, loc=5.0, scale=3.0).update(5 + 3 * y)
    torch.testing.assert_close(a.cdf(t), b.cdf(5 + 3 * t))
    torch.testing.assert_close(a.pdf(t) / 3, b.pdf(5 + 3 * t))


def test_rho_is_the_best_on_a_grid():
    """Prequential likelihood by hand, through `update` and `log_pdf`, over a grid of ρ."""
    y = bimodal(20, seed=1)
    fitted = Copula().fit(y, num_permutations=3, seed=2)
    orders = permutations(20, 3, 2)

    def score(rho):
        total = 0.0
        for order in orders.numpy():
            rule = Copula(rho, fitted.loc, fitted.scale)
            for value in y[order]:
                total += float(rule.log_pdf(value))
                rule = rule.update(value)
        return total

    best = score(fitted.rho)
    assert all(score(fitted.rho + d) < best for d in (-0.03, 0.03))


def test_imagined_futures_are_a_martingale():
    """Brief's bound: 4 standard errors + 0.001 where 0.05 < P_n < 0.95; monotone everywhere."""
    y = bimodal(50)
    t = torch.linspace(-3, 3, 61).double()
    resampler = PredictiveResampler(Copula(rho=0.8), num_steps=100, num_paths=1000)
    posterior = resampler.run(None, y, grid=t, progress=False)
    paths = posterior.functions[..., 0]
    start = Copula(rho=0.8).update(y).cdf(t)
    torch.testing.assert_close(posterior.start[:, 0], start)
    assert (paths.diff(dim=1) >= 0).all()
    middle = (start > 0.05) & (start < 0.95)
    error = (paths.mean(0) - start).abs()
    bound = 4 * paths.std(0) / 1000**0.5 + 0.001
    assert (error < bound)[middle].all()
    assert float(paths.std(0)[30]) > 0.05


def test_drawing_observations_is_the_same_as_drawing_quantiles():
    """`predict`, `sample`, `update` instead of `advance`: equal laws of P(0)."""
    y = torch.from_numpy(bimodal(10))[:, None]
    rule = Copula(rho=0.7).as_rule()
    none, zero = torch.zeros(1, 1, 0).double(), torch.zeros(1, 1).double()
    with scoped_seed(5):
        slow = rule.start(y, y, 2000)
        fast = rule.start(y, y, 2000)
        for _ in range(5):
            slow = rule.update(slow, none, rule.predict(slow, none).sample())
            fast, _ = rule.advance(fast, none)
    a, b = (rule.evaluate(s, zero)[:, 0, 0] for s in (slow, fast))
    assert abs(float(a.mean() - b.mean())) < 4 * float(a.std()) * (2 / 2000) ** 0.5
    assert float(a.std() / b.std()) == pytest.approx(1, abs=4 / 2000**0.5)


def test_the_mean_of_a_path_is_that_of_its_density():
    y = torch.from_numpy(bimodal(10))[:, None]
    rule = Copula(rho=0.7).as_rule()
    none = torch.zeros(1, 401, 0).double()
    state = rule.start(y, y, 3)
    with scoped_seed(6):
        for _ in range(4):
            state, _ = rule.advance(state, none)
    law = rule.predict(state, none)
    grid = torch.linspace(-6, 6, 401).double()
    density = law.log_prob(grid[:, None]).exp()
    expected = torch.trapezoid(grid * density, grid)
    torch.testing.assert_close(law.mean[:, 0, 0], expected, rtol=0, atol=2e-3)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`rho` must lie in"):
        Copula(rho=1.0)
    with pytest.raises(ValueError, match="`rho` is not set"):
        Copula().update([1.0])
    with pytest.raises(ValueError, match="two numbers that differ"):
        Copula().fit([1.0, 1.0])
    with pytest.raises(ValueError, match="`y` holds"):
        Copula(0.5).update([float("nan")])


def test_the_mean_agrees_with_draws():
    y = torch.from_numpy(bimodal(10))[:, None]
    rule = Copula(rho=0.7).as_rule()
    state = rule.start(y, y, 2)
    with scoped_seed(7):
        state, _ = rule.advance(state, y)
        law = rule.predict(state, torch.zeros(1, 3, 0).double())
        draws = law.sample((3000,))
    assert draws.shape == (3000, 2, 3, 1)
    error = (draws.mean((0, 2)) - law.mean[:, 0]).abs()
    assert (error < 4 * draws.std((0, 2)) / 9000**0.5).all()
