"""Hyper-parameters integrated out: against a grid, and Laplace against NUTS."""

import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel

import probnet
from inference.rng import Stream, generator
from probnet.kernels import NNGPKernel, mlp
from probnet.nngp import InverseGamma, ScaleMixtureGP
from probnet.nngp.hyperparameters import HyperParameters
from probnet.nngp.objective import Objective
from probnet.nngp.proposals import FittedT, SplitT


@pytest.fixture
def grid(table):
    """ln p(y) and the predictive mean by brute force over (lengthscale, noise)."""
    x, y, x_new, _ = table
    hyper = HyperParameters(RBFKernel(), 0.01)
    objective = Objective(hyper, x, y[:, None], InverseGamma(2.0, 2.0))
    raw = torch.linspace(-2.5, 4.0, 25, dtype=torch.float64)
    noise = torch.linspace(-12.0, 2.0, 29, dtype=torch.float64)
    values, means = [], []
    for a in raw:
        for b in noise:
            hyper.assign(torch.stack([a, b]))
            values.append(float(objective.integrated().detach()))
            ratio = float(hyper.noise_ratio.detach())
            fitted = ScaleMixtureGP(hyper.kernel, noise_ratio=ratio).fit(x, y, optimize=False)
            means.append(fitted.predict(x_new).mean)
    logs = torch.tensor(values, dtype=torch.float64)
    cell = float((raw[1] - raw[0]) * (noise[1] - noise[0]))
    weights = logs.softmax(0)
    return float(logs.logsumexp(0)) + np.log(cell), (weights[:, None] * torch.stack(means)).sum(
        0
    )


def test_laplace_equals_a_grid(table, grid):
    x, y, x_new, _ = table
    model = ScaleMixtureGP(RBFKernel())
    posterior = model.fit(x, y, method="laplace", num_draws=600, progress=False)
    evidence, mean = grid
    assert posterior.diagnostics["pareto_k"] < 0.7
    error = 5 / posterior.diagnostics["importance_ess"] ** 0.5
    assert posterior.log_evidence == pytest.approx(evidence, abs=error)
    law = posterior.predict(x_new)
    assert ((law.mean - mean).abs() < error * law.stddev).all()


def test_laplace_and_nuts_agree_and_survive_a_file(table, tmp_path):
    x, y, x_new, _ = table
    model = ScaleMixtureGP(NNGPKernel(mlp(1, "erf")))
    laplace = model.fit(x, y, method="laplace", seed=1, num_draws=300, progress=False)
    nuts = model.fit(
        x, y, method="nuts", seed=1, progress=False, num_chains=2, num_warmup=50, num_samples=50
    )
    first, second = (p.predict(x_new) for p in (laplace, nuts))
    assert ((first.mean - second.mean).abs() < 0.5 * second.stddev).all()
    torch.testing.assert_close(first.stddev, second.stddev, rtol=0.35, atol=0)
    with pytest.raises(ValueError, match="not defined for method='nuts'"):
        _ = nuts.log_evidence
    for before in (laplace, nuts):
        after = probnet.load(before.save(tmp_path / before.method))
        assert torch.equal(before.predict(x_new).mean, after.predict(x_new).mean)
        tree = after.to_datatree()
        names = [str(v) for v in tree["posterior"]["hyperparameter"].values]
        assert names == ["w_var", "b_var", "last_w_var", "noise_ratio"]
        assert bool((tree["posterior"]["scale"] > 0).all())
    assert "sample_stats" in nuts.to_datatree().children


def test_seeds_decide_everything(table):
    x, y, *_ = table
    model = ScaleMixtureGP(RBFKernel())

    def draws(seed, *, progress=False):
        return model.fit(
            x, y, method="laplace", seed=seed, num_draws=40, progress=progress
        ).vectors

    assert torch.equal(draws(1), draws(1, progress=True))
    assert not torch.equal(draws(1), draws(2))


def test_joint_law_averages_over_draws(table):
    x, y, x_new, y_new = table
    model = ScaleMixtureGP(RBFKernel())
    posterior = model.fit(x, y, method="laplace", num_draws=60, progress=False)
    one = posterior.predict(x_new[:1], joint=True).log_prob(y_new[:1])
    torch.testing.assert_close(one, posterior.predict(x_new[:1]).log_prob(y_new[:1])[0])
    assert posterior.sample(5, x_new, joint=True).shape == (5, 6)


@pytest.mark.parametrize("kind", ["split", "fitted"])
def test_proposals_have_the_density_of_their_draws(kind):
    """E[1/p] over draws in a box is the box's volume share: importance weights of one."""
    root = np.array([[1.0, 0.0], [0.6, 0.8]])
    proposal = SplitT(np.array([1.0, -1.0]), root, np.array([[1.0, 3.0], [2.0, 1.0]]))
    noise = generator(0, Stream.NOISE)
    if kind == "fitted":
        vectors = proposal.draw(500, noise)
        proposal = FittedT.to(vectors, np.zeros(500), proposal)
    draws = proposal.draw(100_000, noise)
    inside = (np.abs(draws - [1.0, -1.0]) < 2).all(1)
    ratios = np.where(inside, np.exp(-proposal.log_density(draws)), 0.0)
    error = 5 * ratios.std() / 100_000**0.5
    assert ratios.mean() == pytest.approx(16.0, abs=error)
    assert error < 0.8
