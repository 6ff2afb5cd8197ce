"""Inference: a conjugate model exactly, routes that must agree, other likelihoods."""

import pyro.distributions as dist
import pytest
import torch

import inference
from probnet.bnn import BNN, BayesianConvNet, BayesianMLP
from probnet.likelihoods import Bernoulli, Categorical, Gaussian, Poisson, StudentT

# chains as short as these need not agree
pytestmark = pytest.mark.filterwarnings("ignore:the chains:inference.InferenceWarning")

QUICK = {"num_chains": 2, "num_samples": 10, "thin": 5, "num_warmup": 100, "progress": False}


def _exact(x, y, x_test, noise_var, stds):
    """Predictive mean and variance of the conjugate linear model on standardised data."""
    x_mean, x_sd = x.mean(0), x.std(0, correction=0)
    y_mean, y_sd = y.mean(), y.std(correction=0)
    z, z_test = (x - x_mean) / x_sd, (x_test - x_mean) / x_sd
    d = x.shape[1]

    def design(v):
        ones = torch.ones(len(v), 1, dtype=v.dtype)
        return torch.cat([v * stds["w1"] / d**0.5, ones * stds["b1"]], 1)

    a, a_test = design(z), design(z_test)
    covariance = torch.linalg.inv(torch.eye(d + 1) + a.T @ a / noise_var)
    mean = a_test @ covariance @ a.T @ ((y - y_mean) / y_sd) / noise_var
    variance = (a_test @ covariance * a_test).sum(1)
    return y_mean + y_sd * mean, y_sd**2 * variance, y_sd**2 * noise_var


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("nuts", {"num_samples": 300, "num_warmup": 150, "num_chains": 1}),
        (
            "sghmc_adaptive",
            {"batch_size": None, "num_samples": 150, "thin": 15, "num_warmup": 500,
             "num_chains": 8, "step_size": 0.1, "momentum_decay": 0.1},
        ),
    ],
)  # fmt: skip
def test_a_linear_network_has_its_exact_posterior(method, options, table):
    x, y = table
    stds = {"w1": 1.5, "b1": 0.5}
    model = BNN(BayesianMLP(2, []).prior(stds=stds), noise_var=0.1)
    posterior = model.fit(x, y, method=method, seed=0, progress=False, **options)
    mean, variance, noise = _exact(x, y, x[:5], 0.1, stds)
    law = posterior.predict(x[:5], observation=False)
    count = posterior.diagnostics["ess_min"]
    assert ((law.mean - mean).abs() < 5 * (variance / count).sqrt()).all()
    torch.testing.assert_close(law.variance, variance, rtol=5 * (2 / count) ** 0.5, atol=0)
    observed = posterior.predict(x[:5])
    torch.testing.assert_close(observed.variance, law.variance + noise, rtol=1e-5, atol=0)


def test_noise_is_learned(table):
    """Weak priors and a linear truth: the noise's posterior covers the residual variance."""
    x, y = table
    model = BNN(
        BayesianMLP(2, []).prior(stds={"w1": 3.0}), noise_var=dist.InverseGamma(2.0, 0.1)
    )
    posterior = model.fit(
        x, y, method="nuts", num_samples=300, num_warmup=150, num_chains=1, progress=False
    )
    draws = torch.from_numpy(posterior.draws.draws["noise_var"].copy()) * y.var(correction=0)
    a = torch.cat([x, torch.ones(40, 1)], 1)
    residual = y - a @ torch.linalg.lstsq(a, y[:, None]).solution[:, 0]
    rate = 0.1 * y.var(correction=0) + residual.square().sum() / 2
    expected = rate / (2 + 40 / 2 - 3 / 2 - 1)  # flat coefficients: three degrees of freedom
    assert float(draws.mean()) == pytest.approx(float(expected), rel=0.1)


