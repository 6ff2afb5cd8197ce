"""Student-t noise: limits, the bound against importance sampling, outliers."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import probnet
from probnet.nngp import HalfCauchy, InverseGamma, ScaleMixtureGP
from probnet.nngp.robust import noise_kinds
from probnet.nngp.solutions import gram


@pytest.mark.parametrize("prior", [InverseGamma(2.0, 2.0), HalfCauchy()], ids=repr)
def test_many_degrees_of_freedom_are_normal_noise(table, kernel, prior):
    x, y, x_new, _ = table
    normal, robust = (
        ScaleMixtureGP(kernel, scale_prior=prior, noise_ratio=0.05, noise_df=df).fit(
            x, y, optimize=False
        )
        for df in (None, 1e7)
    )
    assert robust.log_evidence == pytest.approx(normal.log_evidence, abs=1e-4)
    for observation in (False, True):
        laws = [p.predict(x_new, observation=observation) for p in (normal, robust)]
        torch.testing.assert_close(laws[0].mean, laws[1].mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(laws[0].stddev, laws[1].stddev, rtol=1e-5, atol=0)


def test_bound_is_below_the_evidence_and_close(table, kernel):
    """ln p(y) by Monte Carlo over the precisions of six observations."""
    x, y = table[0][:6], table[1][:6].clone()
    y[3] += 3.0
    model = ScaleMixtureGP(
        kernel, scale_prior=InverseGamma(2.0, 2.0), noise_ratio=0.05, noise_df=3.0
    )
    bound = model.fit(x, y, optimize=False).log_evidence
    k = gram(kernel, x).detach()
    omega = torch.from_numpy(stats.gamma(1.5, scale=1 / 1.5).rvs((40_000, 6), random_state=0))
    root = torch.linalg.cholesky(k + torch.diag_embed(0.05 / omega))
    q = torch.linalg.solve_triangular(root, y[:, None], upper=False).square().sum((-2, -1))
    logs = -root.diagonal(dim1=-2, dim2=-1).log().sum(-1) - 5.0 * torch.log1p(q / 4)
    constant = math.lgamma(5.0) - math.lgamma(2.0) - 3 * math.log(4 * math.pi)
    weights = (logs + constant).exp().numpy()
    evidence, error = math.log(weights.mean()), weights.std() / weights.mean() / 200
    assert error < 0.1
    assert evidence - 2.5 < bound < evidence + 5 * error


def test_outliers_move_the_fit_little(table, kernel):
    x, y, x_new, _ = table
    spoiled = y.clone()
    spoiled[[4, 11, 17]] += torch.tensor([20.0, -15.0, 25.0])

    def mean(targets, df):
        model = ScaleMixtureGP(kernel, noise_ratio=0.05, noise_df=df)
        return model.fit(x, targets, optimize=False).predict(x_new).mean

    clean = mean(y, None)
    shifts = [float((mean(spoiled, df) - clean).abs().mean()) for df in (None, 3.0)]
    assert shifts[1] < 0.4 * shifts[0]


def test_noise_of_a_new_observation_is_students():
    precisions, weights = noise_kinds(5.0)
    grid = np.array([0.0, 1.0, 3.0])
    density = (
        stats.norm.pdf(grid[:, None], scale=np.sqrt(precisions.numpy())) * weights.numpy()
    ).sum(1)
    np.testing.assert_allclose(density, stats.t.pdf(grid, 5.0), rtol=1e-3)
    assert float((precisions * weights).sum()) == pytest.approx(5 / 3, rel=1e-6)


def test_fit_and_file(table, kernel, tmp_path):
    x, y, x_new, _ = table
    before = ScaleMixtureGP(kernel, noise_df=4.0).fit(x, y, progress=False)
    after = probnet.load(before.save(tmp_path / "f"))
    assert torch.equal(before.predict(x_new).mean, after.predict(x_new).mean)
    assert before.precisions.shape == (25,)
    with pytest.raises(ValueError, match="no closed joint law"):
        before.predict(x_new, joint=True)
    with pytest.raises(ValueError, match="takes one output"):
        ScaleMixtureGP(kernel, noise_df=4.0).fit(x, torch.stack([y, y], 1))
