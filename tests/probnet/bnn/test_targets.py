"""Targets: covariances in closed form, draws with that covariance, random hyper-parameters."""

import math

import gpytorch
import pytest
import torch

from probnet.bnn import GPTarget, HierarchicalGPTarget

X = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]


def _scaled_rbf():
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
    kernel.base_kernel.lengthscale = 0.5
    kernel.outputscale = 2.0
    return kernel


def _assert_covariance(draws, expected):
    """Entries of the sample covariance within five standard errors."""
    products = draws.unsqueeze(-1) * draws.unsqueeze(-2)
    error = products.mean(0) - expected
    assert (error.abs() < 5 * products.std(0) / len(draws) ** 0.5 + 1e-5).all()


def test_a_fixed_kernel():
    target = GPTarget(_scaled_rbf())
    expected = 2 * torch.exp(-0.5 * (X - X.T) ** 2 / 0.25)
    torch.testing.assert_close(target.covariance(X), expected, rtol=0, atol=1e-6)
    _assert_covariance(target.sample(X, 20_000, seed=0), expected)


def test_the_kernel_is_copied():
    kernel = _scaled_rbf()
    target = GPTarget(kernel)
    before = target.covariance(X)
    kernel.outputscale = 5.0
    assert torch.equal(target.covariance(X), before)


def test_registered_priors_make_hyper_parameters_random():
    """E[outputscale] = e^{½ 0.25}; every function has a variance of its own."""
    kernel = _scaled_rbf()
    kernel.register_prior(
        "outputscale_prior", gpytorch.priors.LogNormalPrior(0.0, 0.5), "outputscale"
    )
    target = GPTarget(kernel, num_kernel_draws=4000)
    covariance = target.covariance(X)
    mean, sd = math.exp(0.125), math.exp(0.125) * (math.exp(0.25) - 1) ** 0.5
    assert float(covariance[0, 0]) == pytest.approx(mean, abs=5 * sd / 4000**0.5)
    fixed = GPTarget(_scaled_rbf()).covariance(X)
    _assert_covariance(target.sample(X, 20_000, seed=0), mean / 2 * fixed)
    kurtosis = target.sample(X[:1], 50_000, seed=1).pow(4).mean() / mean**2
    assert float(kurtosis) == pytest.approx(3 * math.exp(0.25), rel=0.1)


def test_the_hierarchical_process():
    """With ℓ all but fixed the mean covariance is E[α²] times the RBF."""
    law = torch.distributions.LogNormal
    target = HierarchicalGPTarget.rbf(1, lengthscale=law(0.0, 1e-6), variance=law(0.1, 0.5))
    expected = math.exp(0.1 + 0.125) * torch.exp(-0.5 * (X - X.T) ** 2)
    _assert_covariance(target.sample(X, 20_000, seed=0), expected)
    torch.testing.assert_close(target.covariance(X), expected, rtol=0.06, atol=0)
    assert torch.equal(target.covariance(X), target.covariance(X))


def test_the_published_transformation_is_a_softplus():
    target = HierarchicalGPTarget(
        1, variance=torch.distributions.LogNormal(0.1, 1e-6), reference=True
    )
    expected = math.log1p(math.exp(math.exp(0.1)))
    assert float(target.covariance(X)[0, 0]) == pytest.approx(expected, rel=1e-5)


def test_default_scales_are_the_papers():
    target = HierarchicalGPTarget(13)
    assert float(target.lengthscale[0]) == pytest.approx(math.log(26**0.5))
    assert [float(v) for v in target.variance] == pytest.approx([0.1, 1.0])


def test_empirical_bayes_finds_the_kernel():
    """Data drawn from a GP with ℓ = 1 sd of x, unit variance and noise 0.05."""
    x = 3 + 2 * torch.randn(150, 1, generator=torch.Generator().manual_seed(0)).double()
    z = (x - x.mean(0)) / x.std(0, correction=0)
    rbf = gpytorch.kernels.RBFKernel()
    rbf.lengthscale = 1.0
    f = GPTarget(rbf).sample(z, 1, seed=3)[0]
    noise = 0.05**0.5 * torch.randn(150, generator=torch.Generator().manual_seed(1)).double()
    target = GPTarget.fit(x, f + noise)
    scale = float((f + noise).var())
    assert float(target.kernel.base_kernel.lengthscale) == pytest.approx(1.0, rel=0.5)
    assert target.noise_var * scale == pytest.approx(0.05, rel=5 * (2 / 150) ** 0.5)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="`kernel` must be a GPyTorch kernel; got str"):
        GPTarget("rbf")
    with pytest.raises(TypeError, match="`variance` must be a LogNormal"):
        HierarchicalGPTarget(1, variance=torch.distributions.HalfNormal(1.0))
    with pytest.raises(ValueError, match="must have 2 columns"):
        HierarchicalGPTarget(2).sample(X, 1)
    with pytest.raises(ValueError, match="at most 2000 rows"):
        GPTarget.fit(torch.arange(2001.0)[:, None], torch.zeros(2001))
