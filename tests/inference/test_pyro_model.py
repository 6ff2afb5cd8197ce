"""Pyro models as targets: Pyro's own density, minibatch scaling, and what is refused."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.mcmc.util import initialize_model
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from torch.distributions import biject_to

from inference.binding import bind
from inference.gradients import log_density_and_gradient, map_chains
from inference.rng import scoped_seed

FLOAT = torch.float64
X = torch.linspace(-1, 1, 24, dtype=FLOAT).reshape(12, 2)
Y = torch.sin(3 * X[:, 0]) + X[:, 1] ** 2


def bound(model, data=None, batch_size=None, dtype=None):
    return bind(model, data, batch_size=batch_size, dtype=dtype, device=None)


# ------------------------------------------------------------------------------ the models


def weights():
    return pyro.sample("w", dist.Normal(torch.zeros(2, dtype=FLOAT), 1.0).to_event(1))


def prior():
    """Of the minibatch models: two sites and a factor, none of which may be scaled."""
    w = weights()
    s = pyro.sample("s", dist.Exponential(1.0))
    pyro.factor("shrink", -w.abs().sum())
    return w, s


def constrained(x, y):
    noise = pyro.sample("noise", dist.HalfNormal(2.0))
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    share = pyro.sample("share", dist.Beta(2.0, 3.0))
    weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    mean = share * x[:, 0] + weights[0] * x[:, 1] + rate
    pyro.sample("y", dist.Normal(mean, noise), obs=y)


def dependent_support(x, y):
    top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
    inner = pyro.sample("inner", dist.Uniform(0.0, top))
    pyro.sample("y", dist.Normal(inner * x[:, 0], top), obs=y)


def correlated(x, y):
    scale = pyro.sample("scale", dist.HalfCauchy(torch.ones(2, dtype=FLOAT)).to_event(1))
    factor = pyro.sample("factor", dist.LKJCholesky(2, 1.5))
    tril = scale[:, None] * factor
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MultivariateNormal(x.new_zeros(2), scale_tril=tril), obs=x)


def nested_plates(x, y):
    with pyro.plate("group", 3, dim=-2):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("member", 2, dim=-1):
            loading = pyro.sample(
                "loading", dist.Normal(level[..., None], 1.0).expand([3, 2, 4]).to_event(1)
            )
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(loading.sum() * x[:, 0], 1.0), obs=y)


def factored(x, y):
    w = weights()
    mean = pyro.deterministic("mean", x @ w)
    pyro.deterministic("norm", w.square().sum())
    pyro.factor("penalty", -w.abs().sum())
    pyro.sample("y", dist.StudentT(4.0, mean, 1.0), obs=y)


def masked_and_scaled(x, y):
    with poutine.scale(scale=0.3):
        w = weights()
        s = pyro.sample("s", dist.Exponential(1.0))
    with poutine.mask(mask=y > 0), pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ w, s), obs=y)


def improper(x, y):
    w = pyro.sample("w", dist.ImproperUniform(constraints.real, (), (2,)))
    s = pyro.sample("s", dist.ImproperUniform(constraints.positive, (), ()))
    pyro.sample("y", dist.Normal(x @ w, s), obs=y)


def counts(x, y):
    w = weights()
    with pyro.plate("row", len(y)):
        pyro.sample("b", dist.Bernoulli(logits=x @ w), obs=(y > 0).to(y))
        pyro.sample("k", dist.Poisson((x @ w).exp()), obs=torch.arange(len(y)).to(y))


@poutine.reparam(config={"z": LocScaleReparam(0.0)})
def decentred(x, y):
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, tau))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


class Line(PyroModule):
    """A module whose weights are latent, and whose bias is an ordinary parameter."""

    def __init__(self):
        super().__init__()
        self.linear = PyroModule[torch.nn.Linear](2, 1).double()
        self.linear.weight = PyroSample(
            dist.Normal(torch.zeros(1, 2, dtype=FLOAT), 1.0).to_event(2)
        )
        with torch.no_grad():
            self.linear.bias.fill_(0.5)
        self.scale = PyroSample(dist.LogNormal(0.0, 1.0))

    def forward(self, x, y):
        mean = self.linear(x)[:, 0]
        pyro.sample("y", dist.Normal(mean, self.scale), obs=y)


MODELS = {
    "constrained": constrained,
    "dependent support": dependent_support,
    "correlated": correlated,
    "nested plates": nested_plates,
    "factored": factored,
    "masked and scaled": masked_and_scaled,
    "improper": improper,
    "counts": counts,
    "decentred": decentred,
    "module": None,  # made by the fixture: its constructor draws and discards weights
}


@pytest.fixture(params=MODELS)
def model(request):
    with scoped_seed(0), pyro.get_param_store().scope():
        yield MODELS[request.param] or Line()


def positions(target, chains):
    count = chains * target.layout.dim
    return torch.linspace(-1.1, 1.3, count, dtype=FLOAT).reshape(chains, -1).sin()


def density_by_trace(model, target, z):
    """The trace's density at constrained values, plus every Jacobian, for one chain."""
    free, values = target.layout.split(z), target.constrain(z)
    given = {name: values[name] for name in free}
    with scoped_seed(0):
        trace = poutine.trace(poutine.condition(model, data=given)).get_trace(X, Y)
    total = trace.log_prob_sum()
    for name in free:
        transform = biject_to(trace.nodes[name]["fn"].support)
        torch.testing.assert_close(transform(free[name]), values[name])
        total = total + transform.log_abs_det_jacobian(free[name], values[name]).sum()
    return total


