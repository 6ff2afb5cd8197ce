"""Likelihoods against SciPy, in Pyro, over draws, and to JSON and back."""

import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.func import vmap

from inference.rng import scoped_seed
from probnet.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    NegativeBinomial,
    Poisson,
    StudentT,
    likelihood_from_dict,
)

F = torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64)
REALS = torch.tensor([0.5, -2.0, 2.1], dtype=torch.float64)
COUNTS = torch.tensor([0.0, 1.0, 7.0], dtype=torch.float64)
f, y, k = F.numpy(), REALS.numpy(), COUNTS.numpy()
softplus = np.log1p(np.exp(f))

CASES = {
    "gaussian_sd": (Gaussian(0.3), F, REALS, stats.norm.logpdf(y, f, 0.3)),
    "gaussian_var": (Gaussian(noise_var=0.09), F, REALS, stats.norm.logpdf(y, f, 0.3)),
    "heteroscedastic": (
        HeteroscedasticGaussian(min_noise_sd=0.01),
        torch.stack([F, F], dim=-1),
        REALS,
        stats.norm.logpdf(y, f, 0.01 + softplus),
    ),
    "student_t": (StudentT(3.0, 0.7), F, REALS, stats.t.logpdf(y, 3, f, 0.7)),
    "bernoulli": (
        Bernoulli(),
        F,
        torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64),
        stats.bernoulli.logpmf([0, 1, 1], 1 / (1 + np.exp(-f))),
    ),
    "categorical": (
        Categorical(3),
        torch.diag(F),
        torch.tensor([0, 2, 1]),
        [
            -1 - math.log(math.exp(-1) + 2),
            -math.log(math.exp(0.3) + 2),
            -math.log(math.exp(2) + 2),
        ],
    ),
    "poisson": (Poisson(), F, COUNTS, stats.poisson.logpmf(k, np.exp(f))),
    "negative_binomial": (
        NegativeBinomial(2.5),
        F,
        COUNTS,
        stats.nbinom.logpmf(k, 2.5, 2.5 / (2.5 + np.exp(f))),
    ),
}
each = pytest.mark.parametrize("name", CASES)


@each
def test_log_prob_agrees_with_scipy(name):
    likelihood, latent, targets, expected = CASES[name]
    np.testing.assert_allclose(likelihood.log_prob(latent, targets), expected, rtol=1e-10)
    assert likelihood.priors == {}
    checked = likelihood.check_targets(targets.tolist())
    np.testing.assert_allclose(likelihood.log_prob(latent, checked), expected, rtol=1e-10)


@each
def test_leading_axes_of_latent_values_are_draws(name):
    likelihood, latent, targets, expected = CASES[name]
    draws = torch.stack([latent, latent + 0.5])
    stacked = likelihood.log_prob(draws, targets)
    np.testing.assert_allclose(stacked[0], expected, rtol=1e-10)
    torch.testing.assert_close(stacked[1], likelihood.log_prob(draws[1], targets))
    by_vmap = vmap(lambda one: likelihood.log_prob(one, targets))(draws)
    torch.testing.assert_close(by_vmap, stacked)


@each
def test_the_predictive_law_averages_densities_over_draws(name):
    likelihood, latent, targets, _ = CASES[name]
    draws = torch.stack([latent, 2 * latent, -latent]).reshape(3, 1, *latent.shape)
    expected = likelihood.log_prob(draws, targets).logsumexp((0, 1)) - math.log(3)
    predictive = likelihood.predictive(draws, num_draw_axes=2)
    assert predictive.batch_shape == (3,)
    torch.testing.assert_close(predictive.log_prob(targets), expected)


def test_means_and_variances_of_the_counts_are_as_documented():
    law = NegativeBinomial(2.0).distribution(F)
    torch.testing.assert_close(law.mean, F.exp())
    torch.testing.assert_close(law.variance, F.exp() + F.exp() ** 2 / 2)
    nearly = NegativeBinomial(1e7).log_prob(F, COUNTS)
    torch.testing.assert_close(nearly, Poisson().log_prob(F, COUNTS), rtol=1e-5, atol=1e-5)


LEARNED = {
    "noise_sd": Gaussian(),
    "noise_var": Gaussian(noise_var=dist.InverseGamma(2.0, 0.1)),
    "noise_scale": StudentT(),
    "df": StudentT(df=dist.Gamma(2.0, 0.1), noise_scale=1.0),
    "concentration": NegativeBinomial(),
}
each_learned = pytest.mark.parametrize("name", LEARNED)


@each_learned
def test_a_learned_parameter_has_one_value_per_draw(name):
    likelihood = LEARNED[name]
    targets = COUNTS if name == "concentration" else REALS
    values = torch.tensor([[0.5, 2.5]], dtype=torch.float64)
    draws = F.expand(1, 2, 3)
    together = likelihood.log_prob(draws, targets, **{name: values})
    for j, value in enumerate([0.5, 2.5]):
        alone = likelihood.log_prob(F, targets, **{name: value})
        torch.testing.assert_close(together[0, j], alone)
    assert not torch.allclose(together[0, 0], together[0, 1])
    mixture = likelihood.predictive(draws, num_draw_axes=2, **{name: values})
    torch.testing.assert_close(
        mixture.log_prob(targets), together.logsumexp((0, 1)) - math.log(2)
    )


