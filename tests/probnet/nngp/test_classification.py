"""Classification on the 8x8 digits, and its parts."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import probnet
from probnet import metrics
from probnet.kernels import NNGPKernel, mlp
from probnet.nngp import InverseGamma, LogNormal, PointMass, ScaleMixtureClassifier
from probnet.nngp.variational import _Family


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order[:300]] / 16, y[order[:300]], x[order[300:600]] / 16, y[order[300:600]]


def classifier(**options):
    kernel = NNGPKernel(mlp(3), w_var=2.0, b_var=0.1, last_w_var=2.0)
    return ScaleMixtureClassifier(kernel, **options)


def test_label_regression(digits, tmp_path):
    x, y, x_new, y_new = digits
    before = classifier().fit(x, y)
    law = before.predict(x_new)
    assert law.batch_shape == (300,)
    assert metrics.accuracy(y_new, law.probs) > 0.95
    nll = metrics.nll_categorical(y_new, law.probs)
    assert nll < 0.2
    assert before.diagnostics["leave_one_out_nll"] == pytest.approx(nll, abs=0.1)
    after = probnet.load(before.save(tmp_path / "f"))
    assert torch.equal(after.predict(x_new).probs, law.probs)
    assert after.to_arviz().posterior["scale"].shape == (1, 1000)
    assert after.predict(x_new, observation=False).batch_shape == (10, 300)


def test_temperature_is_the_leave_one_out_optimum(digits):
    x, y, *_ = digits
    posterior = classifier().fit(x, y)
    mean = posterior.regression.leave_one_out().mean

    def loss(factor):
        return float(torch.nn.functional.cross_entropy(factor * mean, torch.from_numpy(y)))

    best = loss(posterior.temperature)
    assert best < min(loss(1.1 * posterior.temperature), loss(posterior.temperature / 1.1))


@pytest.mark.parametrize("prior", [InverseGamma(2.0, 2.0), PointMass(1.0)], ids=repr)
def test_variational_inference(digits, prior, tmp_path):
    x, y, x_new, y_new = digits
    model = classifier(scale_prior=prior, num_inducing=60)
    before = model.fit(x, y, method="svi", num_steps=120, progress=False)
    assert before.diagnostics["elbo_per_case"] > -np.log(10)
    probabilities = before.predict(x_new).probs
    assert metrics.accuracy(y_new, probabilities) > 0.8
    after = probnet.load(before.save(tmp_path / "f"))
    assert torch.equal(after.predict(x_new).probs, probabilities)
    assert after.to_arviz().posterior["scale"].shape == (1, 1000)
    with pytest.raises(ValueError, match="class probabilities of each point only"):
        before.predict(x_new, joint=True)


def test_divergence_of_the_scale_is_exact():
    """Against the closed form between normals: q and a log-normal prior of ln σ²."""
    parameters = {
        "mean": torch.zeros(2, 3).double(), "factor": torch.zeros(2, 3, 3).double(),
        "scale": torch.tensor([0.7, -1.0]).double(), "log_amplitude": torch.zeros(()),
    }  # fmt: skip
    q = torch.distributions.Normal(0.7, float(np.exp(-1.0)))
    p = torch.distributions.Normal(0.2, 1.5)
    expected = torch.distributions.kl_divergence(q, p)
    found = _Family(parameters, LogNormal(0.2, 1.5)).divergence()
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


def test_divergence_of_the_latents_is_that_of_multivariate_normals():
    noise = torch.Generator().manual_seed(0)
    parameters = {
        "mean": torch.randn(2, 3, generator=noise, dtype=torch.float64),
        "factor": torch.randn(2, 3, 3, generator=noise, dtype=torch.float64),
        "scale": torch.zeros(2), "log_amplitude": torch.zeros(()),
    }  # fmt: skip
    family = _Family(parameters, PointMass(1.0))
    q = torch.distributions.MultivariateNormal(parameters["mean"], scale_tril=family._root())
    p = torch.distributions.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    expected = torch.distributions.kl_divergence(q, p).sum()
    torch.testing.assert_close(family.divergence(), expected)


def test_draws_share_one_scale():
    parameters = {
        "mean": torch.ones(2, 1).double(), "factor": torch.full((2, 1, 1), -30.0).double(),
        "scale": torch.tensor([0.0, 0.0]).double(), "log_amplitude": torch.zeros(()),
    }  # fmt: skip
    family = _Family(parameters, InverseGamma(2.0, 2.0))
    noise = torch.Generator().manual_seed(0)
    f = family.latents(torch.ones(1, 4).double(), torch.zeros(4).double(), 5, noise)
    torch.testing.assert_close(f, f[:, :1, :1].expand_as(f))
    assert len(set(f[:, 0, 0].tolist())) == 5


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(4), "at least two classes"),
        (np.array([0, 1, 3, 3]), r"without gaps; classes \[2\]"),
        (np.array([0.5, 1, 0, 1]), "whole class numbers"),
        (np.array([-1, 1, 0, 1]), "whole class numbers"),
        (np.ones((4, 2)), r"`labels` must have shape \(n,\)"),
    ],
)
def test_bad_labels_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        classifier().fit(np.eye(4), labels)
