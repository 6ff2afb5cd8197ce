"""Checks of a posterior: correct samplers pass them, every negative control fails."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import inference
from inference import InferenceWarning, LogDensity
from inference.calibration import geweke, sbc

CAUGHT = 1e-6
SHAPE, RATE, ROWS = 3.0, 2.0, 4
SHORT = {"num_chains": 11, "num_warmup": 100, "progress": False}


def smallest(result):
    """The smallest p-value of a check."""
    found = result.p_values
    arrays = found.values() if isinstance(found, dict) else [found]
    return min(float(np.min(a)) for a in arrays)


# -- models ----------------------------------------------------------------------------------


def normal_model(x, y):
    """y ~ N(a + b x, 0.8²)."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(w[0] + w[1] * x, 0.8), obs=y)


def logistic_model(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def scale_model(y):
    """σ² ~ InvGamma(3, 2), μ | σ² ~ N(0, σ²), y ~ N(μ, σ²)."""
    variance = pyro.sample("variance", dist.InverseGamma(torch.tensor(SHAPE).double(), RATE))
    mean = pyro.sample("mean", dist.Normal(0.0, variance.sqrt()))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, variance.sqrt()), obs=y)


def scale_density(*, jacobian=True):
    """The same as a log density; `jacobian=False` takes the log-Jacobian off again."""

    def log_prior(p):
        variance = p["variance"]
        value = -(SHAPE + 1.5) * variance.log() - (RATE + p["mean"].square() / 2) / variance
        return value if jacobian else value - variance.log()

    def log_lik(p, y):
        return -(y - p["mean"]).square() / (2 * p["variance"]) - p["variance"].log() / 2

    return LogDensity(
        log_prior=log_prior,
        log_lik=log_lik,
        params={"mean": torch.zeros(()).double(), "variance": torch.ones(()).double()},
        constraints={"variance": constraints.positive},
    )


def scale_prior(num):
    variance = RATE / torch.distributions.Gamma(torch.tensor(SHAPE).double(), 1).sample((num,))
    return {"mean": variance.sqrt() * torch.randn(num).double(), "variance": variance}


def scale_data(params):
    noise = torch.randn(len(params["mean"]), ROWS).double()
    return params["mean"][:, None] + params["variance"].sqrt()[:, None] * noise


SCALE = {"prior_sample": scale_prior, "simulate": scale_data}


def mean_density(scaled):
    """y ~ N(m, 1) with 40 rows; unless `scaled`, a minibatch counts for itself alone."""

    def log_density(p, y):
        factor = 40 / len(y) if scaled else 1.0
        return -p["m"].square() / 2 - factor * (y - p["m"]).square().sum() / 2

    return LogDensity(
        log_density=log_density, scale="sum", params={"m": torch.zeros(()).double()}
    )


MEAN = {
    "prior_sample": lambda num: {"m": torch.randn(num).double()},
    "simulate": lambda p: p["m"][:, None] + torch.randn(len(p["m"]), 40).double(),
}

X = torch.linspace(-1, 1, 8, dtype=torch.float64)
DESIGN = torch.stack([torch.ones(20), torch.linspace(-2, 2, 20)], 1).double()
NORMAL = (normal_model, (X, torch.zeros(8).double()))
LOGISTIC = (logistic_model, (DESIGN, torch.zeros(20).double()))
NORMAL_RUN = {"step_size": 0.12, "friction": 4.0, "thin": 20}
LOGISTIC_RUN = {"step_size": 0.15, "friction": 3.0, "thin": 20}
SCALE_RUN = {"step_size": 0.1, "friction": 3.0, "thin": 30}


# -- simulation-based calibration ------------------------------------------------------------


def test_sbc_passes_a_conjugate_normal():
    found = sbc(*NORMAL, **SHORT, **NORMAL_RUN)
    assert found.passed
    assert set(found.ranks) == {"w", "lp"}
    assert found.ranks["w"].shape == (200, 2)
    assert all(np.abs(z).max() < 3 for z in found.coverage_z().values())


