"""The Gaussian prior, and what all priors share."""

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import Normal

from probnet.bnn import BayesianMLP, GaussianPrior
from probnet.bnn.priors import flatten, unflatten

FAMILIES = ["flow", "gaussian", "hierarchical", "rff"]


def test_density_is_that_of_independent_normals():
    network = BayesianMLP(2, [3])
    stds = {"w1": 2.0, "b1": 0.5, "w2": 1.5, "b2": 0.1}
    prior = network.prior(stds=stds)
    weights = prior.sample(4, seed=0)
    expected = sum(
        Normal(0.0, stds[n]).log_prob(w).reshape(4, -1).sum(1) for n, w in weights.items()
    )
    torch.testing.assert_close(prior.log_prob(weights), expected)
    assert prior.stds == stds


def test_one_standard_deviation_per_entry():
    network = BayesianMLP(2, [3])
    stds = {"w1": torch.tensor([[1.0], [5.0]]), "b1": 1.0, "w2": 1.0, "b2": 1.0}
    w = network.prior(stds=stds).sample(20_000, seed=0)["w1"]
    torch.testing.assert_close(
        w.std(0), torch.tensor([[1.0], [5.0]]).double().expand(2, 3), rtol=5 / 200, atol=0
    )


def test_flatten_inverts_unflatten():
    shapes = BayesianMLP(2, [3]).shapes
    vector = torch.arange(26.0).reshape(2, 13)
    assert torch.equal(flatten(unflatten(vector, shapes), shapes), vector)


@pytest.mark.parametrize("family", FAMILIES)
def test_seeds(family):
    prior = BayesianMLP(2, [3], family=family).prior()
    x = torch.zeros(4, 2)
    before = torch.get_rng_state()
    first, again, other = (prior.functions(x, 3, seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_functions_are_differentiable_in_the_hyper_parameters(family):
    prior = BayesianMLP(2, [3], family=family).prior()
    free = {n: v.requires_grad_() for n, v in prior.free().items() if not n.endswith("_sd")}
    free |= {n: v for n, v in prior.free().items() if n.endswith("_sd")}
    moved = prior.with_free(free)
    value = moved.function_values(torch.ones(4, 2).double(), moved.draw_latents(8, seed=0))
    leaves = [v for n, v in free.items() if v.requires_grad and n != "concentration"]
    for gradient in torch.autograd.grad(value.square().mean(), leaves):
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pyro_model_has_the_same_density(family):
    """Latents drawn by Pyro have, up to a constant, the density that samplers are given."""
    prior = BayesianMLP(2, [3], family=family).prior()
    differences = []
    for seed in range(2):
        with pyro.validation_enabled(False), torch.random.fork_rng():
            torch.manual_seed(seed)
            trace = poutine.trace(prior.sample_weights).get_trace()
        latents = {name: trace.nodes[name]["value"] for name in ("z", *prior.latent_laws)}
        differences.append(float(trace.log_prob_sum() - prior.log_prior(latents)))
        weights = prior.weights(latents)
        assert all(torch.equal(trace.nodes[n]["value"], w) for n, w in weights.items())
    assert differences[0] == pytest.approx(differences[1], abs=1e-4)


def test_bad_hyper_parameters_are_refused():
    network = BayesianMLP(2, [3])
    with pytest.raises(ValueError, match=r"`stds\['w1'\]` must be finite and > 0; got -1"):
        network.prior(stds={"w1": -1.0})
    with pytest.raises(ValueError, match="Did you mean 'w1'"):
        network.prior(stds={"w_1": 1.0})
    with pytest.raises(TypeError, match="takes no option `std`"):
        network.prior(std={})
    with pytest.raises(ValueError, match=r"\['b2'\] lack one"):
        GaussianPrior(network, {"w1": 1.0, "b1": 1.0, "w2": 1.0})
    with pytest.raises(ValueError, match="must have 2 columns"):
        network.prior().functions(torch.zeros(3, 3), 2)
    with pytest.raises(ValueError, match="no closed-form density"):
        BayesianMLP(2, [3], family="rff").prior().log_prob({})
