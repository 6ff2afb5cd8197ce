"""Distances of Gaussian laws and of samples, in cases with known answers."""

import numpy as np
import ot
import pytest
import torch

from probnet.bnn import BayesianMLP
from probnet.bnn.objectives import (
    energy_distance,
    minimise_lbfgs,
    nngp_covariance,
    sampled_w2,
)
from probnet.linalg import gaussian_w2

GENERATOR = torch.Generator().manual_seed(0)


def _covariance(n):
    a = torch.randn(n, n + 2, generator=GENERATOR, dtype=torch.float64)
    return a @ a.T / n


def test_sampled_w2_is_gaussian_w2_of_the_sample_covariance():
    f = torch.randn(30, 5, generator=GENERATOR, dtype=torch.float64)
    factor = torch.linalg.cholesky(_covariance(5))
    expected = gaussian_w2(f.T @ f / 30, factor)
    torch.testing.assert_close(sampled_w2(f, factor), expected)


def test_w2_bounds_exact_transport_of_samples():
    """Gaussian W₂² is a lower bound of W₂² between the laws; samples add a little."""
    k = _covariance(3)
    factor = torch.linalg.cholesky(k)
    f, g = (torch.randn(400, 3, generator=GENERATOR, dtype=torch.float64) for _ in range(2))
    f, g = f @ factor.T, 0.5 * g @ factor.T
    cost = torch.cdist(f, g).square().numpy()
    exact = ot.emd2(np.full(400, 1 / 400), np.full(400, 1 / 400), cost)
    assert float(gaussian_w2(k, 0.5 * factor)) == pytest.approx(
        0.25 * float(k.trace()), rel=1e-6
    )
    assert exact == pytest.approx(0.25 * float(k.trace()), rel=0.3)


def test_energy_distance():
    """Zero in expectation between equal laws; 2E|z-z'+c| - 2·2/√π for a shift c in 1-D."""
    f, g = (torch.randn(1500, 1, generator=GENERATOR, dtype=torch.float64) for _ in range(2))
    assert abs(float(energy_distance(f, g))) < 0.01
    shifted = energy_distance(f, g + 10)
    assert float(shifted) == pytest.approx(2 * 10 - 4 / np.pi**0.5, rel=0.02)


@pytest.mark.parametrize("activation", ["tanh", "relu", "erf"])
def test_one_hidden_layer_is_exact_at_any_width(activation):
    """40 000 functions of 50 units; entries within five standard errors."""
    network = BayesianMLP(2, [50], activation=activation)
    stds = {"w1": 1.3, "b1": 0.6, "w2": 0.9, "b2": 0.4}
    x = torch.randn(6, 2, generator=GENERATOR, dtype=torch.float64)
    logs = {n: torch.tensor(s, dtype=torch.float64).log() for n, s in stds.items()}
    f = network.prior(stds=stds).functions(x, 40_000, seed=0)
    products = f.unsqueeze(-1) * f.unsqueeze(-2)
    error = (products.mean(0) - nngp_covariance(network, logs, x)).abs()
    assert (error < 5 * products.std(0) / 200).all()
    assert activation == "relu" or (error < 0.02).all()


def test_a_linear_network_needs_no_limit():
    network = BayesianMLP(2, [])
    x = torch.randn(4, 2, generator=GENERATOR, dtype=torch.float64)
    logs = {"w1": torch.tensor(2.0).double().log(), "b1": torch.tensor(0.5).double().log()}
    expected = 4 * x @ x.T / 2 + 0.25
    torch.testing.assert_close(nngp_covariance(network, logs, x), expected)


def test_the_wide_limit_has_the_right_gradient():
    network = BayesianMLP(2, [5, 5])
    x = torch.randn(3, 2, generator=GENERATOR, dtype=torch.float64)
    names = list(network.shapes)

    def covariance(*values):
        return nngp_covariance(network, dict(zip(names, values, strict=True)), x)

    leaves = tuple(torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in names)
    assert torch.autograd.gradcheck(covariance, leaves, atol=1e-6)


def test_lbfgs_finds_a_minimum_and_counts():
    start = {"a": torch.zeros(()).double(), "b": torch.zeros(2).double()}
    free, loss, evaluations = minimise_lbfgs(
        lambda p: (p["a"] - 1).square() + (p["b"] + 2).square().sum(), start, max_steps=20
    )
    assert float(free["a"]) == pytest.approx(1.0, abs=1e-5)
    assert free["b"].tolist() == pytest.approx([-2.0, -2.0], abs=1e-5)
    assert loss < 1e-9
    assert 1 < evaluations < 20