# ------------------------------------------------------------------------- Pyro's own density


def test_density_and_gradient_are_those_of_the_trace(model):
    target = bound(model, (X, Y))
    for z in positions(target, 3):
        ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
        value = target.log_density(ours)
        expected = density_by_trace(model, target, theirs)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            torch.autograd.grad(value, ours)[0],
            torch.autograd.grad(expected, theirs)[0],
            rtol=1e-9,
            atol=1e-9,
        )


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"dependent support", "improper"}))
def test_density_and_gradient_are_those_of_pyros_potential(name):
    """Pyro cannot draw from an improper law, and holds supports as they were at first."""
    with scoped_seed(0), pyro.get_param_store().scope():
        model = MODELS[name] or Line()
        target = bound(model, (X, Y))
        _, potential, _, _ = initialize_model(model, (X, Y), initial_params={})
        for z in positions(target, 3):
            ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
            value, expected = target.log_density(ours), -potential(target.layout.split(theirs))
            torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(
                torch.autograd.grad(value, ours)[0],
                torch.autograd.grad(expected, theirs)[0],
                rtol=1e-9,
                atol=1e-9,
            )


def test_64_chains_side_by_side_equal_64_chains_alone(model):
    target = bound(model, (X, Y))
    z = positions(target, 64)
    with pyro.validation_enabled(False):
        together = log_density_and_gradient(target, "vectorized")(z, None)
        alone = log_density_and_gradient(target, "sequential")(z, None)
        both = [
            map_chains(target.constrain, z, chain_method=m)
            for m in ("vectorized", "sequential")
        ]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    for name in both[0]:
        torch.testing.assert_close(both[0][name], both[1][name], rtol=1e-12, atol=1e-12)


def test_unconstraining_undoes_constraining(model):
    target = bound(model, (X, Y))
    for z in positions(target, 3):
        torch.testing.assert_close(target.unconstrain(target.constrain(z)), z)


