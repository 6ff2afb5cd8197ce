"""The posterior protocol and its file, on two small families with a known answer."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zipfile import ZipFile

import arviz
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import probnet
from inference import Draws
from inference.export import build_datatree
from probnet import DrawsMixture, Posterior, PosteriorState, Standardizer, _archive
from probnet.likelihoods import Gaussian, Likelihood, likelihood_from_dict
from probnet.networks import MLP

NOISE_SD = 0.3


@dataclass(frozen=True, eq=False, repr=False)
class LinearPosterior(Posterior, family="test.linear"):
    """w ~ N(0, I), y = x w + noise, conjugate; on standardised columns."""

    weight_mean: Tensor
    weight_covariance: Tensor
    noise_sd: float
    x_standardizer: Standardizer
    y_standardizer: Standardizer
    method: str
    diagnostics: Mapping[str, Any]

    @classmethod
    def fit(cls, x, y, noise_sd):
        x_standardizer, y_standardizer = Standardizer.fit(x), Standardizer.fit(y)
        x, y = x_standardizer.transform(x), y_standardizer.transform(y)
        s = noise_sd / float(y_standardizer.scale)
        covariance = torch.linalg.inv(torch.eye(x.shape[1]).double() + x.T @ x / s**2)
        mean = covariance @ x.T @ y / s**2
        condition = float(torch.linalg.cond(covariance))
        return cls(
            mean, covariance, noise_sd, x_standardizer, y_standardizer,
            method="exact", diagnostics={"condition_number": condition},
        )  # fmt: skip

    def predict(self, x, *, observation=True, joint=False):
        z = self.x_standardizer.transform(x)
        mean = self.y_standardizer.inverse(z @ self.weight_mean)
        covariance = self.y_standardizer.scale**2 * z @ self.weight_covariance @ z.T
        covariance += self.noise_sd**2 * observation * torch.eye(len(z))
        if joint:
            return MultivariateNormal(mean, covariance)
        return Normal(mean, covariance.diagonal().sqrt())

    def to_datatree(self):
        weights = {"w": self.weight_mean.numpy()[None, None]}
        return build_datatree(
            {"posterior": weights}, coords={}, dims={}, attrs={}, sample_dims={}
        )

    def state(self):
        config = {
            "noise_sd": self.noise_sd,
            "x_standardizer": self.x_standardizer.to_dict(),
            "y_standardizer": self.y_standardizer.to_dict(),
        }
        tensors = {"mean": self.weight_mean, "covariance": self.weight_covariance}
        return PosteriorState(self.method, self.diagnostics, config, tensors)

    @classmethod
    def from_state(cls, state):
        standardizers = (
            Standardizer.from_dict(state.config[f"{v}_standardizer"]) for v in ("x", "y")
        )
        return cls(
            state.tensors["mean"], state.tensors["covariance"], state.config["noise_sd"],
            *standardizers, method=state.method, diagnostics=state.diagnostics,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class NetworkPosterior(Posterior, family="test.network"):
    """Draws of the weights of a network without hidden layer: the same model by sampling."""

    draws: Draws
    likelihood: Likelihood
    method: str = "draws"
    diagnostics: Mapping[str, Any] = None

    def predict(self, x, *, observation=True, joint=False):
        if joint:
            raise ValueError("`joint=True`: this posterior has no joint law.")
        weights = {n: torch.from_numpy(v.copy()) for n, v in self.draws.draws.items()}
        f = MLP(x.shape[-1], [])(x, weights).squeeze(-1)
        if observation:
            return self.likelihood.predictive(f, num_draw_axes=2)
        return DrawsMixture(Normal(f, 1e-12), num_draw_axes=2)

    def to_datatree(self):
        return self.draws.to_datatree()

    def state(self):
        config = {"likelihood": self.likelihood.to_dict()}
        return PosteriorState(self.method, self.diagnostics or {}, config, draws=self.draws)

    @classmethod
    def from_state(cls, state):
        return cls(state.draws, likelihood_from_dict(state.config["likelihood"]))


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    x = 5 + 2 * torch.randn(40, 3, generator=generator, dtype=torch.float64)
    noise = NOISE_SD * torch.randn(40, generator=generator, dtype=torch.float64)
    return x, x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + noise


@pytest.fixture(scope="module")
def linear(data):
    return LinearPosterior.fit(*data, NOISE_SD)


@pytest.fixture(scope="module")
def network(linear):
    """Exact draws of the linear posterior's weights, in standardised units."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(1, 4000, 3, generator=generator, dtype=torch.float64)
    w = linear.weight_mean + z @ torch.linalg.cholesky(linear.weight_covariance).T
    weights = {"w1": (w[..., None] * 3**0.5).numpy(), "b1": np.zeros((1, 4000, 1))}
    attrs = {"method": "exact", "draws": "independent"}
    noise_sd = NOISE_SD / float(linear.y_standardizer.scale)
    return NetworkPosterior(Draws(weights, {}, attrs), Gaussian(noise_sd))


