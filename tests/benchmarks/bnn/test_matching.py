"""Deterministic matching beside the neural critic, on one core in one process."""

import gpytorch
import pytest

from probnet.bnn import BayesianMLP, GPTarget, Grid, match_prior

pytestmark = pytest.mark.benchmark


def test_deterministic_matching_is_better_and_far_cheaper(capsys):
    """The critic runs a tenth of its published length, and is charged for a tenth."""
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
    kernel.base_kernel.lengthscale, kernel.outputscale = 2**0.5, 1.0
    network, target, grid = BayesianMLP(1, [50, 50]), GPTarget(kernel), Grid(-3, 3, 80)
    ours = match_prior(network, target, grid, seed=0).report
    critic = match_prior(
        network, target, grid, objective="wasserstein1", reference=True, num_outer=20, seed=0
    ).report
    with capsys.disabled():
        for name, report in (("deterministic", ours), ("critic, 20 of 200 steps", critic)):
            print(
                f"\n{name:24} W2² {report.w2**2:6.2f}, covariance error "
                f"{report.cov_frobenius:.3f}, variance error {report.var_error:.3f}, "
                f"{report.seconds:.1f} CPU-s",
                end="",
            )
    assert ours.w2 <= critic.w2
    assert 10 * critic.seconds >= 20 * ours.seconds
