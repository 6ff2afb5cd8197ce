"""Variational inference by NumPyro's guides, against a Gaussian posterior."""

import numpy as np
import pytest
import torch

import inference
from inference.rng import scoped_seed

with scoped_seed(0):  # importing NumPyro moves NumPy's global generator
    pytest.importorskip("jax", reason="needs the extra 'jax'")
    numpyro = pytest.importorskip("numpyro", reason="needs the extra 'jax'")
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.infer.autoguide import AutoMultivariateNormal

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(40, 3))
X[:, 1] += X[:, 0]
Y = X @ np.array([1.0, -1.0, 0.5]) + _RNG.normal(size=40)
PRECISION = X.T @ X + np.eye(3)
COVARIANCE = np.linalg.inv(PRECISION)
MEAN = COVARIANCE @ X.T @ Y


def model(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with numpyro.plate("rows", 40, subsample_size=len(y)):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def own_guide(x, y):
    loc = numpyro.param("loc", jnp.zeros(3))
    scale = numpyro.param("scale", jnp.full(3, 0.1), constraint=dist.constraints.positive)
    with numpyro.plate("coefficients", 1):
        numpyro.sample("nuisance", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
    numpyro.sample("w", dist.Normal(loc, scale).to_event(1))


def fit(guide, **options):
    given = {"num_steps": 1500, "num_samples": 4000, "learning_rate": 0.03, "progress": False}
    return inference.fit(model, (X, Y), guide=guide, **(given | options))


GUIDES = {
    "mean_field": (np.diag(1 / np.diag(PRECISION)), {"batch_size": 20}),
    "low_rank": (COVARIANCE, {"rank": 3}),
    "iaf": (COVARIANCE, {"num_steps": 1000}),
    "laplace": (COVARIANCE, {"num_steps": 20}),
}


@pytest.mark.filterwarnings("ignore:PSIS")  # a diagonal guide is far off, and says so
@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_finds_the_gaussian_nearest_to_the_posterior(guide):
    covariance, options = GUIDES[guide]
    draws = fit(guide, **options)
    w = draws.draws["w"][0]
    sd = np.sqrt(np.diag(covariance))
    found = np.cov(w.T) / np.outer(sd, sd)
    assert np.abs(w.mean(0) - MEAN).max() < 0.2 * sd.min()
    np.testing.assert_allclose(found, covariance / np.outer(sd, sd), atol=0.2)
    assert draws.variational
    assert draws.attrs["guide"] == guide
    assert draws.attrs["backend"] == "jax"
    if guide not in ("mean_field", "laplace"):
        assert draws.attrs["pareto_k"] < 0.7
        sign, size = np.linalg.slogdet(2 * np.pi * COVARIANCE)
        assert sign == 1
        at_mode = -0.5 * ((Y - X @ MEAN) ** 2).sum() - 0.5 * MEAN @ MEAN
        evidence = at_mode - 43 / 2 * np.log(2 * np.pi) + size / 2
        assert draws.attrs["elbo"] == pytest.approx(evidence, abs=0.1)


@pytest.mark.filterwarnings("ignore:PSIS")
@pytest.mark.parametrize("guide", [own_guide, AutoMultivariateNormal])
def test_guides_of_the_users_and_of_numpyro(guide):
    draws = fit(guide)
    w = draws.draws["w"][0]
    variance = 1 / np.diag(PRECISION) if guide is own_guide else np.diag(COVARIANCE)
    sd = np.sqrt(variance)
    np.testing.assert_allclose(w.mean(0), MEAN, atol=0.4 * sd.min())
    np.testing.assert_allclose(w.std(0), sd, rtol=0.25)
    assert draws.attrs["guide"] == guide.__name__


def test_the_mode():
    draws = fit("delta", num_steps=20, num_samples=2)
    np.testing.assert_allclose(draws.draws["w"][0], [MEAN, MEAN], rtol=1e-6)


@pytest.mark.filterwarnings("ignore:PSIS")
def test_a_fit_is_reproducible():
    options = {"num_steps": 150, "num_samples": 3}
    before = torch.get_rng_state()
    one, two = (fit("mean_field", seed=1, **options) for _ in range(2))
    np.testing.assert_array_equal(one.draws["w"], two.draws["w"])
    assert torch.equal(before, torch.get_rng_state())
    assert one.optimization["elbo"].shape == (150,)


@pytest.mark.parametrize(
    ("guide", "options", "message"),
    [
        ("bnaf", {}, "`guide` must be one of"),
        ("mean_field", {"rank": 2}, "`rank` belongs to"),
        ("mean_field", {"chain_method": "sequential"}, "does not apply to the JAX backend"),
        (lambda x, y: numpyro.sample("v", dist.Normal(0.0, 1.0)), {}, r"sites \['w'\]"),
    ],
)
def test_a_guide_that_does_not_fit_is_refused(guide, options, message):
    with pytest.raises(ValueError, match=message):
        fit(guide, **options)