@each_learned
def test_pyro_sites_are_priors_and_data(name):
    likelihood = LEARNED[name]
    targets = COUNTS if name == "concentration" else REALS

    def model():
        parameters = likelihood.sample_parameters()
        with pyro.plate("data", 3):
            likelihood.observe("y", F, targets, **parameters)

    with scoped_seed(0):
        trace = pyro.poutine.trace(model).get_trace()
    assert trace.nodes[name]["value"].dtype == torch.float64
    value = float(trace.nodes[name]["value"])
    prior = float(likelihood.priors[name].log_prob(torch.tensor(value, dtype=torch.float64)))
    data = float(likelihood.log_prob(F, targets, **{name: value}).sum())
    assert float(trace.log_prob_sum()) == pytest.approx(prior + data)


def test_pyro_draws_targets_that_are_not_given():
    with scoped_seed(0):
        drawn = Poisson().observe("y", F, None)
    assert drawn.shape == F.shape


def test_unnecessary_or_missing_parameters_are_named():
    with pytest.raises(TypeError, match=r"learns \['noise_sd'\].*got \[\]"):
        Gaussian().log_prob(F, REALS)
    with pytest.raises(TypeError, match=r"learns no parameter.*got \['noise_sd'\]"):
        Gaussian(0.3).log_prob(F, REALS, noise_sd=0.1)
    with pytest.raises(TypeError, match="learns no parameter"):
        Categorical(3).predictive(torch.diag(F)[None], scale=1.0)


def test_shapes_that_would_broadcast_silently_are_refused():
    with pytest.raises(ValueError, match=r"`y` must have shape \(1,\)"):
        Gaussian(1.0).log_prob(F[:, None], REALS)
    with pytest.raises(ValueError, match=r"`y.squeeze\(-1\)`"):
        Gaussian(1.0).log_prob(torch.stack([F, F])[..., 0], REALS[:2, None])
    with pytest.raises(ValueError, match="last axis of 3 latent values"):
        Categorical(3).log_prob(torch.ones(4, 2), torch.zeros(4))
    with pytest.raises(ValueError, match="last axis of 2 latent values"):
        HeteroscedasticGaussian().log_prob(F, REALS)
    with pytest.raises(ValueError, match=r"`noise_sd` must have shape \(\)"):
        Gaussian().log_prob(F.expand(2, 3), REALS, noise_sd=torch.ones(3))


@pytest.mark.parametrize(
    ("likelihood", "bad", "message"),
    [
        (Gaussian(1.0), [0.0, np.nan], "`y` holds 1 non-finite"),
        (Bernoulli(), [0.0, 2.0], r"0 or 1 for a Bernoulli.*first: 2 at index \(1,\)"),
        (Categorical(3), [0, 3], r"0\.\.2 for a Categorical"),
        (Categorical(3), [0.5], "whole class numbers"),
        (Poisson(), [1.0, -1.0], "counts"),
        (NegativeBinomial(1.0), [1.5], "counts"),
    ],
)
def test_impossible_targets_are_located(likelihood, bad, message):
    with pytest.raises(ValueError, match=message):
        likelihood.check_targets(bad)


def test_class_numbers_come_back_as_integers():
    assert Categorical(3).check_targets([0.0, 2.0]).dtype == torch.int64


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Gaussian(0.0), ValueError, "`noise_sd` must be a finite number > 0"),
        (lambda: Gaussian("small"), TypeError, "`noise_sd` must be a number"),
        (
            lambda: Gaussian(1.0, noise_var=1.0),
            ValueError,
            "`noise_sd` or `noise_var`, not both",
        ),
        (lambda: StudentT(df=-1.0), ValueError, "`df`"),
        (lambda: HeteroscedasticGaussian(0.0), ValueError, "`min_noise_sd`"),
        (lambda: Categorical(1), ValueError, "`num_classes` must be at least 2"),
        (lambda: Gaussian(dist.Normal(0.0, 1.0)), TypeError, "prior of `noise_sd`.*got Normal"),
        (lambda: Gaussian(dist.Uniform(-1.0, 1.0)), ValueError, "must not reach below 0"),
        (lambda: Gaussian(dist.HalfNormal(torch.ones(2))), ValueError, r"one number.*\(2,\)"),
    ],
)
def test_bad_settings_are_named(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_a_torch_prior_serves_as_well_as_pyros():
    likelihood = Gaussian(torch.distributions.HalfNormal(2.0))
    with scoped_seed(0):
        assert likelihood.sample_parameters()["noise_sd"] > 0


ALL = [case[0] for case in CASES.values()] + list(LEARNED.values())


@pytest.mark.parametrize("likelihood", ALL, ids=repr)
def test_json_round_trip(likelihood):
    described = json.loads(json.dumps(likelihood.to_dict()))
    again = likelihood_from_dict(described)
    assert type(again) is type(likelihood)
    assert again.to_dict() == likelihood.to_dict()
    for name, prior in likelihood.priors.items():
        at = torch.tensor(0.7, dtype=torch.float64)
        torch.testing.assert_close(again.priors[name].log_prob(at), prior.log_prob(at))


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="`name` must be one of"):
        likelihood_from_dict({"name": "os.system"})
