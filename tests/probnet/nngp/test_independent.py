"""Noise of its own variance: against adaptive quadrature and limits."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import probnet
from probnet.nngp import InverseGamma, LogNormal, PointMass, ScaleMixtureGP
from probnet.nngp.solutions import gram

SCALE, NOISE = InverseGamma(2.0, 2.0), LogNormal(-2.0, 1.0)


def fit(kernel, x, y, scale=SCALE, noise=NOISE, **options):
    model = ScaleMixtureGP(
        kernel, scale_prior=scale, noise="independent", noise_prior=noise, **options
    )
    return model.fit(x, y, optimize=False)


def test_evidence_and_prediction_equal_two_dimensional_quadrature(table, kernel):
    x, y, x_new, y_new = (v[:6] for v in table)
    posterior = fit(kernel, x, y)
    both = gram(kernel, torch.cat([x, x_new[:1]])).detach().numpy()
    targets = torch.cat([y, y_new[:1]]).numpy()

    def integral(size):
        def inner(w, u):
            c = math.exp(u) * both[:size, :size] + math.exp(w) * np.eye(size)
            logs = stats.multivariate_normal.logpdf(targets[:size], cov=c)
            logs += stats.invgamma.logpdf(math.exp(u), 2.0, scale=2.0) + u
            return math.exp(logs + stats.norm.logpdf(w, -2.0, 1.0))

        grid_u, grid_w = np.linspace(-6, 9, 61), np.linspace(-9, 5, 61)
        values = np.array([[inner(w, u) for w in grid_w] for u in grid_u])
        return integrate.trapezoid(integrate.trapezoid(values, grid_w), grid_u)

    evidence = math.log(integral(6))
    assert posterior.log_evidence == pytest.approx(evidence, abs=1e-5)
    predictive = math.log(integral(7)) - evidence
    law = posterior.predict(x_new[:1])
    assert float(law.log_prob(y_new[:1])) == pytest.approx(predictive, abs=1e-5)


def test_known_variances_are_a_gaussian_process(table, kernel):
    x, y, x_new, _ = table
    grid = fit(kernel, x, y, PointMass(2.0), PointMass(0.1))
    joint = ScaleMixtureGP(kernel, scale_prior=PointMass(2.0), noise_ratio=0.05)
    exact = joint.fit(x, y, optimize=False)
    assert grid.log_evidence == pytest.approx(exact.log_evidence, abs=1e-8)
    laws = [p.predict(x_new) for p in (grid, exact)]
    torch.testing.assert_close(laws[0].mean, laws[1].mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(laws[0].stddev, laws[1].stddev, rtol=1e-8, atol=0)
    assert float(grid.noise_posterior.mean) == pytest.approx(0.1)


def test_verbs(table, kernel, tmp_path):
    x, y, x_new, _ = table
    both = torch.stack([y, -y], 1)
    before = fit(kernel, x, both, standardize=True)
    assert before.predict(x_new).batch_shape == (2, 6)
    after = probnet.load(before.save(tmp_path / "f"))
    assert torch.equal(before.predict(x_new).mean, after.predict(x_new).mean)
    draws = after.to_arviz().posterior
    assert set(draws.data_vars) == {"scale", "noise_var"}
    assert float(before.scale_posterior.variance) > 0
    with pytest.raises(ValueError, match="has no joint law"):
        before.predict(x_new, joint=True)
    with pytest.raises(ValueError, match="needs joint normal noise"):
        ScaleMixtureGP(kernel, noise="independent").fit(x, y, method="nuts")
    with pytest.raises(ValueError, match="`noise_prior` belongs to"):
        ScaleMixtureGP(kernel, noise_prior=PointMass(1.0))