@pytest.fixture(scope="module")
def scales():
    return sbc(scale_model, torch.zeros(ROWS).double(), **SHORT, **SCALE_RUN)


def test_sbc_passes_a_positive_scale(scales):
    assert scales.passed


def test_sbc_passes_a_logistic_regression():
    assert sbc(*LOGISTIC, **SHORT, **LOGISTIC_RUN).passed


def test_sbc_passes_minibatches():
    run = {"batch_size": 20, "step_size": 0.03, "friction": 14.0, "thin": 15}
    run["num_replications"] = 100
    assert sbc(mean_density(scaled=True), **MEAN, **SHORT, **run).passed


def test_sbc_catches_doubled_noise():
    """Twice the standard deviation of the injected noise is temperature 4."""
    assert smallest(sbc(*NORMAL, **SHORT, **NORMAL_RUN, temperature=4.0)) < CAUGHT


def test_sbc_catches_a_missing_jacobian():
    run = {"num_replications": 400, **SHORT, **SCALE_RUN}
    assert sbc(scale_density(), **SCALE, **run).passed
    assert smallest(sbc(scale_density(jacobian=False), **SCALE, **run)) < CAUGHT


def test_sbc_catches_a_missing_scaling_of_minibatches():
    run = {"batch_size": 10, "step_size": 0.1, "friction": 5.0, "thin": 15}
    run["num_replications"] = 100
    found = sbc(mean_density(scaled=False), **MEAN, **SHORT, **run)
    assert smallest(found) < CAUGHT


def exact_normal(data, seed):
    """99 independent draws of the conjugate posterior of `normal_model`."""
    x, y = (a.numpy() for a in data)
    design = np.stack([np.ones_like(x), x], 1)
    covariance = np.linalg.inv(np.eye(2) + design.T @ design / 0.64)
    mean = covariance @ design.T @ y / 0.64
    return {"w": np.random.default_rng(seed).multivariate_normal(mean, covariance, size=99)}


def prior_only(data, seed):
    """Draws of the prior: their ranks are uniform, for every parameter."""
    return {"w": np.random.default_rng(seed).normal(size=(99, 2))}


def test_sbc_judges_any_sampler():
    assert sbc(*NORMAL, method=exact_normal, progress=False).passed


def test_only_the_log_density_catches_a_sampler_that_ignores_its_data():
    found = sbc(*NORMAL, method=prior_only, progress=False).p_values
    assert found["w"].min() > 1e-3 / found["w"].size
    assert found["lp"].max() < CAUGHT


def test_sbc_runs_other_methods_data_set_by_data_set():
    """A handful, and short: the path works."""
    few = {"num_replications": 20, "progress": False, "thin": 1, "chain_method": "sequential"}
    found = sbc(*NORMAL, method="nuts", num_samples=3, num_warmup=5, **few)
    assert found.num_samples == 3


def test_sbc_takes_draws_of_several_chains():
    def sampler(data, seed):
        draws = exact_normal(data, seed)["w"].reshape(3, 33, 2)
        return inference.Draws(draws={"w": draws}, sample_stats={}, attrs={})

    found = sbc(*NORMAL, method=sampler, num_replications=40, progress=False)
    flat = sbc(*NORMAL, method=exact_normal, num_replications=40, progress=False)
    assert (found.ranks["w"] == flat.ranks["w"]).all()


def test_sbc_is_reproducible_and_leaves_global_generators_alone():
    run = {**SHORT, **NORMAL_RUN, "num_replications": 20, "seed": 3}
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again = sbc(*NORMAL, **run), sbc(*NORMAL, **run)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert all((first.ranks[n] == again.ranks[n]).all() for n in first.ranks)
    other = sbc(*NORMAL, **{**run, "seed": 4})
    assert (first.ranks["w"] != other.ranks["w"]).any()


