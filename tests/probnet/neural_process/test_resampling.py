"""Predictive resampling against exact posteriors; the full sizes are in the benchmarks."""

import arviz
import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

import inference
from probnet.neural_process import (
    CallableRule,
    Copula,
    GPRule,
    NormalMean,
    PredictiveResampler,
    oracle,
)
from probnet.neural_process.designs import Bootstrap, Sobol, Uniform


def run(rule, xc, yc, **options):
    kept = {k: options.pop(k) for k in ("grid", "seed") if k in options}
    return PredictiveResampler(rule, **options).run(xc, yc, progress=False, **kept)


def test_the_normal_mean_has_its_conjugate_posterior_and_truncation_law():
    """n = 20, κ = 1: N(m_n, 1/21); T = 50 shows √(50/71) of the sd."""
    y = torch.randn(20, 1, generator=torch.Generator().manual_seed(0)).double()
    mean, sd = float(y.sum()) / 21, 21**-0.5
    long = run(NormalMean(), None, y, num_steps=1500, num_paths=4000)
    theta = long.functions[:, 0, 0]
    law = (1500 / 1521) ** 0.5  # of the sd; its standard error is 1/√8000
    assert abs(float(theta.std()) / sd - law) < 4 / 8000**0.5
    assert scipy.stats.kstest(theta.numpy(), "norm", (mean, sd * law)).pvalue > 0.01
    assert abs(float(long.diagnostics["remaining_variance"]) - 21 / 1521) < 0.03
    short = run(NormalMean(), None, y, num_steps=50, num_paths=4000, seed=1)
    ratio = float(short.functions.std()) / sd
    assert abs(ratio - (50 / 71) ** 0.5) < 4 * 0.84 / 8000**0.5
    corrected = float(short.corrected().functions.std()) / sd
    assert abs(corrected - 1) < abs(ratio - 1) / 2


def test_automatic_length_ends_where_the_sd_does():
    y = torch.linspace(-1, 1, 10, dtype=torch.float64)[:, None]
    posterior = run(NormalMean(), None, y, num_steps="auto", num_paths=1000)
    assert posterior.diagnostics["remaining_variance"] < 0.1
    assert abs(float(posterior.sd) * 11**0.5 - 1) < 0.08
    assert posterior.num_steps == posterior.diagnostics["num_steps"][-1]


X = torch.tensor([[-1.7], [-1.1], [-0.6], [-0.1], [0.2], [0.9], [1.3], [1.8]]).double()
Y = torch.sin(3 * X)
GP = {"lengthscale": 0.4, "amplitude": 1.0, "noise_sd": 0.1}


@pytest.mark.parametrize("x_design", ["uniform", "sobol"])
def test_the_gp_rule_gives_the_exact_gp_posterior(x_design):
    """RBF ℓ = 0.4, s = 1, noise 0.1, n = 8."""
    grid = torch.linspace(-1.9, 1.9, 20).double()[:, None]
    rule = GPRule("rbf", **GP, x_range=(-2.0, 2.0))
    options = {"num_steps": 100, "num_paths": 500, "x_design": x_design}
    ours = run(rule, X, Y, grid=grid, **options)
    exact = oracle("rbf", **GP).condition(X, Y).predict(grid, observation=False)
    ratio = ours.sd / exact.stddev
    assert abs(float(ratio.mean()) - 1) < 0.05
    assert float(((ours.mean - exact.mean).abs() / exact.stddev).mean()) < 0.1
    chance = ours.diagnostics["martingale_defect_by_chance"]
    assert ours.diagnostics["martingale_defect"] < 4 * chance
    noisy = oracle("rbf", **GP).condition(X, Y).predict(grid)
    torch.testing.assert_close(ours.predict(grid).stddev, noisy.stddev, rtol=0.05, atol=0.02)
    torch.testing.assert_close(ours.sample_functions(grid), ours.functions)