def test_the_jacobian_of_a_dependent_support_is_in_the_density():
    """Negative control: with the first run's support the density would be another."""
    target = bound(dependent_support, (X, Y))
    z = torch.tensor([1.5, 0.3], dtype=FLOAT)
    values = target.constrain(z)
    assert 0 < values["inner"] < values["top"] == pytest.approx(np.exp(1.5))
    jacobian = float(target.log_jacobian(z))
    share = torch.sigmoid(z[1])
    assert jacobian == pytest.approx(float(1.5 + 1.5 + (share * (1 - share)).log()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constants_of_another_precision_do_no_harm(dtype):
    """Models are full of float32 constants; the target's dtype is the data's or the user's."""

    def model(x, y):
        w = pyro.sample("w", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
        s = pyro.sample("s", dist.Gamma(torch.tensor(2.0), torch.tensor(1.0)))
        factor = pyro.sample("factor", dist.LKJCholesky(2, torch.tensor(1.0)))
        scale = s + 0 * factor.sum()
        pyro.sample("y", dist.Normal(x @ w, scale), obs=y)

    target = bound(model, (X, Y), dtype=dtype)
    z = positions(target, 1)[0].to(dtype)
    assert target.log_density(z).dtype == dtype
    assert {v.dtype for v in target.constrain(z).values()} == {dtype}
    reference = bound(model, (X, Y))
    assert reference.dtype == FLOAT
    expected = float(reference.log_density(z.double()))
    assert float(target.log_density(z)) == pytest.approx(expected, rel=1e-5)


# ----------------------------------------------------------------------------------- refusals


def test_discrete_latents_are_refused_by_name():
    def mixture(y):
        with pyro.plate("row", len(y)):
            label = pyro.sample("label", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Normal(label, 1.0), obs=y)

    for refused in (mixture, pyro.infer.config_enumerate(mixture)):
        with pytest.raises(TypeError, match="site 'label' is a discrete latent") as error:
            bound(refused, Y)
        assert "enumerate" in str(error.value)


def test_a_discrete_latent_without_enumeration_is_refused_too():
    def model(y):
        rate = pyro.sample("count", dist.Poisson(3.0))
        pyro.sample("y", dist.Normal(rate, 1.0).expand([len(y)]).to_event(1), obs=y)

    with pytest.raises(TypeError, match="site 'count' is a discrete latent"):
        bound(model, Y)


def test_a_model_without_latents_is_refused():
    with pytest.raises(ValueError, match="no latent sample site"):
        bound(lambda y: pyro.sample("y", dist.Normal(0.0, 1.0), obs=y), Y)


def test_a_model_that_fails_says_on_which_shapes():
    with pytest.raises(ValueError, match=r"could not be run on data with shapes .*\(12, 2\)"):
        bound(factored, (X, Y[:5]))


# --------------------------------------------------------------------------------- minibatches


def line(x, y, mean_of, plate):
    w, s = prior()
    with plate(len(y)):
        pyro.sample("y", mean_of(x @ w, s), obs=y)


def plate_of_rows(x, y):
    line(x, y, dist.Normal, lambda n: pyro.plate("data", n))


def plate_of_all_rows(x, y):
    line(x, y, dist.Normal, lambda n: pyro.plate("data", 12, subsample_size=n))


def no_plate(x, y):
    w, s = prior()
    pyro.sample("y", dist.Normal(x @ w, s), obs=y)


def rows_and_outputs(x, y):
    """Two outputs a row, in a plate of their own left of the rows."""
    w, s = prior()
    with pyro.plate("output", 2, dim=-2), pyro.plate("data", len(y), dim=-1):
        both = torch.stack([y, -y])
        pyro.sample("y", dist.Normal(x @ w, s), obs=both)


def events_in_rows(x, y):
    w, s = prior()
    with pyro.plate("data", len(y)):
        mean = torch.stack([x @ w, x @ w], dim=-1)
        pyro.sample("y", dist.Normal(mean, s).to_event(1), obs=torch.stack([y, y], dim=-1))


def factor_of_rows(x, y):
    w, s = prior()
    with pyro.plate("data", len(y)):
        pyro.factor("fit", dist.Normal(x @ w, s).log_prob(y))


STYLES = (
    plate_of_rows,
    plate_of_all_rows,
    no_plate,
    rows_and_outputs,
    events_in_rows,
    factor_of_rows,
)
Z = torch.tensor([0.3, -0.8, 0.2], dtype=FLOAT)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 6])
@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
def test_the_mean_over_disjoint_batches_is_the_full_log_density(style, batch_size):
    """Exact for the right N/n; a prior scaled along, or a missing N/n, would break it."""
    target = bound(style, (X, Y), batch_size=batch_size)
    assert target.num_data == 12
    estimates = torch.stack(
        [
            target.log_density(Z, (X[i : i + batch_size], Y[i : i + batch_size]))
            for i in range(0, 12, batch_size)
        ]
    )
    full = density_by_trace(style, bound(style, (X, Y)), Z)
    torch.testing.assert_close(estimates.mean(), full, rtol=1e-12, atol=0)
    torch.testing.assert_close(target.log_density(Z), full, rtol=1e-12, atol=0)
    assert float(estimates.std()) > 0.1  # else the identity would hold for any scaling


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
def test_chains_have_batches_of_their_own_in_every_style(style):
    target = bound(style, (X, Y), batch_size=5)
    z, rows = Z + torch.arange(6.0)[:, None] / 10, torch.arange(30).reshape(6, 5) % 12
    with pyro.validation_enabled(False):
        together = log_density_and_gradient(target, "vectorized")(z, (X[rows], Y[rows]))
    for chain in range(6):
        alone = target.log_density(z[chain], (X[rows[chain]], Y[rows[chain]]))
        torch.testing.assert_close(together[0][chain], alone, rtol=1e-11, atol=1e-11)


def test_without_the_scaling_the_mean_is_another():
    """Negative control: the bare model on batches, as a driver without N/n would call it."""
    full = bound(no_plate, (X, Y)).log_density(Z)
    bare = [bound(no_plate, (X[i : i + 4], Y[i : i + 4])).log_density(Z) for i in (0, 4, 8)]
    assert abs(float(torch.stack(bare).mean() - full)) > 1


def own_subsample(x, y, size=5):
    w, s = prior()
    with pyro.plate("data", 12, subsample_size=size) as i:
        fit = pyro.deterministic("fit", x[i] @ w)
        pyro.sample("y", dist.Normal(fit, s), obs=y[i])
    pyro.deterministic("mean_fit", fit.mean())
    pyro.deterministic("norm", w.square().sum())


@pytest.mark.parametrize("size", [1, 3, 4, 6])
def test_a_model_that_subsamples_itself_is_given_its_rows(size):
    target = bound(partial(own_subsample, size=size), (X, Y))
    assert (target.num_data, target.batch_size) == (12, size)
    rows = torch.arange(12).reshape(-1, size).flip(0)
    estimates = torch.stack([target.log_density(Z, (batch,)) for batch in rows])
    full = bound(no_plate, (X, Y)).log_density(Z)
    torch.testing.assert_close(estimates.mean(), full, rtol=1e-12, atol=0)
    assert float(estimates.std()) > 0.1


def test_chains_of_a_model_that_subsamples_itself_have_rows_of_their_own():
    target = bound(own_subsample, (X, Y))
    z, rows = Z + torch.arange(6.0)[:, None] / 10, (torch.arange(30).reshape(6, 5) % 12,)
    with pyro.validation_enabled(False):
        together = log_density_and_gradient(target, "vectorized")(z, rows)
        alone = log_density_and_gradient(target, "sequential")(z, rows)
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_a_latent_plate_of_the_batchs_size_is_not_mistaken_for_rows():
    def model(x, y):
        with pyro.plate("feature", 2):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("prior_point", 2):
            pyro.sample("anchor", dist.Normal(w.sum(), 1.0), obs=torch.ones(2))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    target = bound(model, (X, Y), batch_size=2)
    z = Z[:2]
    estimates = [target.log_density(z, (X[i : i + 2], Y[i : i + 2])) for i in range(0, 12, 2)]
    torch.testing.assert_close(torch.stack(estimates).mean(), target.log_density(z))


def local(x, y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def local_in_own_subsample(x, y):
    with pyro.plate("data", 12, subsample_size=4) as i:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y[i])


def event_of_rows(x, y):
    w = weights()
    pyro.sample("y", dist.Normal(x @ w, 1.0).to_event(1), obs=y)


def joint_of_rows(x, y):
    w = weights()
    covariance = torch.eye(len(y), dtype=y.dtype) + 0.5
    pyro.sample("y", dist.MultivariateNormal(x @ w, covariance), obs=y)


def summed_factor(x, y):
    w = weights()
    pyro.factor("fit", dist.Normal(x @ w, 1.0).log_prob(y).sum())


def prior_of_rows(x, y):
    w = pyro.sample("w", dist.Normal(0.0, y.std()).expand([2]).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def prior_of_own_rows(x, y):
    plate = pyro.plate("data", 12, subsample_size=4)
    with plate as i:
        scale = y[i].std()
    w = pyro.sample("w", dist.Normal(0.0, scale))
    with plate as i:
        pyro.sample("y", dist.Normal(w, 1.0), obs=y[i])


def likelihood_outside(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 12, subsample_size=4) as i:
        pyro.sample("y", dist.Normal(w, 1.0), obs=y[i])
    pyro.sample("mean", dist.Normal(w, 1.0), obs=x[i].mean())


def two_subsamples(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 12, subsample_size=4) as i:
        pyro.sample("y", dist.Normal(w, 1.0), obs=y[i])
    with pyro.plate("more", 12, subsample_size=3) as i:
        pyro.sample("x", dist.Normal(w, 1.0), obs=x[i, 0])


@pytest.mark.parametrize(
    ("model", "batch_size", "message"),
    [
        (local, 4, "site 'z' is a latent variable per row"),
        (local_in_own_subsample, None, "site 'z' is a latent variable per row"),
        (event_of_rows, 4, "site 'y' depends on the rows but not row by row"),
        (joint_of_rows, 4, "site 'y' depends on the rows but not row by row"),
        (summed_factor, 4, "site 'fit' depends on the rows but not row by row"),
        (prior_of_rows, 4, "prior of site 'w' depends on the rows"),
        (prior_of_own_rows, None, "prior of site 'w' depends on the rows"),
        (likelihood_outside, None, "site 'mean' depends on the rows"),
        (two_subsamples, None, r"subsamples in several plates, \['data', 'more'\]"),
        (own_subsample, 4, "`batch_size` is 4, but the model subsamples 5 rows itself"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_models_that_minibatches_would_bias_are_refused(model, batch_size, message):
    with pytest.raises(ValueError, match=message):
        bound(model, (X, Y), batch_size=batch_size)


@pytest.mark.parametrize("model", [event_of_rows, summed_factor], ids=lambda m: m.__name__)
def test_rows_that_are_all_alike_do_not_hide_a_summed_likelihood(model):
    with pytest.raises(ValueError, match="depends on the rows but not row by row"):
        bound(
            model, (torch.ones(12, 2, dtype=FLOAT), torch.ones(12, dtype=FLOAT)), batch_size=4
        )


def test_the_right_size_may_be_repeated_to_a_model_that_subsamples_itself():
    assert bound(own_subsample, (X, Y), batch_size=5).batch_size == 5


# ------------------------------------------------------------------------------- what is kept


def deterministic_sites(x, y):
    w = weights()
    pyro.deterministic("norm", w.square().sum())
    with pyro.plate("data", len(y)):
        mean = pyro.deterministic("mean", x @ w)
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    pyro.deterministic("total", mean.sum())
    pyro.deterministic("last", mean[-1])


def test_deterministic_sites_are_recorded_beside_the_latents():
    values = bound(deterministic_sites, (X, Y)).constrain(Z[:2])
    assert set(values) == {"w", "norm", "mean", "total", "last"}
    torch.testing.assert_close(values["mean"], X @ Z[:2])
    torch.testing.assert_close(values["norm"], Z[:2].square().sum())


@pytest.mark.parametrize("x", [X, torch.ones_like(X)], ids=["rows", "equal rows"])
def test_deterministic_sites_of_rows_are_dropped_under_minibatches(x):
    values = bound(deterministic_sites, (x, Y), batch_size=4).constrain(Z[:2])
    assert set(values) == {"w", "norm"} | ({"last"} if x is not X else set())  # equal indeed
    assert set(bound(own_subsample, (X, Y)).constrain(Z)) == {"w", "s", "norm"}


def test_plates_name_the_axes_of_latent_and_deterministic_sites():
    target = bound(nested_plates, (X, Y))
    assert target.plates["level"] == {0: "group"}
    assert target.plates["loading"] == {0: "group", 1: "member"}
    assert bound(deterministic_sites, (X, Y)).plates["mean"] == {0: "data"}


# ------------------------------------------------------ likelihood and prediction of one draw


@pytest.mark.parametrize(
    "style",
    [plate_of_rows, no_plate, plate_of_all_rows, own_subsample],
    ids=lambda style: style.__name__,
)
def test_the_log_likelihood_has_one_unscaled_value_a_row(style):
    batch_size = None if style is own_subsample else 5
    target = bound(style, (X, Y), batch_size=batch_size)
    found = target.log_likelihood(target.constrain(Z))
    assert set(found) == {"y"}  # a prior factor is no likelihood
    expected = dist.Normal(X @ Z[:2], Z[2].exp()).log_prob(Y)
    torch.testing.assert_close(found["y"], expected)


def test_outputs_of_a_self_subsampling_model_are_joined_along_its_rows():
    def model(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with (
            pyro.plate("output", 2, dim=-2),
            pyro.plate("data", 12, subsample_size=5, dim=-1) as i,
        ):
            both = torch.stack([y[i], -y[i]])
            pyro.sample("y", dist.Normal(w * x[i, 0], 1.0), obs=both)

    target = bound(model, (X, Y))
    values = {"w": torch.tensor(0.7, dtype=FLOAT)}
    expected = dist.Normal(0.7 * X[:, 0], 1.0).log_prob(torch.stack([Y, -Y]))
    torch.testing.assert_close(target.log_likelihood(values)["y"], expected)
    torch.testing.assert_close(target.observed_data()["y"], torch.stack([Y, -Y]))
    with scoped_seed(0):
        assert target.posterior_predictive(values)["y"].shape == (2, 12)


def test_observed_data_are_those_of_the_observed_sites_in_full():
    for model in (no_plate, own_subsample):
        observed = bound(model, (X, Y)).observed_data()
        assert set(observed) == {"y"}
        torch.testing.assert_close(observed["y"], Y)


def test_new_data_may_have_another_number_of_rows():
    target = bound(no_plate, (X, Y), batch_size=3)
    values = target.constrain(Z)
    assert target.log_likelihood(values, (X[:7], Y[:7]))["y"].shape == (7,)
    with scoped_seed(0):
        assert target.posterior_predictive(values, (X[:7], Y[:7]))["y"].shape == (7,)


def test_an_observed_distribution_needs_no_support():
    class Bare(dist.TorchDistribution):
        """A likelihood known by its density alone."""

        arg_constraints = {}  # noqa: RUF012

        def __init__(self, loc):
            self.loc = loc
            super().__init__(batch_shape=loc.shape, validate_args=False)

        def log_prob(self, value):
            return -((value - self.loc) ** 2)

    def model(x, y):
        w = weights()
        with pyro.plate("data", len(y)):
            pyro.sample("y", Bare(x @ w), obs=y)

    target = bound(model, (X, Y))
    expected = dist.Normal(0.0, 1.0).log_prob(Z[:2]).sum() - (Y - X @ Z[:2]).square().sum()
    torch.testing.assert_close(target.log_density(Z[:2]), expected)


def test_parameters_of_the_model_are_held_and_stay_out_of_the_global_store():
    def model(y):
        scale = pyro.param("scale", torch.tensor(2.0, dtype=FLOAT), constraints.positive)
        w = pyro.sample("w", dist.Normal(0.0, scale))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(w, 1.0), obs=y)

    def expected(scale):
        prior = dist.Normal(0.0, scale).log_prob(Z[0])
        return prior + dist.Normal(Z[0], 1.0).log_prob(Y).sum()

    initial = bound(model, Y)
    torch.testing.assert_close(initial.log_density(Z[:1]).detach(), expected(2.0))
    assert not list(pyro.get_param_store())
    with pyro.get_param_store().scope():  # a value learnt before is the one that counts
        pyro.get_param_store().setdefault(
            "scale", torch.tensor(0.5, dtype=FLOAT), constraints.positive
        )
        learnt = bound(model, Y)
    torch.testing.assert_close(learnt.log_density(Z[:1]).detach(), expected(0.5))
    with scoped_seed(0):
        module = bound(Line(), (X, Y))
    module.log_density(Z)
    assert not list(pyro.get_param_store())
