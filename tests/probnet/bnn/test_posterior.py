"""The posterior object: units, files, exports, diagnostics."""

import copy
import json
import warnings

import arviz
import numpy as np
import pytest
import torch
from torch.distributions import Normal

import probnet
from inference import Draws, InferenceWarning
from probnet.bnn import BNN, BayesianMLP
from probnet.bnn.posterior import make_posterior
from probnet.likelihoods import Categorical

# chains as short as these need not agree
pytestmark = pytest.mark.filterwarnings("ignore:the chains:inference.InferenceWarning")


def test_predictions_are_the_mixture_in_the_users_units(posterior, table):
    x, y = table
    z = (x - x.mean(0)) / x.std(0, correction=0)
    draws = {n: torch.tensor(v).double() for n, v in posterior.draws.draws.items()}
    h = torch.tanh(z @ draws["w1"] / 2**0.5 + draws["b1"].unsqueeze(-2))
    f = (h @ draws["w2"] / 8**0.5 + draws["b2"].unsqueeze(-2))[..., 0]
    scale = y.std(correction=0)
    law = Normal(y.mean() + scale * f, scale * draws["noise_sd"][..., None])
    expected = law.log_prob(y).flatten(0, 1).logsumexp(0) - np.log(40)
    predicted = posterior.predict(x)
    torch.testing.assert_close(predicted.log_prob(y), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(predicted.mean, law.mean.mean((0, 1)), rtol=1e-5, atol=0)
    joint = posterior.predict(x, joint=True)
    together = law.log_prob(y).sum(-1).flatten().logsumexp(0) - np.log(40)
    torch.testing.assert_close(joint.log_prob(y), together, rtol=1e-3, atol=1e-2)


def test_conveniences_and_quantiles(posterior, table):
    x = table[0][:4]
    law = posterior.predict(x)
    torch.testing.assert_close(posterior.mean(x), law.mean)
    assert posterior.sample(7, x, seed=0).shape == (7, 4)
    lower, upper = (law.icdf(torch.tensor(q)) for q in (0.05, 0.95))
    assert (lower < law.mean).all()
    assert (law.mean < upper).all()
    latent = posterior.predict(x, observation=False)
    assert (latent.variance < law.variance).all()
    assert (latent.icdf(torch.tensor(0.5)).isfinite()).all()


def test_prediction_in_blocks_changes_nothing(posterior, table, monkeypatch):
    whole = posterior.functions(table[0])
    monkeypatch.setattr("probnet.bnn.posterior._BLOCK_VALUES", 8 * 40 * 3)
    torch.testing.assert_close(posterior.functions(table[0]), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gaussian", "hierarchical", "flow", "rff"])
def test_a_file_holds_all_of_a_posterior(family, table, tmp_path):
    options = {"num_chains": 2, "num_samples": 5, "thin": 2, "num_warmup": 20, "seed": 0}
    model = BNN(BayesianMLP(2, [4], family=family), noise_var=0.1)
    before = model.fit(*table, progress=False, **options)
    after = probnet.load(before.save(tmp_path / "posterior"))
    x = table[0][:6]
    assert torch.equal(after.predict(x).mean, before.predict(x).mean)
    assert torch.equal(after.sample(3, x, seed=0), before.sample(3, x, seed=0))
    assert after.prior.stds == before.prior.stds
    assert after.diagnostics == before.diagnostics
    assert set(after.to_datatree().children) == set(before.to_datatree().children)


def test_arviz_gets_every_group(posterior, table):
    data = posterior.to_arviz()
    groups = {
        "posterior", "sample_stats", "posterior_predictive", "log_likelihood", "prior",
        "prior_predictive", "observed_data", "constant_data",
    }  # fmt: skip
    assert groups <= set(data.groups())
    assert data.posterior["w1"].dims == ("chain", "draw", "input", "hidden1")
    assert data.posterior["f"].shape == (2, 20, 40)
    assert data.prior_predictive["y"].shape == (1, 200, 40)
    np.testing.assert_array_equal(data.observed_data["y"], table[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k-hat of forty draws
        assert np.isfinite(arviz.loo(data).elpd_loo)
    assert "noise_sd" in arviz.summary(data, var_names=["noise_sd"]).index
    law = posterior.predict(table[0])
    total = np.log(np.exp(data.log_likelihood["y"].values).mean((0, 1))).sum()
    assert total == pytest.approx(float(law.log_prob(table[1]).sum()), rel=1e-6)


def test_classes_are_exported_with_their_logits(tmp_path):
    x = torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    network = BayesianMLP(1, [3], output_dim=2)
    posterior = BNN(network, Categorical(2)).fit(
        x, y, num_chains=1, num_samples=6, thin=20, num_warmup=300, progress=False
    )
    data = posterior.to_arviz()
    assert data.posterior["f"].dims == ("chain", "draw", "row", "output")
    assert set(np.unique(data.posterior_predictive["y"])) <= {0, 1}
    again = probnet.load(posterior.save(tmp_path / "classes"))
    assert torch.equal(again.predict(x).probs, posterior.predict(x).probs)


def _tampered(posterior, change):
    arrays = {n: np.array(v) for n, v in posterior.draws.draws.items()}
    change(arrays)
    attrs = dict(posterior.draws.attrs)
    data = {n: getattr(posterior, n) for n in ("x", "y", "x_standardizer", "y_standardizer")}
    return make_posterior(
        Draws(arrays, {}, attrs), posterior.prior, posterior.likelihood, **data
    )


def test_a_shifted_or_stuck_chain_is_flagged(posterior):
    def shift(arrays):
        arrays["b2"][0] += 3.0

    def stick(arrays):
        for values in arrays.values():
            values[0] = values[0, :1]

    for change in (shift, stick):
        with pytest.warns(InferenceWarning, match="chains' predictions disagree"):
            found = _tampered(posterior, change)
        assert found.diagnostics["rhat_mean"] > 1.05
        assert found.diagnostics["rhat_share_below_1.1"] < 0.9


def test_diagnostics_can_be_written(posterior):
    assert set(json.loads(json.dumps(dict(posterior.diagnostics)))) == {
        "ess_mean", "ess_min", "rhat_max", "rhat_mean", "rhat_share_below_1.1",
    }  # fmt: skip


def test_prior_functions_are_in_the_users_units(posterior, table):
    f = posterior.sample_prior(500, table[0], seed=0)
    assert f.shape == (500, 40)
    assert float(f.mean()) == pytest.approx(float(table[1].mean()), abs=float(table[1].std()))


def test_bad_inputs_are_refused(posterior):
    with pytest.raises(ValueError, match="`x` must have 2 columns"):
        posterior.predict(torch.zeros(3, 1))


def test_a_copy_is_equal_and_read_only(posterior, table):
    again = copy.deepcopy(posterior)
    assert torch.equal(again.predict(table[0]).mean, posterior.predict(table[0]).mean)
    with pytest.raises(ValueError, match="read-only"):
        again.draws.draws["w1"][0] = 0.0
    with pytest.raises(TypeError, match="does not support item assignment"):
        again.prior.hyperparameters["w1"] = 2.0
