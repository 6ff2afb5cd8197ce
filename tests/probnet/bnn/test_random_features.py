"""Random cosine features: covariance in closed form for every kernel and width."""

import math

import gpytorch
import pytest
import torch

from probnet.bnn import BayesianMLP, GPTarget, HierarchicalGPTarget, SpectralDensity

X = torch.linspace(-2, 2, 15, dtype=torch.float64)[:, None]


def _rbf(lengthscale, d=1):
    kernel = gpytorch.kernels.RBFKernel(ard_num_dims=d)
    kernel.lengthscale = lengthscale
    return gpytorch.kernels.ScaleKernel(kernel)


KERNELS = {
    "rbf": _rbf(0.7),
    "matern": gpytorch.kernels.MaternKernel(nu=1.5),
    "rational quadratic": gpytorch.kernels.RQKernel(),
}


@pytest.mark.parametrize("name", KERNELS)
def test_covariance_is_the_kernel(name):
    """40 000 functions of only 5 units; entries within five standard errors."""
    target = GPTarget(KERNELS[name])
    prior = BayesianMLP(1, [5], family="rff").prior(spectrum=target.spectrum)
    f = prior.functions(X, 40_000, seed=0)
    products = f.unsqueeze(-1) * f.unsqueeze(-2)
    error = products.mean(0) - target.covariance(X)
    assert (error.abs() < 5 * products.std(0) / 200).all()


def test_kurtosis_falls_with_the_width():
    for width in (1, 10):
        prior = BayesianMLP(1, [width], family="rff").prior()
        f = prior.functions(X[:1], 200_000, seed=0)[:, 0]
        excess = float(f.pow(4).mean() / f.square().mean() ** 2 - 3)
        assert excess == pytest.approx(1.5 / width, abs=0.15)


def test_lengthscales_per_input():
    kernel = _rbf(torch.tensor([[0.5, 3.0]]), d=2)
    target = GPTarget(kernel)
    prior = BayesianMLP(2, [50], family="rff").prior(spectrum=target.spectrum)
    x = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]], dtype=torch.float64)
    f = prior.functions(x, 40_000, seed=0)
    torch.testing.assert_close(f.T @ f / len(f), target.covariance(x), rtol=0, atol=0.03)
    assert prior.stds["w1"] == pytest.approx([2**0.5 / 0.5, 2**0.5 / 3.0], rel=1e-6)


def test_random_hyper_parameters_are_the_hierarchical_process():
    """Var f and the fourth moment: E[α⁴]·3·(1 + ½/H) for log-normal α²."""
    law = torch.distributions.LogNormal(0.1, 0.5)
    target = HierarchicalGPTarget(1, variance=law)
    prior = BayesianMLP(1, [10], family="rff").prior(spectrum=target.spectrum)
    f = prior.functions(X[:1], 50_000, seed=0)[:, 0]
    assert float(f.square().mean()) == pytest.approx(float(law.mean), rel=0.02)
    fourth = 3 * (1 + 0.5 / 10) * math.exp(2 * 0.1 + 2 * 0.25)
    assert float(f.pow(4).mean()) == pytest.approx(fourth, rel=0.1)


def test_bad_spectra_are_refused():
    with pytest.raises(ValueError, match="`lengthscale` must be finite and > 0; got 0"):
        SpectralDensity(0.0)
    with pytest.raises(ValueError, match="`log_outputscale_sd` must be >= 0"):
        SpectralDensity(1.0, log_outputscale_sd=-1.0)
    with pytest.raises(ValueError, match="Did you mean 'matern'"):
        SpectralDensity(1.0, mixing="matrn")
    with pytest.raises(ValueError, match="must have 1 or 3 entries"):
        BayesianMLP(3, [5], family="rff").prior(spectrum=SpectralDensity([1.0, 2.0]))