def test_draws_predict_what_the_closed_form_predicts(data, linear, network):
    """One check of standardiser, network, likelihood and mixture together."""
    x = data[0][:5]
    z = linear.x_standardizer.transform(x)
    for observation in (True, False):
        exact = linear.predict(x, observation=observation)
        sampled = network.predict(z, observation=observation)
        sd = linear.sd(x, observation=False)
        mean = linear.y_standardizer.inverse(sampled.mean)
        assert ((mean - exact.mean).abs() < 5 * sd / 4000**0.5).all()
        spread = linear.y_standardizer.inverse_sd(sampled.stddev)
        torch.testing.assert_close(spread, exact.stddev, rtol=5 / 8000**0.5, atol=0)


def test_conveniences_agree_with_predict(data, linear):
    x = data[0][:4]
    for observation in (True, False):
        law = linear.predict(x, observation=observation)
        torch.testing.assert_close(linear.mean(x, observation=observation), law.mean)
        torch.testing.assert_close(linear.sd(x, observation=observation), law.stddev)
        samples = linear.sample(20_000, x, seed=0, observation=observation)
        assert samples.shape == (20_000, 4)
        assert ((samples.mean(0) - law.mean).abs() < 5 * law.stddev / 20_000**0.5).all()
        torch.testing.assert_close(samples.std(0), law.stddev, rtol=5 / 40_000**0.5, atol=0)


def test_samples_follow_their_seed(data, linear):
    x = data[0][:4]
    before = torch.get_rng_state()
    first, again, other = (linear.sample(2, x, seed=s) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(ValueError, match="`n` must be at least 1"):
        linear.sample(0, x)


def test_joint_samples_depend_between_points_and_others_do_not(data, linear):
    x = data[0][:1].repeat(2, 1)  # one point twice: the latent values are the same
    for joint, correlation in [(True, 1.0), (False, 0.0)]:
        samples = linear.sample(2000, x, seed=0, observation=joint, joint=joint)
        shared = linear.sd(x[:1], observation=False) ** 2
        expected = correlation * float(shared / linear.sd(x[:1], observation=joint) ** 2)
        measured = float(torch.corrcoef(samples.T)[0, 1])
        assert measured == pytest.approx(expected, abs=5 / 2000**0.5)


@pytest.mark.parametrize("family", ["linear", "network"])
def test_a_file_holds_all_of_a_posterior(family, request, data, tmp_path):
    before = request.getfixturevalue(family)
    path = before.save(tmp_path / "saved.posterior")
    after = probnet.load(path)
    x = data[0][:6]
    assert type(after) is type(before)
    assert after.method == before.method
    assert after.state().diagnostics == before.state().diagnostics
    assert torch.equal(after.predict(x).mean, before.predict(x).mean)
    assert torch.equal(after.sample(3, x, seed=0), before.sample(3, x, seed=0))
    assert os.listdir(tmp_path) == ["saved.posterior"]


def test_draws_in_the_file_are_netcdf_that_arviz_opens(network, tmp_path):
    with ZipFile(network.save(tmp_path / "saved")) as archive:
        archive.extractall(tmp_path / "parts")
    parts = tmp_path / "parts"
    assert sorted(os.listdir(parts)) == ["draws.nc", "posterior.json", "tensors.safetensors"]
    opened = arviz.from_netcdf(parts / "draws.nc")
    np.testing.assert_array_equal(opened.posterior["w1"], network.draws.draws["w1"])
    assert network.to_arviz().posterior["w1"].shape == (1, 4000, 3, 1)


def test_an_unknown_family_is_refused_and_the_known_are_listed(tmp_path):
    path = _archive.write_posterior(tmp_path / "f", "os.system", PosteriorState("", {}, {}))
    with pytest.raises(ValueError, match=r"family 'os\.system'.*'test\.linear'"):
        probnet.load(path)


def test_a_family_name_belongs_to_one_class():
    with pytest.raises(ValueError, match=r"'test\.linear' is taken by .*LinearPosterior"):

        class Impostor(Posterior, family="test.linear"):
            pass


def test_an_incomplete_family_cannot_be_made():
    class Incomplete(Posterior):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()


def test_a_posterior_is_shown_in_a_line(linear):
    shown = "LinearPosterior(method='exact', diagnostics: condition_number)"
    assert repr(linear) == shown
