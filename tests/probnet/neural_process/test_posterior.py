import math

import numpy as np
import pytest
import torch

import probnet
from inference import InferenceWarning
from probnet.datasets import GPTasks
from probnet.neural_process import MPNP

SAMPLED = ["NP", "ANP", "BNP", "BANP", "MPNP", "MPNP-isab", "MPNP-data", "MPANP"]
ALL = ["CNP", "CANP", *SAMPLED]


def data(dtype=torch.float64):
    xc = torch.tensor([[-1.0], [0.2], [0.9], [1.5]], dtype=dtype)
    return xc, torch.sin(3 * xc), torch.linspace(-2, 2, 7, dtype=dtype)[:, None]


@pytest.mark.parametrize("name", ALL)
def test_shapes_and_types(name, small, pretend):
    trained = pretend(small(name))
    xc, yc, xt = data()
    law = trained.condition(xc, yc).predict(xt)
    assert law.mean.shape == law.stddev.shape == (7, 1)
    assert law.batch_shape == (7,)
    assert law.mean.dtype == torch.float64
    assert law.log_prob(torch.sin(3 * xt)).shape == (7,)
    batched = trained.condition(xc.expand(2, 4, 1), yc.expand(2, 4, 1)).predict(xt)
    assert batched.mean.shape == (2, 7, 1)
    torch.testing.assert_close(batched.mean[1], law.mean, rtol=1e-5, atol=1e-6)
    single = trained.condition(xc.float(), yc.float()).predict(xt.numpy())
    torch.testing.assert_close(single.mean, law.mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SAMPLED)
