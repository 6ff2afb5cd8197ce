"""What the samplers make of the options they share."""

import numpy as np
import pytest
import torch

import inference
from inference.samplers import SGHMC, SGLD, SGNHT

TAKERS = [SGHMC, SGLD, SGNHT]


@pytest.mark.parametrize("kind", TAKERS)
@pytest.mark.parametrize("variance", [-1.0, float("nan"), torch.tensor([1.0, -0.1])])
def test_a_gradient_variance_below_zero_is_refused(kind, variance):
    with pytest.raises(ValueError, match=r"`gradient_variance` must be finite and >= 0"):
        kind(gradient_variance=variance)


def run(method, **options):
    target = inference.LogDensity(
        log_prior=lambda p: -0.5 * p["z"].square().sum(), params={"z": torch.zeros(3)}
    )
    settings = {"num_chains": 2, "num_warmup": 2, "num_samples": 3, "progress": False}
    return inference.sample(target, method=method, step_size=0.01, **settings, **options)


@pytest.mark.parametrize("method", ["sghmc", "sgld", "sgnht"])
def test_a_gradient_variance_of_another_length_is_refused(method):
    with pytest.raises(ValueError, match=r"scalar or have 3 entries.*got shape \(2,\)"):
        run(method, gradient_variance=torch.ones(2))


@pytest.mark.parametrize("method", ["sghmc", "sgld", "sgnht"])
def test_a_gradient_variance_of_another_precision_leaves_that_of_the_draws(method):
    wide = run(method, gradient_variance=np.full(3, 1e-3))
    narrow = run(method, gradient_variance=torch.full((3,), 1e-3))
    assert wide.state["position"].dtype == torch.float32
    np.testing.assert_array_equal(wide.draws["z"], narrow.draws["z"])


def test_langevin_dynamics_has_no_momentum_to_redraw():
    with pytest.raises(TypeError, match=r"takes no option `resample_every`"):
        run("sgld", resample_every=5)
