"""The target over hyper-parameters, and its maximisation."""

import math

import pytest
import torch

from inference.errors import LinAlgError
from probnet.nngp import HalfCauchy, InverseGamma
from probnet.nngp.hyperparameters import HyperParameters
from probnet.nngp.objective import Objective, maximize


@pytest.fixture(params=[InverseGamma(2.0, 2.0), HalfCauchy(1.0)])
def objective(request, table, kernel):
    x, y, *_ = table
    return Objective(HyperParameters(kernel, 0.05), x, y[:, None], request.param)


def test_gradient_equals_central_differences(objective):
    vector = objective.hyper.vector()
    for profile in (False, True):
        _, gradient = objective.value_and_gradient(vector.numpy(), profile=profile)
        for i, step in enumerate(1e-5 * torch.eye(len(vector), dtype=torch.float64)):
            ahead, behind = (
                objective.value_and_gradient((vector + s * step).numpy(), profile=profile)[0]
                for s in (1, -1)
            )
            assert (ahead - behind) / 2e-5 == pytest.approx(gradient[i], abs=1e-6)


@torch.no_grad()
def test_the_best_amplitude_maximises_the_evidence(objective):
    """No other factor of K + εI has more evidence."""
    hyper, prior = objective.hyper, objective.hyper.log_prior
    hyper.multiply(objective.best_amplitude())
    best = float(objective.integrated() - prior())
    for factor in (0.9, 1.1):
        hyper.multiply(factor)
        assert float(objective.integrated() - prior()) < best - 1e-4
        hyper.multiply(1 / factor)


def test_singular_covariances_have_no_density(objective):
    vector = torch.full_like(objective.hyper.vector(), math.nan)
    assert float(objective.at(vector)) == -math.inf
    with pytest.raises(LinAlgError):
        objective.value_and_gradient(vector.numpy(), profile=False)


def test_the_maximum_has_no_slope(objective):
    start = objective.hyper.vector().numpy()
    found = maximize(objective, start, profile=False, max_evaluations=200, progress=False)
    value, gradient = objective.value_and_gradient(found.vector, profile=False)
    low, high = objective.hyper.bounds()
    inside = (found.vector > low) & (found.vector < high)
    assert value == pytest.approx(found.value)
    assert abs(gradient[inside]).max() < 1e-3 * len(objective.y)
    assert found.diagnostics["converged"]
