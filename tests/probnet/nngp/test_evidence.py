"""Evidence over models, mixtures of them, and the scale prior learned from data sets."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from inference import InferenceWarning
from probnet.kernels import NNGPKernel, mlp
from probnet.nngp import (
    BurrXII,
    InverseGamma,
    PointMass,
    ScaleMixtureGP,
    compare,
    fit_inverse_gamma,
)
from probnet.nngp.solutions import gram


@pytest.mark.parametrize(
    "prior", [InverseGamma(2.0, 2.0), BurrXII(2.0, 1.0), PointMass(1.0)], ids=repr
)
def test_mixture_weighs_models_by_their_evidence(table, prior):
    x, y, x_new, y_new = table
    models = {f"relu{d}": NNGPKernel(mlp(d)) for d in (1, 2)} | {
        "erf": NNGPKernel(mlp(1, "erf"))
    }
    fits = {
        n: ScaleMixtureGP(k, scale_prior=prior).fit(x, y, optimize=False)
        for n, k in models.items()
    }
    mixture = compare(fits)
    evidence = np.array([fits[n].log_evidence for n in mixture.weights])
    assert list(evidence) == sorted(evidence, reverse=True)
    weights = np.exp(evidence - np.logaddexp.reduce(evidence))
    np.testing.assert_allclose(list(mixture.weights.values()), weights)
    logs = torch.stack([fits[n].predict(x_new).log_prob(y_new) for n in mixture.weights])
    expected = (logs + torch.from_numpy(np.log(weights))[:, None]).logsumexp(0)
    torch.testing.assert_close(mixture.predict(x_new).log_prob(y_new), expected)
    assert mixture.best is fits[next(iter(mixture.weights))]
    assert mixture.table().count("\n") == 3


def test_models_must_be_comparable(table, kernel):
    x, y, x_new, _ = table
    one = ScaleMixtureGP(kernel).fit(x, y, optimize=False)
    with pytest.raises(ValueError, match="of the same targets"):
        compare({"a": one, "b": ScaleMixtureGP(kernel).fit(x, y + 1, optimize=False)})
    other = ScaleMixtureGP(kernel, scale_prior=PointMass(1.0)).fit(x, y, optimize=False)
    with pytest.raises(ValueError, match="different kinds of predictive laws"):
        compare({"a": one, "b": other}).predict(x_new)
    with pytest.raises(ValueError, match="at least one posterior"):
        compare({})


def test_one_data_set_does_not_identify_the_prior(table, kernel):
    x, y, *_ = table
    both = torch.stack([y, y.flip(0)], 1)
    posterior = ScaleMixtureGP(kernel, noise_ratio=0.1).fit(x, both, optimize=False)
    with pytest.warns(InferenceWarning, match="cannot be learned from one data set"):
        prior = fit_inverse_gamma([posterior])
    assert prior.concentration > 100
    assert prior.rate / prior.concentration == pytest.approx(
        float(posterior.solution.summary.quadratic) / 50, rel=0.05
    )


def test_many_data_sets_do(table, kernel):
    x = table[0]
    c = gram(kernel, x).detach() + 0.1 * torch.eye(25, dtype=torch.float64)
    root, noise = torch.linalg.cholesky(c), torch.Generator().manual_seed(0)
    scales = stats.invgamma(3.0, scale=1.5).rvs(150, random_state=1)
    model = ScaleMixtureGP(kernel, noise_ratio=0.1)
    white = torch.randn(150, 25, generator=noise, dtype=torch.float64)
    targets = white @ root.T * torch.from_numpy(scales).sqrt()[:, None]
    fits = [model.fit(x, y, optimize=False) for y in targets]
    prior = fit_inverse_gamma(fits)
    # From 150 known draws ln α has a standard error of 0.11; each is known to ±28 % here.
    assert math.log(prior.concentration / 3.0) == pytest.approx(0, abs=0.6)
    mean = prior.rate / (prior.concentration - 1)
    assert mean == pytest.approx(float(scales.mean()), rel=0.2)
