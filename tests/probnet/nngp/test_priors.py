"""Scale priors against SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from probnet.nngp import (
    BurrXII,
    DensityPrior,
    Gamma,
    HalfCauchy,
    InverseGamma,
    LogNormal,
    PointMass,
)
from probnet.nngp.priors import scale_prior_from_dict

KNOWN = [
    (InverseGamma(2.5, 1.5), stats.invgamma(2.5, scale=1.5)),
    (BurrXII(2.0, 1.5), stats.burr12(2.0, 1.5)),
    (LogNormal(0.3, 0.7), stats.lognorm(0.7, scale=math.exp(0.3))),
    (Gamma(2.0, 3.0), stats.gamma(2.0, scale=1 / 3)),
]
S = np.array([1e-3, 0.2, 1.0, 7.0, 300.0])


@pytest.mark.parametrize(("prior", "law"), KNOWN, ids=lambda p: type(p).__name__)
def test_densities_are_scipys(prior, law):
    np.testing.assert_allclose(prior.log_prob(torch.from_numpy(S)), law.logpdf(S), rtol=1e-12)


def test_half_cauchy_is_of_the_standard_deviation():
    found = HalfCauchy(2.0).log_prob(torch.from_numpy(S))
    jacobian = -np.log(2 * np.sqrt(S))
    np.testing.assert_allclose(found, stats.halfcauchy(scale=2.0).logpdf(np.sqrt(S)) + jacobian)


@pytest.mark.parametrize("prior", [*(p for p, _ in KNOWN), HalfCauchy(2.0), PointMass(3.0)])
def test_descriptions_rebuild(prior):
    assert scale_prior_from_dict(prior.to_dict()) == prior


def test_a_users_density_must_be_normalised():
    with pytest.raises(ValueError, match=r"normalised: .* integrates to 1\.2533"):
        DensityPrior(lambda s: -(s**2) / 2)
    with pytest.raises(ValueError, match="one finite number"):
        DensityPrior(lambda s: s[:1])
    with pytest.raises(ValueError, match=r"integrates to 1.*e\+30"):
        DensityPrior(lambda s: 0 * s)
    prior = DensityPrior(lambda s: -(s**2) / 2 + 0.5 * math.log(2 / math.pi))
    assert float(prior.log_prob(torch.tensor(1.0).double())) == pytest.approx(
        stats.halfnorm.logpdf(1)
    )
    with pytest.raises(TypeError, match="cannot be written to a file"):
        prior.to_dict()


@pytest.mark.parametrize("make", [lambda: InverseGamma(0.0, 1.0), lambda: BurrXII(1.0, -2.0)])
def test_parameters_must_be_positive(make):
    with pytest.raises(ValueError, match="must be a finite number > 0"):
        make()