def test_centred_and_non_centred_flows_agree():
    """Two weights under a strong flow: draws of latents, and the centred density on a grid."""
    generator = torch.Generator().manual_seed(0)
    prior = BayesianMLP(1, [], family="flow").prior()
    values = {
        n: v
        if n.endswith("log_var")
        else torch.randn(v[:1].shape, generator=generator).double()
        for n, v in prior.hyperparameters.items()
    }
    prior = type(prior)(prior.network, values)
    x = torch.randn(10, 1, generator=generator, dtype=torch.float64)
    y = torch.randn(10, generator=generator, dtype=torch.float64)
    model = BNN(prior, noise_var=2.0)
    posterior = model.fit(
        x, y, method="nuts", num_samples=400, num_warmup=150, num_chains=1, progress=False
    )
    side = torch.linspace(-9, 9, 241, dtype=torch.float64)
    b, w = (v.reshape(-1) for v in torch.meshgrid(side, side, indexing="ij"))
    weights = {"b1": b[:, None], "w1": w[:, None, None]}
    z, t = posterior.x_standardizer.transform(x), posterior.y_standardizer.transform(y)
    f = prior.network.functions(z, weights)[..., 0]
    density = (prior.log_prob(weights) - (t - f).square().sum(-1) / 4).softmax(0)
    for power in (1, 2):
        v = posterior.draws.draws["w1"][..., 0, 0] ** power
        ess = float(inference.diagnostics.ess(v[..., None])[0])
        exact = float((density * w**power).sum())
        assert abs(v.mean() - exact) < 4 * v.std() / ess**0.5


def test_both_routes_of_the_hierarchical_prior_agree(table):
    """Variances integrated out and drawn by Gibbs, or sampled with the latents: same law."""
    x, y = table
    network = BayesianMLP(2, [], family="hierarchical")
    prior = network.prior(concentrations={"w1": 3.0, "b1": 3.0}, rates={"w1": 2.0, "b1": 2.0})
    options = {
        "method": "nuts",
        "num_samples": 300,
        "num_warmup": 150,
        "num_chains": 1,
        "progress": False,
    }
    found = []
    for centered in (True, False):
        model = BNN(prior, noise_var=0.1, centered=centered)
        log_variances = model.fit(x, y, seed=2, **options).draws.draws["variances"].copy()
        v = torch.from_numpy(log_variances).log().flatten(0, 1)
        ess = float(inference.diagnostics.ess(log_variances).min())
        found.append((v.mean(0), v.std(0) / ess**0.5))
    (m1, s1), (m2, s2) = found
    assert ((m1 - m2).abs() < 4 * (s1**2 + s2**2).sqrt()).all()


def test_classes():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 2, generator=generator)
    y = (x[:, 0] > 0.5).long() + (x[:, 0] > -0.5).long()
    network = BayesianMLP(2, [10], output_dim=3)
    posterior = BNN(network, Categorical(3)).fit(x, y, **{**QUICK, "num_warmup": 600})
    law = posterior.predict(x)
    assert law.probs.shape == (90, 3)
    assert float((law.probs.argmax(-1) == y).double().mean()) > 0.6  # guessing: 0.4
    assert posterior.predict(x, observation=False).mean.shape == (90, 3)


@pytest.mark.parametrize("likelihood", [Poisson(), Bernoulli(), StudentT(noise_scale=0.3)])
def test_other_likelihoods(likelihood):
    x = torch.linspace(-1, 1, 40)[:, None]
    y = (x[:, 0] > 0).double()
    posterior = BNN(BayesianMLP(1, [5]), likelihood).fit(x, y, **{**QUICK, "num_warmup": 500})
    mean = posterior.predict(x).mean
    assert mean[-5:].mean() > mean[:5].mean() + 0.2
    assert posterior.predict(x).log_prob(y).isfinite().all()


def test_images():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 9, generator=generator)
    network = BayesianConvNet((1, 3, 3), num_channels=2, num_blocks=1)
    posterior = BNN(network, noise_var=0.1).fit(x, x[:, 4], **QUICK)
    assert posterior.predict(x).mean.shape == (30,)


def test_variational_inference(table):
    model = BNN(BayesianMLP(2, []), noise_var=0.1)
    posterior = model.fit(*table, method="svi", guide="multivariate", num_steps=800, seed=0,
                          progress=False)  # fmt: skip
    mean, _, _ = _exact(*table, table[0][:5], 0.1, {"w1": 1.0, "b1": 1.0})
    torch.testing.assert_close(posterior.mean(table[0][:5]), mean, rtol=0, atol=0.5)
    assert posterior.diagnostics["pareto_k"] < 0.7


