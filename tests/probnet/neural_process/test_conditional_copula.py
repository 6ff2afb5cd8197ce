"""The copula rule of regression against its formulas, and its martingale."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from inference.rng import scoped_seed
from probnet.neural_process import ConditionalCopula, PredictiveResampler
from probnet.neural_process.copula import weight


def data(n=20, dim=1, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim))
    return torch.from_numpy(x), torch.from_numpy(
        np.sin(2 * x[:, :1]) + 0.3 * rng.normal(size=(n, 1))
    )


def by_hand(x, y, x_new, t, rho, rho_x):
    """P_n(t | x_new), written out with SciPy's bivariate normal density."""
    x_unit = lambda v: (v - x.mean(0)) / x.std(0)  # noqa: E731
    z, points = (y - y.mean()) / y.std(ddof=1), np.vstack([x_unit(x), x_unit(x_new)])

    def kernel(a, b):
        k = 1.0
        for j, r in enumerate(rho_x):
            joint = multivariate_normal([0, 0], [[1, r], [r, 1]]).pdf([a[j], b[j]])
            k *= joint / norm.pdf(a[j]) / norm.pdf(b[j])
        return k

    u = norm.cdf(np.append(z, (t - y.mean()) / y.std(ddof=1)))
    for i in range(len(y)):
        v, alpha = u[i], weight(i + 1)
        k = np.array([kernel(p, points[i]) for p in points])
        a = alpha * k / (1 - alpha + alpha * k)
        h = norm.cdf((norm.ppf(u) - rho * norm.ppf(v)) / np.sqrt(1 - rho**2))
        u = (1 - a) * u + a * h
    return u[-1]


def test_steps_are_those_of_the_recursion():
    x, y = data(6, dim=2)
    rule = ConditionalCopula(0.7, [0.8, 0.4])
    state = rule.start(x, y, 3)
    law = rule.predict(state, torch.tensor([[[0.2, -0.3]]]).double())
    ours = law.cdf(torch.full((3, 1, 1), 0.5).double())
    expected = by_hand(x.numpy(), y[:, 0].numpy(), np.array([0.2, -0.3]), 0.5, 0.7, [0.8, 0.4])
    np.testing.assert_allclose(ours[:, 0, 0], expected, atol=1e-9)


def test_the_mean_is_that_of_the_law():
    x, y = data(15)
    rule = ConditionalCopula(0.7, 0.8)
    state, grid = rule.start(x, y, 2), torch.tensor([[-1.0], [0.5]]).double()
    with scoped_seed(0):
        for _ in range(3):
            state, _ = rule.advance(state, torch.zeros(2, 1, 1).double())
    law = rule.predict(state, grid[None])
    torch.testing.assert_close(rule.evaluate(state, grid), law.mean, rtol=0, atol=2e-3)
    t = torch.linspace(-5, 5, 801).double()
    density = torch.stack([law.log_prob(v.expand(2, 2, 1)).exp() for v in t])
    mean = torch.trapezoid(t[:, None, None] * density, t, dim=0)
    torch.testing.assert_close(law.mean[..., 0], mean, rtol=0, atol=5e-3)


def test_imagined_futures_are_a_martingale():
    x, y = data(20)
    grid = torch.linspace(-1.5, 1.5, 7).double()[:, None]
    resampler = PredictiveResampler(
        ConditionalCopula(0.8, 0.8), num_steps=60, num_paths=800, x_design="bootstrap"
    )
    posterior = resampler.run(x, y, grid=grid, progress=False)
    error = (posterior.mean - posterior.start).abs()
    assert (error < 4 * posterior.sd / 800**0.5 + 0.002).all()
    assert float(posterior.sd.min()) > 0.02


def test_fitted_parameters_explain_the_data_better_than_others():
    """Held-out log density: fitted by prequential likelihood, and two poor choices."""
    x, y = data(40, seed=1)
    x_new, y_new = data(60, seed=2)

    def score(rule):
        return float(rule.predict(rule.start(x, y, 1), x_new[None]).log_prob(y_new).mean())

    fitted = score(ConditionalCopula(num_permutations=2))
    assert fitted > score(ConditionalCopula(0.3, 0.1)) + 0.1
    assert fitted > float(norm(y.mean(), y.std()).logpdf(y_new).mean()) + 0.2


def test_bad_arguments_are_named():
    x, y = data(5, dim=2)
    with pytest.raises(ValueError, match="must be given both"):
        ConditionalCopula(0.5)
    with pytest.raises(ValueError, match="`rho_x` must hold one number per input"):
        ConditionalCopula(0.5, [0.5, 0.5, 0.5]).start(x, y, 2)
    with pytest.raises(ValueError, match=r"`rho_x\[0\]`"):
        ConditionalCopula(0.5, 1.5)