def test_growing_factors_agree_with_all_data_at_once():
    """Beyond the first buffer, with inputs that paths share and with their own."""
    rng = torch.Generator().manual_seed(2)
    rule = GPRule("matern", lengthscale=0.4, noise_sd=0.1)
    grid = torch.linspace(-2, 2, 5).double()[:, None]
    state = rule.start(X, Y, 3)
    xs, ys = X.expand(3, 8, 1), Y.expand(3, 8, 1)
    for step in range(80):
        shape = (1 if step < 10 else 3, 1, 1)
        x = 4 * torch.rand(shape, generator=rng).double() - 2
        y = torch.randn((3, 1, 1), generator=rng).double()
        state = rule.update(state, x, y)
        xs = torch.cat([xs, x.expand(3, 1, 1)], 1)
        ys = torch.cat([ys, y], 1)
    law = rule.predict(state, grid[None])
    exact = oracle("matern", lengthscale=0.4, amplitude=1.0, noise_sd=0.1).condition(xs, ys)
    expected = exact.predict(grid.expand(3, 5, 1))
    torch.testing.assert_close(law.mean, expected.mean, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(law.stddev, expected.stddev, rtol=1e-8, atol=1e-9)


def test_a_scikit_learn_regressor_is_a_rule():
    """Its paths have the law of those of the exact rule with the same kernel."""

    def predictor(x, y, x_new):
        model = GaussianProcessRegressor(RBF(0.4), alpha=0.01, optimizer=None).fit(x, y[:, 0])
        mean, sd = model.predict(x_new, return_std=True)
        return mean, (sd**2 + 0.01) ** 0.5

    grid = torch.tensor([[0.55], [2.5]]).double()
    options = {"num_steps": 12, "x_range": (-2.0, 3.0), "x_design": "sobol", "seed": 3}
    theirs = run(CallableRule(predictor), X, Y, grid=grid, num_paths=60, **options)
    ours = run(GPRule("rbf", **GP), X, Y, grid=grid, num_paths=4000, **options)
    assert ((theirs.mean - ours.mean).abs() < 4 * ours.sd / 60**0.5).all()
    assert ((theirs.sd / ours.sd - 1).abs() < 4 / 120**0.5).all()


def test_seeds_chains_and_global_state():
    rule = GPRule("rbf", **GP)
    a, b, c = (
        run(rule, X, Y, num_steps=10, num_paths=5, seed=seed).functions for seed in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    shown = PredictiveResampler(rule, num_steps=10, num_paths=5).run(X, Y, progress=True)
    assert torch.equal(shown.functions, a)


def test_arviz_has_one_chain_of_independent_draws():
    posterior = run(GPRule("rbf", **GP), X, Y, num_steps=16, num_paths=40)
    tree = posterior.to_datatree()
    assert tree["posterior"]["f"].sizes == {"chain": 1, "draw": 40, "x_id": 64, "y_dim": 1}
    assert tree.attrs["draws"] == "independent"
    assert tree["log_likelihood"]["y_ctx"].shape == (1, 40, 8)
    assert tree["posterior_predictive"]["y"].shape == (1, 40, 64, 1)
    assert tree["constant_data"]["x_grid"].shape == (64, 1)
    np.testing.assert_allclose(tree["observed_data"]["y_ctx"], Y)
    law = posterior.rule.predict(posterior.state, X[None])
    np.testing.assert_allclose(tree["log_likelihood"]["y_ctx"][0], law.log_prob(Y))
    data = posterior.to_arviz()
    assert float(arviz.summary(data, var_names=["minimum"])["mean"].iloc[0]) < 0
    without = run(NormalMean(), None, Y, num_steps=16, num_paths=40).to_datatree()
    assert "posterior_predictive" not in without.children
    copula = run(Copula(0.7), None, Y, num_steps=16, num_paths=40).to_datatree()
    assert copula["log_likelihood"]["y_ctx"].shape == (1, 40, 8)


def test_designs_have_their_laws():
    low, high = torch.tensor([-1.0, 0.0]).double(), torch.tensor([1.0, 10.0]).double()
    rng = torch.Generator().manual_seed(4)
    uniform = Uniform(low, high, 4000, rng).next()
    assert scipy.stats.kstest(uniform[:, 0, 1].numpy(), "uniform", (0, 10)).pvalue > 0.01
    sobol = Sobol(low, high, rng)
    points = torch.cat([sobol.next() for _ in range(64)])[:, 0]
    cells = ((points - low) / (high - low) * 8).long()
    assert len({tuple(cell) for cell in cells.tolist()}) == 64  # one in each of 8 x 8 cells
    data = torch.arange(5.0).double()[:, None]
    bootstrap = Bootstrap(data, 3000, rng)
    x = torch.cat([bootstrap.next() for _ in range(40)], 1)[..., 0]
    share = (x == 2).double().mean(1)  # Beta(1, 4), then binomial: both moments are known
    assert abs(float(share.mean()) - 0.2) < 5 * 0.18 / 3000**0.5
    expected = 0.2 * 0.8 / 6 * (1 - 1 / 40) + 0.2 * 0.8 / 40
    assert float(share.var()) == pytest.approx(expected, rel=0.15)


def test_few_steps_are_warned_of():
    with pytest.warns(inference.InferenceWarning, match="below the number of observations"):
        run(NormalMean(), None, Y, num_steps=4, num_paths=10)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PredictiveResampler(3), TypeError, "`rule` must be a PredictiveRule"),
        (lambda: PredictiveResampler(NormalMean(), num_paths=1), ValueError, "`num_paths`"),
        (lambda: PredictiveResampler(NormalMean(), x_design="sob"), ValueError, "'sobol'"),
        (lambda: run(GPRule(**GP), None, Y), ValueError, "`xc` must be given"),
        (lambda: run(GPRule(**GP), X[:3], Y), ValueError, "same number of rows"),
        (lambda: run(GPRule(**GP), X[None], Y), ValueError, "`xc` must have shape"),
        (lambda: GPRule("periodic", **GP), ValueError, "`period` must be given"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