def test_chains_do_not_depend_on_their_number(table):
    model = BNN(BayesianMLP(2, [8]), noise_var=0.1)
    options = {"num_samples": 4, "thin": 5, "num_warmup": 20, "seed": 3, "progress": False}
    few, many = (model.fit(*table, num_chains=c, **options).draws.draws["w1"] for c in (2, 5))
    torch.testing.assert_close(torch.tensor(few), torch.tensor(many[:2]), rtol=1e-3, atol=1e-4)


def test_the_pyro_model_is_the_same_model(table):
    """`inference.sample` on it has the same law: compared on the exact linear posterior."""
    x, y = table
    z = (x - x.mean(0)) / x.std(0, correction=0)
    t = (y - y.mean()) / y.std(correction=0)
    model = BNN(BayesianMLP(2, []), noise_var=0.1)
    draws = inference.sample(
        model.pyro_model, (z, t), method="nuts", num_chains=1, num_warmup=200, num_samples=600,
        seed=0, progress=False,
    )  # fmt: skip
    f = draws.predict(lambda p: z[:5] @ p["w1"][:, 0] / 2**0.5 + p["b1"])
    mean, variance, _ = _exact(x, y, x[:5], 0.1, {"w1": 1.0, "b1": 1.0})
    found = y.mean() + y.std(correction=0) * torch.tensor(f).mean((0, 1))
    assert ((found - mean).abs() < 5 * (variance / 200).sqrt()).all()


def _with(x, y, row, value):
    x = x.clone()
    x[row, 0] = value
    return x, y


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: _with(x, y, 3, float("nan")), "`x` holds 1 non-finite value"),
        (lambda x, y: (x[:, :1], y), "`x` must have 2 columns"),
        (lambda x, y: (x, y[:, None]), r"`y` must have shape \(n,\)"),
        (lambda x, y: (x[:1], y[:1]), "at least 2 rows"),
        (lambda x, y: _with(x, y, slice(None), 1.0), r"constant columns; columns \[0\]"),
        (lambda x, y: (x[:5], y), "same number of rows"),
    ],
)
def test_bad_tables_are_refused(change, message, table):
    with pytest.raises(ValueError, match=message):
        BNN(BayesianMLP(2, [3])).fit(*change(*table), **QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "`step_size`"),
        ({"momentum_decay": 1.0}, "`momentum_decay`"),
        ({"temperature": -1.0}, "`temperature`"),
        ({"thin": 0}, "`thin` must be at least 1"),
        ({"num_chains": 0}, "`num_chains` must be at least 1"),
        ({"batch_size": 41}, "`batch_size` must be at most"),
        ({"method": "sghmc_adaptiv"}, "Did you mean 'sghmc_adaptive'"),
    ],
)
def test_bad_options_are_refused(options, message, table):
    with pytest.raises(ValueError, match=message):
        BNN(BayesianMLP(2, [3])).fit(*table, **{**QUICK, **options})


def test_bad_models_are_refused():
    network = BayesianMLP(1, [3])
    with pytest.raises(TypeError, match="`prior` must be a prior"):
        BNN({"w1": 1.0})
    with pytest.raises(ValueError, match="not both"):
        BNN(network, Gaussian(0.1), noise_var=0.1)
    with pytest.raises(ValueError, match="must have 3 outputs for a Categorical"):
        BNN(network, Categorical(3))
    with pytest.raises(ValueError, match="`noise_var` must be a finite number > 0"):
        BNN(network, noise_var=0.0)
    with pytest.raises(ValueError, match="no closed-form density"):
        BNN(BayesianMLP(1, [3], family="rff"), centered=True)
    with pytest.raises(ValueError, match=r"whole class numbers 0\.\.2"):
        BNN(BayesianMLP(1, [3], output_dim=3), Categorical(3)).fit([[0.0], [1.0]], [0, 3])
