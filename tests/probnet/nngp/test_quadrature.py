"""Evidence over the scale against closed forms and SciPy's adaptive quadrature."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from inference import InferenceWarning
from probnet.nngp import (
    BurrXII,
    DensityPrior,
    Gamma,
    HalfCauchy,
    InverseGamma,
    LogNormal,
    PointMass,
)
from probnet.nngp.priors import ScalePrior
from probnet.nngp.quadrature import DataSummary, log_evidence, scale_nodes
from probnet.nngp.scale_law import scale_law

PRIORS = [BurrXII(2.0, 2.0), HalfCauchy(1.0), LogNormal(0.0, 1.0), Gamma(2.0, 1.0)]


def summary(n, q, log_det=0.0):
    return DataSummary(n, *torch.tensor([q, log_det], dtype=torch.float64))


def same_density(prior):
    """An inverse gamma as a user's density, which takes the quadrature path."""
    return DensityPrior(prior.log_prob)


def test_closed_form_is_the_multivariate_t():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(12, 12))
    c, y, prior = root @ root.T + np.eye(12), rng.normal(size=12), InverseGamma(1.7, 0.6)
    data = summary(12, float(y @ np.linalg.solve(c, y)), float(np.linalg.slogdet(c)[1]))
    expected = stats.multivariate_t.logpdf(y, np.zeros(12), 0.6 / 1.7 * c, df=3.4)
    assert float(log_evidence(prior, data)) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40)
@given(
    n=st.integers(1, 5000),
    ratio=st.floats(1e-3, 1e3),
    alpha=st.floats(0.3, 20),
    beta=st.floats(1e-2, 1e2),
)
def test_quadrature_equals_the_closed_form(n, ratio, alpha, beta):
    prior, data = InverseGamma(alpha, beta), summary(n, n * ratio)
    nodes = scale_nodes(prior, data)
    expected = float(log_evidence(prior, data))
    assert float(nodes.log_evidence) == pytest.approx(expected, abs=1e-9)
    if (
        alpha + n / 2 > 3
    ):  # else the integrand of the mean has a longer tail than that of the mass
        mean = (beta + n * ratio / 2) / (alpha + n / 2 - 1)
        assert float(nodes.expectation(nodes.u.exp())) == pytest.approx(mean, rel=1e-8)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
@pytest.mark.parametrize(("n", "q"), [(1, 0.3), (4, 9.0), (300, 400.0)])
def test_other_priors_equal_adaptive_quadrature(prior: ScalePrior, n, q):
    data = summary(n, q, 2.0)
    peak = math.log(q / n)

    def integrand(u):
        t = torch.tensor([u], dtype=torch.float64)
        return float((data.log_likelihood(t) + prior.log_prob_log(t) - top).exp())

    grid = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    top = float((data.log_likelihood(grid) + prior.log_prob_log(grid)).max())
    pieces = [-60, *np.linspace(peak - 6, peak + 6, 13), 120]
    parts = [integrate.quad(integrand, a, b, epsabs=1e-13)[0] for a, b in pairwise(pieces)]
    total = sum(parts)
    assert float(log_evidence(prior, data)) == pytest.approx(top + math.log(total), abs=1e-9)


def test_few_nodes_suffice_for_tables():
    assert scale_nodes(BurrXII(2.0, 2.0), summary(277, 290.0)).u.shape[-1] <= 65


def test_batches_equal_single_data_sets():
    q, log_det = (
        torch.tensor([1e-3, 5.0, 1e5]).double(),
        torch.tensor([0.0, 1.0, -3.0]).double(),
    )
    together = log_evidence(HalfCauchy(), DataSummary(7, q, log_det))
    alone = [
        log_evidence(HalfCauchy(), DataSummary(7, a, b))
        for a, b in zip(q, log_det, strict=True)
    ]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-9)


def test_evidence_is_differentiable():
    for prior in (InverseGamma(2.0, 1.0), *PRIORS, PointMass(1.3)):
        q, log_det = (
            torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (9.0, 2.0)
        )
        assert torch.autograd.gradcheck(
            lambda q, log_det, p=prior: log_evidence(p, DataSummary(6, q, log_det)),
            (q, log_det), atol=1e-6,
        )  # fmt: skip


def test_zero_targets_have_no_posterior_of_the_scale():
    with pytest.raises(ValueError, match="`y` is zero everywhere"):
        log_evidence(HalfCauchy(), summary(3, 0.0))
    assert math.isfinite(float(log_evidence(InverseGamma(2.0, 2.0), summary(3, 0.0))))


def test_a_density_with_a_jump_is_reported():
    uniform = DensityPrior(lambda s: torch.where(s < 1, 0.0, -torch.inf).double())
    with pytest.warns(InferenceWarning, match="has not converged"):
        scale_nodes(uniform, summary(2, 1.0))


@pytest.mark.parametrize("quadrature", [False, True])
def test_the_scales_law_is_the_inverse_gamma(quadrature):
    prior, data = InverseGamma(2.0, 1.5), summary(10, 12.0)
    law = scale_law(same_density(prior) if quadrature else prior, data)
    exact = stats.invgamma(7.0, scale=7.5)
    p = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    s = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    np.testing.assert_allclose(law.icdf(p), exact.ppf(p), rtol=2e-5)
    np.testing.assert_allclose(law.cdf(s), exact.cdf(s), atol=2e-5)
    np.testing.assert_allclose(law.log_prob(s), exact.logpdf(s), rtol=1e-9)
    assert float(law.mean) == pytest.approx(exact.mean(), rel=1e-9)
    assert float(law.variance) == pytest.approx(exact.var(), rel=1e-8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = law.sample((4000,))
    assert stats.kstest(draws.numpy(), exact.cdf).pvalue > 1e-3


def test_a_known_scale_is_a_point():
    law = scale_law(PointMass(2.0), summary(3, 1.0))
    assert float(law.mean) == float(law.icdf(torch.tensor(0.3))) == 2.0
    assert float(law.variance) == 0.0


def test_moments_that_do_not_exist_are_infinite():
    """p(σ² | y) has the tail s^{-a-n/2-1}, where a is the prior's index."""
    assert float(scale_law(HalfCauchy(), summary(1, 2.0)).mean) == math.inf
    two = scale_law(HalfCauchy(), summary(2, 2.0))
    assert math.isfinite(float(two.mean))
    assert float(two.variance) == math.inf
    assert math.isfinite(float(scale_law(LogNormal(0.0, 1.0), summary(1, 2.0)).variance))


@pytest.mark.parametrize("prior", [InverseGamma(1.5, 2.0), BurrXII(2.0, 0.7), HalfCauchy(3.0)])
def test_tails_fall_with_their_index(prior):
    u = torch.tensor([30.0, 31.0], dtype=torch.float64)
    slope = float(prior.log_prob_log(u).diff())
    assert slope == pytest.approx(-prior.tail_index, abs=1e-9)