def test_data_and_prior_of_a_pyro_model_are_its_own():
    """Means and variances of 2000 data sets, which a sampler of ours is shown."""
    seen = []

    def record(data, seed):
        seen.append(data)
        return {"w": np.random.default_rng(seed).normal(size=(3, 2))}

    found = sbc(*NORMAL, method=record, num_replications=2000, progress=False)
    assert all(torch.equal(x, X) for x, _ in seen)
    truth = found.prior["w"]
    y = np.stack([y.numpy() for _, y in seen])
    noise = y - truth[:, :1] - truth[:, 1:] * X.numpy()
    count = noise.size
    assert abs(noise.mean()) < 4 * 0.8 / count**0.5
    assert abs(noise.var() / 0.64 - 1) < 4 * (2 / count) ** 0.5
    assert np.abs(np.cov(truth.T) - np.eye(2)).max() < 4 * (2 / 2000) ** 0.5


def heavy_model(y):
    """Distributions that torch cannot draw under vmap."""
    scale = pyro.sample("scale", dist.HalfCauchy(torch.tensor(1.0).double()))
    share = pyro.sample("share", dist.Beta(torch.tensor(2.0).double(), 3.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.StudentT(5.0, share, scale), obs=y)


def test_a_model_that_cannot_be_drawn_at_once_is_drawn_one_by_one():
    def record(data, seed):
        rng = np.random.default_rng(seed)
        return {"scale": np.abs(rng.standard_cauchy(9)), "share": rng.beta(2, 3, 9)}

    found = sbc(heavy_model, torch.zeros(3).double(), method=record, progress=False)
    p_values = found.p_values
    assert min(p_values["scale"].min(), p_values["share"].min()) > 1e-3 / 4


def test_correlated_draws_are_warned_of():
    run = {"num_replications": 40, "num_warmup": 100, "progress": False, "thin": 1}
    with pytest.warns(InferenceWarning, match="Raise `thin`"):
        sbc(*NORMAL, **run, step_size=0.05, friction=4.0)


def test_export_has_named_dimensions():
    found = sbc(*NORMAL, method=exact_normal, num_replications=40, progress=False)
    tree = found.to_datatree()
    assert tree["ranks"]["w"].dims == ("replication", "w_dim_0")
    assert tree["p_values"]["w"].sel(test="ks").shape == (2,)
    assert tree["coverage"]["lp"].dims == ("level",)
    assert tree["prior"]["w"].dims == ("chain", "draw", "w_dim_0")
    assert tree["posterior"]["w"].dims == ("chain", "draw", "replication", "w_dim_0")
    assert tree["observed_data"]["y"].dims == ("replication", "y_dim_1")
    truth, draws = tree["prior"]["w"][0].to_numpy(), tree["posterior"]["w"].to_numpy()
    assert ((draws < truth).sum((0, 1)) == found.ranks["w"]).all()
    assert tree["posterior"]["lp"].dims == ("chain", "draw", "replication")
    assert (found.to_arviz().ranks["w"].to_numpy() == found.ranks["w"]).all()
    assert list(found.summary().index) == ["w[0]", "w[1]", "lp"]
    assert found.summary()["ess"].to_numpy() == pytest.approx(99, rel=0.25)


def test_log_joint_density_is_that_of_parameters_and_data(scales):
    """log p(w, y), no Jacobian, of every truth and every draw."""
    y, both = torch.tensor(scales.observed_data["y"]), (scales.prior, scales.posterior)
    for values, data in zip(both, (y, y[:, None, None]), strict=True):
        mean, variance = (torch.tensor(values[n]) for n in ("mean", "variance"))
        sd = variance.sqrt()
        expected = dist.InverseGamma(torch.tensor(SHAPE).double(), RATE).log_prob(variance)
        expected += dist.Normal(0.0, sd).log_prob(mean)
        expected += dist.Normal(mean[..., None], sd[..., None]).log_prob(data).sum(-1)
        np.testing.assert_allclose(values["lp"], expected.numpy(), rtol=1e-9)


def test_plot_draws_every_scalar_inside_the_bands():
    matplotlib = pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = sbc(*NORMAL, method=exact_normal, progress=False)
    axes = found.plot()
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert set(lines) == {"w[0]", "w[1]", "lp"}
    expected = (found.ranks["w"][:, 0] < 50).mean() - 0.5
    assert lines["w[0]"][49] == pytest.approx(expected)
    pyplot.close("all")


# -- Geweke ----------------------------------------------------------------------------------

QUIET = {"progress": False}
GEWEKE = {"step_size": 0.05, "friction": 3.0, **QUIET}


def test_geweke_passes():
    """20 000 pairs; |z| < 4 as well."""
    found = geweke(scale_density(), **SCALE, **GEWEKE)
    assert found.passed
    assert np.abs(found.z_scores).max() < 4
    assert found.to_datatree()["moments"]["z"].dims == ("moment",)


def test_geweke_passes_a_pyro_model():
    found = geweke(scale_model, torch.zeros(ROWS).double(), num_samples=40, **GEWEKE)
    assert found.passed
    assert found.moments[:3] == ("variance", "mean", "mean(data)")


@pytest.mark.parametrize("fault", ["jacobian", "temperature"])
def test_geweke_catches(fault):
    spec = scale_density(jacobian=fault != "jacobian")
    temperature = 4.0 if fault == "temperature" else 1.0
    assert smallest(geweke(spec, **SCALE, **GEWEKE, temperature=temperature)) < CAUGHT


def test_geweke_catches_a_missing_scaling_of_minibatches():
    run = {"batch_size": 10, "step_size": 0.05, "friction": 5.0, **QUIET}
    assert smallest(geweke(mean_density(scaled=False), **MEAN, **run)) < CAUGHT


def gibbs(params, y):
    """Exact draws of the posterior of `scale_density`, all chains at once."""
    count = y.shape[1] + 1
    mean = y.sum(1) / count
    rate = RATE + (y.square().sum(1) - count * mean.square()) / 2
    gamma = torch.distributions.Gamma(torch.tensor(SHAPE + (count - 1) / 2).double(), 1)
    variance = rate / gamma.sample(mean.shape)
    noise = torch.randn(mean.shape).double()
    return {"mean": mean + (variance / count).sqrt() * noise, "variance": variance}


def test_geweke_judges_any_transition():
    def ignores_data(params, y):
        return scale_prior(len(y))

    assert geweke(scale_density(), **SCALE, method=gibbs, **QUIET).passed
    assert smallest(geweke(scale_density(), **SCALE, method=ignores_data, **QUIET)) < CAUGHT


# -- bad input -------------------------------------------------------------------------------


def factor_model(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.factor("penalty", -m.square())
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def changed_model(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=2 * y)


def subsampling_model(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y), subsample_size=2) as rows:
        pyro.sample("y", dist.Normal(m, 1.0), obs=y[rows])


def improper_model(y):
    m = pyro.sample("m", dist.ImproperUniform(constraints.real, (), ()))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def mean_model(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


NAN = torch.tensor(torch.nan)
BAD = [
    (scale_density(), {}, "`prior_sample` and `simulate`"),
    (scale_density(), {**SCALE, "data": torch.zeros(3)}, "`data` comes from `simulate`"),
    (scale_density(), {**SCALE, "simulate": lambda p: p["mean"].sum()}, "`simulate` must"),
    (scale_density(), {**SCALE, "prior_sample": lambda n: {}}, r"`prior_sample` must"),
    (
        scale_density(),
        {
            **SCALE,
            "prior_sample": lambda n: dict.fromkeys(("mean", "variance"), -torch.ones(n)),
        },
        "outside",
    ),
    (normal_model, {"data": NORMAL[1], "simulate": scale_data}, "a Pyro model draws"),
    (factor_model, {"data": torch.zeros(4)}, "penalty.*factors"),
    (changed_model, {"data": torch.zeros(4)}, "unchanged"),
    (subsampling_model, {"data": torch.zeros(4)}, "subsamples its rows itself"),
    (improper_model, {"data": torch.zeros(4)}, r"prior of \['m'\] .* improper"),
    (mean_model, {"data": torch.zeros(4).long()}, "site 'y' draws real numbers.*int64"),
    (
        scale_density(),
        {**SCALE, "prior_sample": lambda n: dict.fromkeys(("mean", "variance"), NAN.expand(n))},
        "`prior_sample` gives 2 of 2 values",
    ),
    (
        scale_density(),
        {**SCALE, "simulate": lambda p: NAN.expand(len(p["mean"]), ROWS)},
        "`simulate` returned data of no use",
    ),
]
BAD_TYPES = [
    ({**SCALE, "prior_sample": 3}, "`prior_sample` must be a function; got int"),
    ({**SCALE, "prior_sample": torch.ones}, "`prior_sample` must return a dict"),
    ({**SCALE, "method": 3}, "`method` must be a name or a function; got int"),
]


@pytest.mark.parametrize("check", [sbc, geweke])
@pytest.mark.parametrize(("target", "options", "message"), BAD, ids=[b[2] for b in BAD])
def test_models_that_cannot_be_checked_are_refused(check, target, options, message):
    with pytest.raises(ValueError, match=message):
        check(target, **options, progress=False)


@pytest.mark.parametrize("check", [sbc, geweke])
@pytest.mark.parametrize(("options", "message"), BAD_TYPES, ids=[b[1] for b in BAD_TYPES])
def test_arguments_of_the_wrong_type_are_refused(check, options, message):
    with pytest.raises(TypeError, match=message):
        check(scale_density(), **options, progress=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_replications": 5}, ValueError, "`num_replications` must be at least 20"),
        ({"num_chains": 2}, ValueError, "multiple of `num_chains`"),
        ({"method": "sghcm"}, ValueError, "'sghmc'"),
        ({"stepsize": 1.0}, TypeError, "step_size"),
        ({"method": exact_normal, "step_size": 1.0}, TypeError, "named `method`"),
        ({"method": lambda d, s: {"v": np.zeros(9)}}, ValueError, "draws of 'w'"),
        ({"method": lambda d, s: {"w": np.zeros((1 + s % 2, 2))}}, ValueError, "same number"),
        (
            {"method": lambda d, s: {"w": np.full((9, 2), np.nan)}},
            ValueError,
            "200 replications are not finite",
        ),
    ],
)
def test_bad_arguments_of_sbc(options, error, message):
    with pytest.raises(error, match=message):
        sbc(*NORMAL, progress=False, **options)


def test_bad_arguments_of_geweke():
    with pytest.raises(ValueError, match="`num_chains` must be at least 20"):
        geweke(*NORMAL, num_chains=3)
    with pytest.raises(ValueError, match="must be one of"):
        geweke(*NORMAL, method="nuts")
    with pytest.raises(ValueError, match="`method` must return"):
        geweke(*NORMAL, method=lambda params, data: {}, **QUIET)
    with pytest.raises(ValueError, match="`chain_method` must be one of"):
        geweke(*NORMAL, chain_method="parallel")
    with pytest.raises(ValueError, match=r"took 200 of 200 chains.*Reduce `step_size`"):
        geweke(scale_density(), **SCALE, step_size=100.0, **QUIET)
    constant = {**SCALE, "simulate": lambda p: torch.ones(len(p["mean"]), ROWS).double()}
    with pytest.raises(ValueError, match="the same whatever the parameters"):
        geweke(scale_density(), **constant, **QUIET)


def test_bad_levels():
    found = sbc(*NORMAL, method=exact_normal, num_replications=20, progress=False)
    with pytest.raises(TypeError, match="`levels` must be a list"):
        found.coverage(0.5)
    with pytest.raises(ValueError, match=r"`levels` must lie in \(0, 1\); got 1.2"):
        found.coverage([1.2])
    np.testing.assert_array_equal(
        found.coverage(np.array([0.5]))["w"], found.coverage([0.5])["w"]
    )
