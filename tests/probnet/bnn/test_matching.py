"""Matching: closed forms exactly, others as well as their architecture can."""

import gpytorch
import pytest
import torch

from inference import InferenceWarning
from probnet.bnn import (
    BayesianConvNet,
    BayesianMLP,
    GPTarget,
    Grid,
    HierarchicalGPTarget,
    MeasurementSet,
    match_prior,
)
from probnet.kernels import NNGPKernel, mlp


def _rbf(lengthscale):
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
    kernel.base_kernel.lengthscale = lengthscale
    kernel.outputscale = 1.0
    return GPTarget(kernel)


SMOOTH, GRID = _rbf(2**0.5), Grid(-3, 3, 20)


def test_a_target_that_the_network_is_is_found_again():
    """The target is a network's own covariance: its scales minimise, but for the penalty."""
    kernel = NNGPKernel(mlp(1, "erf"), w_var=[1.44, 1.44], b_var=[0.64, 0.09])
    network = BayesianMLP(1, [30], activation="erf")
    match = match_prior(network, GPTarget(kernel), GRID, seed=0)
    expected = {"w1": 1.2, "b1": 0.8, "w2": 1.2, "b2": 0.3}
    assert match.prior.stds == pytest.approx(expected, rel=0.2)
    assert match.report.cov_frobenius < 0.03
    assert match.report["w2"] == match.report.w2 < 0.3


def test_one_hidden_layer_reaches_the_same_loss_from_two_starts():
    network = BayesianMLP(1, [100])
    start = network.prior(stds={"w1": 0.3, "b1": 4.0, "w2": 3.0})
    first = match_prior(network, SMOOTH, GRID, seed=0)
    second = match_prior(network, SMOOTH, GRID, start=start, seed=0)
    assert first.trace[-1] == pytest.approx(second.trace[-1], rel=1e-3)


def test_random_features_need_no_optimisation():
    match = match_prior(BayesianMLP(1, [100], family="rff"), _rbf(0.6), Grid(-6, 6, 40), seed=0)
    assert match.report.num_evaluations == 0
    assert match.report.objective == "closed_form"
    assert match.report.cov_frobenius <= 0.05
    assert match.report.var_error <= 0.06


def test_a_target_out_of_reach_is_said_to_be():
    with pytest.warns(InferenceWarning, match="cannot represent the target.*family='rff'"):
        match = match_prior(BayesianMLP(1, [50]), _rbf(0.3), Grid(-6, 6, 40), seed=0)
    assert not match.report.representable


def test_two_hidden_layers_are_polished_with_sampled_functions():
    match = match_prior(BayesianMLP(1, [30, 30]), SMOOTH, GRID, seed=0)
    assert match.report.cov_frobenius <= 0.22
    assert match.report.var_error <= 0.12


def test_the_seed_decides():
    options = {"objective": "energy", "num_steps": 3, "num_functions": 32}
    network = BayesianMLP(1, [10], family="hierarchical")
    target = HierarchicalGPTarget(1)
    sets = MeasurementSet(torch.linspace(-1, 1, 30)[:, None], 20)
    before = torch.get_rng_state()
    with pytest.warns(InferenceWarning, match="cannot represent"):
        first, again = (
            match_prior(network, target, sets, seed=1, progress=p, **options)
            for p in (True, False)
        )
    assert torch.equal(before, torch.get_rng_state())
    assert first.prior.rates == again.prior.rates


def test_energy_improves_a_flow():
    network = BayesianMLP(1, [10], family="flow")
    options = {"objective": "energy", "num_steps": 60, "progress": False}
    with pytest.warns(InferenceWarning, match="cannot represent"):
        match = match_prior(network, SMOOTH, GRID, seed=0, **options)
    assert sum(match.trace[-10:]) < 0.5 * sum(match.trace[:10])


def test_a_convolutional_network():
    network = BayesianConvNet((1, 3, 3), num_channels=2, num_blocks=1)
    x = torch.randn(30, 9, generator=torch.Generator().manual_seed(0))
    kernel = gpytorch.kernels.RBFKernel()
    kernel.lengthscale = 8.0
    match = match_prior(network, GPTarget(kernel), MeasurementSet(x, 10), seed=0)
    assert match.report.var_error < 0.2
    assert match.report.objective == "gaussian_w2"


def test_bad_arguments_are_refused():
    network = BayesianMLP(1, [5])
    with pytest.raises(
        ValueError, match="`target` has 2 input columns, but the network takes 1"
    ):
        match_prior(network, HierarchicalGPTarget(2), GRID)
    with pytest.raises(ValueError, match="Did you mean 'gaussian_w2'"):
        match_prior(network, SMOOTH, GRID, objective="gausian_w2")
    with pytest.raises(TypeError, match="takes no option `num_steps`"):
        match_prior(network, SMOOTH, GRID, num_steps=3)
    with pytest.raises(ValueError, match="must be a prior of the network that is matched"):
        match_prior(network, SMOOTH, GRID, start=BayesianMLP(1, [6]).prior())
    periodic = GPTarget(gpytorch.kernels.PeriodicKernel())
    with pytest.raises(ValueError, match="must have a known spectral density"):
        match_prior(BayesianMLP(1, [5], family="rff"), periodic, GRID)
