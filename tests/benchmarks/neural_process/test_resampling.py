"""Predictive resampling at full size, against exact posteriors and a loop over paths."""

import time

import numpy as np
import pytest
import scipy.stats
import torch

from probnet.neural_process import Copula, GPRule, NormalMean, PredictiveResampler, oracle


@pytest.mark.benchmark
def test_normal_mean():
    """n = 20, κ = 1; the exact posterior is N(m_n, 1/21)."""
    y = torch.randn(20, 1, generator=torch.Generator().manual_seed(0)).double()
    mean, sd = float(y.sum()) / 21, 21**-0.5
    print()
    for num_steps in (4000, 50):
        resampler = PredictiveResampler(NormalMean(), num_steps=num_steps, num_paths=20_000)
        theta = resampler.run(None, y, progress=False).functions[:, 0, 0]
        ratio = float(theta.std()) / sd
        distance = scipy.stats.kstest(theta.numpy(), "norm", (mean, sd)).statistic
        law = (num_steps / (21 + num_steps)) ** 0.5
        print(f"T = {num_steps}: sd ratio {ratio:.4f} (law {law:.4f}), KS {distance:.4f}")
        if num_steps == 4000:
            assert 0.99 < ratio < 1.01
            assert distance < 0.015
        else:
            assert abs(ratio - 0.839) < 0.01


@pytest.mark.benchmark
def test_gaussian_process():
    """RBF ℓ = 0.4, s = 1, noise 0.1, n = 8; inputs uniform, anew on each path."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.uniform(-2, 2, (8, 1)))
    y = torch.sin(3 * x) + 0.1 * torch.from_numpy(rng.normal(size=(8, 1)))
    grid = torch.linspace(-2, 2, 41).double()[:, None]
    options = {"lengthscale": 0.4, "amplitude": 1.0, "noise_sd": 0.1}
    exact = oracle("rbf", **options).condition(x, y).predict(grid, observation=False)
    rule = GPRule("rbf", **options, x_range=(-2.0, 2.0))
    resampler = PredictiveResampler(rule, num_steps=100, num_paths=4000)
    posterior = resampler.run(x, y, grid=grid, progress=False)
    ratio = posterior.sd / exact.stddev
    error = (posterior.mean - exact.mean).abs() / exact.stddev
    print(
        f"\nT = 100, 4000 paths: sd ratio mean {ratio.mean():.4f}, "
        f"[{ratio.min():.4f}, {ratio.max():.4f}] over the grid; mean error / posterior sd "
        f"{error.mean():.4f}, at most {error.max():.4f}"
    )
    assert 0.95 < float(ratio.mean()) < 1.05
    assert float(error.max()) < 0.1


@pytest.mark.benchmark
def test_copula():
    rng = np.random.default_rng(0)
    y = np.where(rng.random(50) < 0.5, -1.0, 1.0) + 0.4 * rng.normal(size=50)
    grid = torch.linspace(-3.5, 3.5, 141).double()
    rule = Copula(rho=0.8)
    start = rule.update(y).cdf(grid)
    fine = torch.linspace(-8, 8, 8001).double()
    mass = float(torch.trapezoid(rule.update(y).pdf(fine), fine))
    print(f"\nthe density integrates to {mass:.6f}")
    assert abs(mass - 1) < 1e-3
    middle = (start > 0.05) & (start < 0.95)
    for num_steps in (100, 1000):
        resampler = PredictiveResampler(rule, num_steps=num_steps, num_paths=1000)
        paths = resampler.run(None, y, grid=grid, progress=False).functions[..., 0]
        error = (paths.mean(0) - start).abs()
        bound = 4 * paths.std(0) / 1000**0.5 + 0.001
        print(
            f"T = {num_steps}: max |mean P_N - P_n| {error.max():.4f}, of the bound at most "
            f"{(error / bound)[middle].max():.3f}; sd of P(0) {paths.std(0)[70]:.4f}; "
            f"smallest increment {paths.diff(dim=1).min():.1e}"
        )
        assert (error < bound)[middle].all()
        assert (paths.diff(dim=1) >= 0).all()


@pytest.mark.benchmark
def test_500_paths_beside_a_loop():
    """The loop runs 10 paths, one by one, with the same code; its time is scaled to 500."""
    x = torch.linspace(-2, 2, 8).double()[:, None]
    rules = {
        "normal mean": (NormalMean(), None, 1000),
        "copula": (Copula(rho=0.8), None, 500),
        "GP, Sobol inputs": (
            GPRule("rbf", lengthscale=0.4, noise_sd=0.1, x_range=(-2.0, 2.0)),
            x,
            300,
        ),
    }
    y = torch.sin(3 * x)
    print()
    for name, (rule, xc, num_steps) in rules.items():

        def seconds(num_paths, rule=rule, xc=xc, num_steps=num_steps):
            resampler = PredictiveResampler(
                rule, num_steps=num_steps, num_paths=num_paths, x_design="sobol"
            )
            start = time.process_time()
            resampler.run(xc, y, progress=False)
            return time.process_time() - start

        together = min(seconds(500) for _ in range(3))
        # two paths are the fewest; half of their time is less than that of a single one
        alone = sum(seconds(2) / 2 for _ in range(10)) * 50
        print(
            f"{name}: T = {num_steps}, 500 paths {together:.2f} s, loop {alone:.1f} s, "
            f"ratio {alone / together:.0f}"
        )
        assert alone > 20 * together
