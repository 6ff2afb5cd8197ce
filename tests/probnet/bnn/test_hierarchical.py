"""Random scales: the marginal law by quadrature, and the exact Gibbs conditional."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from probnet.bnn import BayesianMLP


def test_marginal_density_integrates_the_scale_out():
    network = BayesianMLP(2, [], family="hierarchical")
    prior = network.prior(concentrations={"w1": 3.0, "b1": 2.0}, rates={"w1": 2.0, "b1": 1.0})
    weights = prior.sample(1, seed=0)
    w, b = (weights[n][0].numpy().ravel() for n in ("w1", "b1"))

    def marginal(values, alpha, beta):
        def integrand(v):
            return stats.norm.pdf(values, scale=v**0.5).prod() * stats.invgamma.pdf(
                v, alpha, scale=beta
            )

        return np.log(integrate.quad(integrand, 0, np.inf, epsabs=1e-14)[0])

    expected = marginal(w, 3.0, 2.0) + marginal(b, 2.0, 1.0)
    assert float(prior.log_prob(weights)) == pytest.approx(expected, rel=1e-7)


def test_every_function_has_a_scale_of_its_own():
    """With α = 3, β = 4 the variance of an entry is β/(α-1) = 2, from draws one apart."""
    network = BayesianMLP(1, [50], family="hierarchical")
    prior = network.prior(
        concentrations=dict.fromkeys(network.shapes, 3.0),
        rates=dict.fromkeys(network.shapes, 4.0),
    )
    w = prior.sample(4000, seed=0)["w2"]
    within = w.square().mean((1, 2))
    law = stats.invgamma(3, scale=4)
    assert stats.kstest(within[:500], law.cdf).pvalue > 1e-4 / 2
    assert prior.stds["w2"] == pytest.approx(2**0.5)
    assert network.prior().stds["w2"] == float("inf")


def test_gibbs_conditional_has_the_closed_form_mean():
    """α = β = 3 and 1300 weights with ΣW² = 2000: (3 + 1000)/(3 + 650 - 1) = 1.5383."""
    network = BayesianMLP(13, [100], family="hierarchical")
    prior = network.prior(
        concentrations=dict.fromkeys(network.shapes, 3.0),
        rates=dict.fromkeys(network.shapes, 3.0),
    )
    weights = {n: torch.zeros(s) for n, s in network.shapes.items()}
    weights["w1"] = torch.full((13, 100), (2000 / 1300) ** 0.5)
    law = prior.conditional_variances(weights)
    assert float(law.mean[0]) == pytest.approx(1003 / 652, rel=1e-6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = law.sample((100_000,))[:, 0]
    assert float(draws.mean()) == pytest.approx(1.5383, rel=0.01)


def test_bad_hyper_parameters_are_refused():
    network = BayesianMLP(1, [3], family="hierarchical")
    with pytest.raises(ValueError, match="`rate_w1` must be finite and > 0; got 0"):
        network.prior(rates={"w1": 0.0})
    with pytest.raises(ValueError, match="must have the names"):
        type(network.prior())(network, {"rate_w1": 1.0})