def test_functions_are_coherent(name, small, pretend):
    """The k-th function is one function, whatever it is asked for and with which others."""
    xc, yc, xt = data()
    posterior = pretend(small(name)).condition(xc, yc)
    functions = posterior.sample_functions(xt, 40, seed=4)
    assert functions.shape == (40, 7, 1)
    some = posterior.sample_functions(xt[2:5], 10, seed=4)
    torch.testing.assert_close(some, functions[:10, 2:5], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(functions, posterior.sample_functions(xt, 40, seed=5))
    law = posterior.predict(xt, num_functions=40, seed=4)
    torch.testing.assert_close(law.mean, functions.mean(0))
    latent = posterior.predict(xt, num_functions=40, seed=4, observation=False)
    torch.testing.assert_close(
        latent.variance, functions.var(0, correction=0), atol=1e-9, rtol=1e-6
    )
    assert (law.variance > latent.variance).all()


@pytest.mark.parametrize("name", ["NP", "MPNP"])
def test_mixture_formulas(name, small, pretend):
    xc, yc, xt = data()
    posterior = pretend(small(name)).condition(xc, yc)
    laws = posterior.function_laws(xt, num_functions=9, seed=2)
    law = posterior.predict(xt, num_functions=9, seed=2)
    y = torch.sin(3 * xt)
    each = laws.log_prob(y)[..., 0]
    torch.testing.assert_close(law.log_prob(y), each.logsumexp(0) - math.log(9))
    joint = each.sum(-1).logsumexp(0) - math.log(9)
    torch.testing.assert_close(law.log_prob(y, joint=True), joint)
    of_all = posterior.predict(xt, num_functions=9, seed=2, joint=True)
    torch.testing.assert_close(of_all.log_prob(y), joint)
    total = laws.variance.mean(0) + laws.mean.var(0, correction=0)
    torch.testing.assert_close(law.variance, total)
    p = torch.tensor(0.2, dtype=torch.float64)
    torch.testing.assert_close(law.cdf(law.icdf(0.2)), p.expand(7, 1), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["CNP", "MPNP"])
def test_conveniences_agree_with_the_law(name, small, pretend):
    xc, yc, xt = data()
    posterior = pretend(small(name)).condition(xc, yc)
    law = posterior.predict(xt)
    assert torch.equal(posterior.mean(xt), law.mean)
    assert torch.equal(posterior.sd(xt), law.stddev)
    draws = posterior.sample(20_000, xt, seed=1)
    assert draws.shape == (20_000, 7, 1)
    error = law.stddev / 20_000**0.5
    assert ((draws.mean(0) - law.mean).abs() < 5 * error).all()


def test_models_without_functions_say_what_they_lack(small, pretend):
    xc, yc, xt = data()
    posterior = pretend(small("CNP")).condition(xc, yc)
    for call in (
        lambda: posterior.predict(xt, joint=True),
        lambda: posterior.predict(xt).log_prob(torch.sin(xt), joint=True),
        lambda: posterior.sample_functions(xt, 5),
    ):
        with pytest.raises(ValueError, match="autoregressively"):
            call()
    with pytest.raises(ValueError, match="does not tell noise"):
        posterior.predict(xt, observation=False)
    with pytest.raises(ValueError, match="by functions only"):
        pretend(small("NP")).condition(xc, yc).base(xt)


@pytest.mark.parametrize("name", ["CNP", "CANP", "MPNP", "MPANP"])
def test_conditioning_again_is_conditioning_on_all(name, small, pretend):
    trained = pretend(small(name))
    xc, yc, xt = data()
    mask = torch.tensor([True, True, False])
    again = trained.condition(xc[:3], yc[:3], mask=mask).condition(xc[3:], yc[3:])
    rows = torch.tensor([0, 1, 3])
    at_once = trained.condition(xc[rows], yc[rows])
    difference = again.predict(xt).mean - at_once.predict(xt).mean
    assert difference.abs().max() <= 1e-5
    with pytest.raises(ValueError, match="in the same form"):
        again.condition(xc[None], yc[None])


@pytest.mark.parametrize("name", ALL)
def test_files(name, small, pretend, tmp_path):
    trained = pretend(small(name))
    xc, yc, xt = data()
    posterior = trained.condition(xc, yc)
    loaded = probnet.load(trained.save(tmp_path / "trained"))
    assert torch.equal(loaded.condition(xc, yc).predict(xt).mean, posterior.predict(xt).mean)
    assert loaded.x_range == (-2.0, 2.0)
    assert loaded.network.config() == trained.network.config()
    again = probnet.load(posterior.save(tmp_path / "posterior"))
    assert torch.equal(again.predict(xt).stddev, posterior.predict(xt).stddev)


def test_number_of_pseudo_contexts(small, pretend, tmp_path):
    xc, yc, xt = data()
    trained = pretend(small("MPNP"))
    more = trained.condition(xc, yc, num_pseudo=60)
    usual = trained.condition(xc, yc)
    assert not torch.allclose(more.predict(xt).stddev, usual.predict(xt).stddev)
    saved = probnet.load(more.save(tmp_path / "more"))
    assert torch.equal(saved.predict(xt).stddev, more.predict(xt).stddev)
    with pytest.warns(InferenceWarning, match="its law depends on their number"):
        pretend(small("MPNP-isab")).condition(xc, yc, num_pseudo=60)
    with pytest.raises(ValueError, match="`num_pseudo` is for models with pseudo contexts"):
        pretend(small("NP")).condition(xc, yc, num_pseudo=60)
    with pytest.raises(ValueError, match="`num_pseudo` must be at least 1"):
        trained.condition(xc, yc, num_pseudo=0)


@pytest.mark.parametrize("name", ["CNP", "NP", "MPNP"])
@pytest.mark.parametrize("batched", [False, True])
def test_arviz(name, batched, small, pretend):
    xc, yc, xt = data()
    if batched:
        xc, yc = xc.expand(3, 4, 1), yc.expand(3, 4, 1)
    mask = torch.ones(xc.shape[:-1], dtype=torch.bool)
    mask[..., -1] = False
    posterior = pretend(small(name)).condition(xc, yc, mask=mask)
    tree = posterior.to_datatree(xt, num_functions=11, seed=3)
    tasks = ("task",) if batched else ()
    y = tree["posterior_predictive"]["y"]
    assert y.dims == ("chain", "draw", *tasks, "x_id", "y_dim")
    assert y.sizes["draw"] == 11
    assert tree["log_likelihood"]["y_ctx"].dims == ("chain", "draw", *tasks, "ctx_id")
    assert np.isnan(tree["observed_data"]["y_ctx"].values[..., -1, 0]).all()
    assert tree.attrs["draws"] == "independent"
    if name != "CNP":
        f = tree["posterior"]["f"]
        expected = posterior.sample_functions(xt, 11, seed=3)
        np.testing.assert_array_equal(f.values[0], expected.numpy())
    assert "constant_data" in posterior.to_arviz(num_functions=4)


def test_training_as_a_tree(small, pretend):
    tree = pretend(small("CNP")).to_datatree()
    assert tree["optimization"]["loss"].shape == (3,)
    with pytest.raises(ValueError, match=r"condition\(xc, yc\)"):
        pretend(small("CNP")).predict(torch.zeros(2, 1))


def test_bad_contexts_are_rejected(small, pretend):
    trained = pretend(small("MPNP"))
    xc, yc, xt = data()
    nothing = torch.zeros(4, dtype=torch.bool)
    for error, match, call in [
        (
            ValueError,
            r"`xc`.*Did you mean `xc\[:, None\]`",
            lambda: trained.condition(xc[:, 0], yc),
        ),
        (
            ValueError,
            "`yc` must have 1 columns",
            lambda: trained.condition(xc, yc.repeat(1, 2)),
        ),
        (ValueError, "the same points", lambda: trained.condition(xc, yc[:3])),
        (TypeError, "the same floating type", lambda: trained.condition(xc, yc.float())),
        (ValueError, "`yc` holds 1 non-finite", lambda: trained.condition(xc, yc / xc.round())),
        (ValueError, "at least one point", lambda: trained.condition(xc[:0], yc[:0])),
        (ValueError, "all False", lambda: trained.condition(xc, yc, mask=nothing)),
        (
            TypeError,
            "`mask` must be boolean",
            lambda: trained.condition(xc, yc, mask=[1, 1, 0, 1]),
        ),
        (ValueError, "`mask` must have shape", lambda: trained.condition(xc, yc, mask=[True])),
    ]:
        with pytest.raises(error, match=match):
            call()
    posterior = trained.condition(xc, yc)
    with pytest.raises(ValueError, match="no axis of tasks"):
        posterior.predict(xt[None])
    with pytest.raises(ValueError, match="`x` must have 1 columns"):
        posterior.predict(xt.repeat(1, 2))
    with pytest.raises(ValueError, match="`num_functions` must be at least 1"):
        posterior.predict(xt, num_functions=0)
    with pytest.raises(ValueError, match=r"Did you mean `value\[..., None\]`"):
        posterior.predict(xt).log_prob(torch.sin(xt)[:, 0])


def test_an_empty_context_is_allowed_if_asked(small, pretend):
    xt = data()[2]
    for name in ("CNP", "CANP", "MPNP", "MPANP-isab", "NP"):
        posterior = pretend(small(name)).condition(xt[:0], xt[:0], allow_empty=True)
        assert posterior.predict(xt).stddev.isfinite().all()


def test_contexts_unlike_those_of_training_are_warned_of(small, pretend):
    trained = pretend(small("CNP"))
    xc, yc, _ = data()
    with pytest.warns(InferenceWarning, match="leave the training range"):
        trained.condition(2 * xc, yc)
    with pytest.warns(InferenceWarning, match="60 points"):
        trained.condition(xc.repeat(15, 1), yc.repeat(15, 1))
    pretend(small("CNP"), x_range=None).condition(2 * xc, yc)


def test_duplicated_points_keep_predictions_finite(small, pretend):
    xc, yc, xt = data()
    for name in ALL:
        law = pretend(small(name)).condition(xc.repeat(5, 1), yc.repeat(5, 1)).predict(xt)
        assert law.log_prob(torch.sin(3 * xt)).isfinite().all()


def test_the_documented_call():
    tasks = GPTasks(kernel="rbf", seed=0)
    model = MPNP(x_dim=1, y_dim=1, num_pseudo=30)
    trained = model.fit(tasks, num_steps=2, batch_size=16, seed=0)
    xc, yc, xt = data()
    f = trained.condition(xc, yc)
    assert f.predict(xt, num_functions=50).log_prob(torch.sin(3 * xt)).shape == (7,)
    assert f.sample_functions(xt, 200, seed=0).shape == (200, 7, 1)
