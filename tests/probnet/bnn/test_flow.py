"""Planar flows: the density is that of the samples."""

import numpy as np
import pytest
import torch
from scipy import stats

from probnet.bnn import BayesianMLP, FlowPrior
from probnet.bnn.flow import planar, planar_inverse


def _random(d, seed, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    u, w, b = (
        scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((d,), (d,), ())
    )
    return u, w, b


def _strong_flow(network, seed, scale=1.5):
    """A flow far from the identity."""
    prior = network.prior()
    generator = torch.Generator().manual_seed(seed)
    values = {
        name: v
        if name.endswith("log_var")
        else scale * torch.randn(v.shape, generator=generator, dtype=torch.float64)
        for name, v in prior.hyperparameters.items()
    }
    return FlowPrior(network, values)


@pytest.mark.parametrize("seed", range(4))
def test_the_inverse_undoes_the_map_and_has_its_jacobian(seed):
    u, w, b = _random(3, seed)
    z = torch.randn(20, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    y = planar(z, u, w, b)
    back, log_det = planar_inverse(y, u, w, b)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-11)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: planar(v, u, w, b)))(z)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian)[1])
    assert (torch.linalg.slogdet(jacobian)[0] > 0).all()


def test_density_integrates_to_one_and_matches_samples():
    """Of one unit's bias and weight, on a plane; and the cdf of the weight."""
    network = BayesianMLP(1, [], family="flow")
    prior = _strong_flow(network, 1, 0.7)
    draws = prior.sample(4000, seed=0)
    step = 0.05
    side = torch.arange(-14, 14, step, dtype=torch.float64)
    b, w = torch.meshgrid(side, side, indexing="ij")
    grid = {"b1": b.reshape(-1, 1), "w1": w.reshape(-1, 1, 1)}
    density = prior.log_prob(grid).exp().reshape(b.shape)
    assert float(density.sum() * step**2) == pytest.approx(1.0, abs=1e-3)
    cdf = np.interp(draws["w1"].ravel(), side + step / 2, density.sum(0).cumsum(0) * step**2)
    assert stats.kstest(cdf, "uniform").pvalue > 1e-3


def test_density_of_one_dimension_alone():
    u, w, b = _random(1, 5)
    y = torch.linspace(-40, 40, 80_001, dtype=torch.float64)[:, None]
    z, log_det = planar_inverse(y, u, w, b)
    density = torch.exp(torch.distributions.Normal(0.0, 1.0).log_prob(z[:, 0]) - log_det)
    assert float(density.sum() * 1e-3) == pytest.approx(1.0, abs=1e-3)


def test_gradient_of_the_density():
    network = BayesianMLP(2, [2], family="flow")
    prior = _strong_flow(network, 0)
    weights = prior.sample(1, seed=0)
    names = list(weights)

    def log_prob(*values):
        return prior.log_prob(dict(zip(names, values, strict=True)))

    leaves = tuple(weights[n].requires_grad_() for n in names)
    assert torch.autograd.gradcheck(log_prob, leaves)


def test_near_the_identity_the_scales_are_those_of_the_base():
    network = BayesianMLP(3, [20], family="flow")
    stds = network.prior(stds={"w1": 2.0}).stds
    assert stds["w1"] == pytest.approx(2.0, rel=0.2)
