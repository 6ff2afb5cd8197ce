"""NumPyro models and JAX log densities as targets, beside the same in Pyro and torch."""

import sys

import numpy as np
import pyro
import pyro.distributions as pyro_dist
import pytest
import torch

import inference
from inference.backends import choose_backend
from inference.binding import bind
from inference.labels import label_axes
from inference.rng import scoped_seed

with scoped_seed(0):  # importing NumPyro moves NumPy's global generator
    jax = pytest.importorskip("jax", reason="needs the extra 'jax'")
    numpyro = pytest.importorskip("numpyro", reason="needs the extra 'jax'")
import jax.numpy as jnp
import numpyro.distributions as dist

SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(24, 2))
Y = X @ np.array([1.0, -1.0]) + 0.5 * _RNG.normal(size=24)
POSITIONS = torch.linspace(-1, 1.3, 20, dtype=torch.float64).reshape(2, 10)


def schools(sigma, y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfNormal(5.0))
    with numpyro.plate("school", len(sigma)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def schools_in_pyro(sigma, y):
    mu = pyro.sample("mu", pyro_dist.Normal(torch.zeros(()).double(), 5.0))
    tau = pyro.sample("tau", pyro_dist.HalfNormal(torch.full((), 5.0).double()))
    with pyro.plate("school", len(sigma)):
        z = pyro.sample("z", pyro_dist.Normal(torch.zeros(()).double(), 1.0))
        theta = pyro.deterministic("theta", mu + tau * z)
        pyro.sample("y", pyro_dist.Normal(theta, sigma), obs=y)


def target(model, data, batch_size=None, dtype=None, backend="auto"):
    return bind(model, data, batch_size=batch_size, dtype=dtype, device=None, backend=backend)


@pytest.fixture(scope="module")
def pair():
    """The eight schools in NumPyro and in Pyro."""
    return target(schools, (SIGMA, EFFECT)), target(schools_in_pyro, (SIGMA, EFFECT))


def assert_named_close(found, expected):
    assert list(found) == list(expected)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10)


def test_a_model_has_the_density_of_its_twin_in_pyro(pair):
    mine, other = (torch.func.vmap(t.log_density)(POSITIONS) for t in pair)
    torch.testing.assert_close(mine, other, rtol=1e-10, atol=0)
    ours, theirs = (t.terms(POSITIONS[0]) for t in pair)
    assert_named_close(ours, theirs)
    first, second = (torch.func.vmap(t.log_jacobian)(POSITIONS) for t in pair)
    torch.testing.assert_close(first, second, rtol=1e-10, atol=0)


def test_a_model_has_the_values_of_its_twin(pair):
    values = [torch.func.vmap(t.constrain)(POSITIONS) for t in pair]
    assert_named_close(values[0], {n: values[1][n] for n in ("mu", "tau", "z", "theta")})
    back = torch.func.vmap(pair[0].unconstrain)(values[0])
    torch.testing.assert_close(back, POSITIONS, rtol=1e-10, atol=1e-10)
    assert_named_close(
        torch.func.vmap(pair[0].log_likelihood)(values[0]),
        torch.func.vmap(pair[1].log_likelihood)(values[0]),
    )
    some = {n: v[0] for n, v in values[0].items()}
    new = (SIGMA[:3], EFFECT[:3] + 1)
    theta = {n: v[..., :3] if v.ndim else v for n, v in some.items()}
    assert_named_close(pair[0].log_likelihood(theta, new), pair[1].log_likelihood(theta, new))
    assert_named_close(pair[0].observed_data(), pair[1].observed_data())


def test_plates_name_axes(pair):
    assert pair[0].plates == pair[1].plates
    axes = label_axes(pair[0], POSITIONS[0], None, None)
    assert axes == {"mu": [], "tau": [], "z": ["school"], "theta": ["school"]}


def test_data_are_drawn_by_the_model(pair):
    values = pair[0].constrain(POSITIONS[0])
    with scoped_seed(1):
        one, two = (pair[0].posterior_predictive(values)["y"] for _ in range(2))
    with scoped_seed(1):
        again = pair[0].posterior_predictive(values)["y"]
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    with scoped_seed(1):
        draws = torch.stack([pair[0].posterior_predictive(values)["y"] for _ in range(400)])
    error = (draws.mean(0) - values["theta"]) / torch.from_numpy(SIGMA) * 20
    assert float(error.abs().max()) < 4
    assert float((draws.std(0) / torch.from_numpy(SIGMA) - 1).abs().max()) < 4 / 800**0.5


def test_the_prior_is_drawn_by_the_model(pair):
    with scoped_seed(2):
        tau = torch.stack([pair[0].prior()["tau"] for _ in range(400)])
    assert abs(float(tau.square().mean()) / 25 - 1) < 4 * (2 / 400) ** 0.5
    assert torch.equal(pair[0].sample_prior(5), pair[0].sample_prior(5))
    assert not torch.equal(pair[0].sample_prior(5), pair[0].sample_prior(6))


# --------------------------------------------------------------------------------- minibatches


def rows_of_any_number(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    residual = numpyro.deterministic("residual", y - x @ w)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)
    del residual


def rows_of_a_plate(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", 24, subsample_size=len(y)):
        numpyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def own_rows(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", 24, subsample_size=5) as rows:
        numpyro.sample("y", dist.Normal(x[rows] @ w, 0.5), obs=y[rows])


def gaussian_log_density(w, rows):
    """What the three are, N/n times the likelihood of some rows."""
    z = (Y[rows] - X[rows] @ w) / 0.5
    scale = len(Y) / len(z)
    prior = -0.5 * w @ w - np.log(2 * np.pi)
    return prior + scale * (-0.5 * z**2 - np.log(0.5 * np.sqrt(2 * np.pi))).sum()


@pytest.mark.parametrize(
    ("model", "batch_size"), [(rows_of_any_number, 5), (rows_of_a_plate, 5), (own_rows, None)]
)
def test_minibatches_are_scaled(model, batch_size):
    bound = target(model, (X, Y), batch_size)
    assert (bound.num_data, bound.batch_size) == (24, 5)
    w = torch.tensor([0.3, -0.4], dtype=torch.float64)
    rows = torch.tensor([2, 3, 7, 11, 23])
    leaves = tuple(leaf[rows] for leaf in bound.leaves)
    expected = gaussian_log_density(w.numpy(), rows.numpy())
    assert float(bound.log_density(w, leaves)) == pytest.approx(expected, rel=1e-12)
    batch = tuple(torch.stack([leaf, leaf]) for leaf in leaves)
    values, gradients = bound.evaluate(torch.stack([w, w]), batch)
    slope = -w.numpy() + 24 / 5 * X[rows].T @ (Y[rows] - X[rows] @ w.numpy()) / 0.25
    np.testing.assert_allclose(values, [expected] * 2, rtol=1e-12)
    np.testing.assert_allclose(gradients, [slope] * 2, rtol=1e-12)
    assert bound.log_likelihood({"w": w})["y"].shape == (24,)
    assert set(bound.constrain(w)) == {"w"}


def local(x, y):
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(x[:, 0] * z, 0.5), obs=y)


def test_a_latent_variable_per_row_is_refused():
    with pytest.raises(ValueError, match="'z' is a latent variable per row"):
        target(local, (X, Y), 5)


# ------------------------------------------------------------------------------- log densities


def in_jax(**options):
    """Linear regression with a scale, prior and likelihood apart."""
    return inference.LogDensity(
        log_prior=lambda p: -0.5 * (p["w"] ** 2).sum() - p["noise"]["scale"],
        log_lik=lambda p, rows: (
            -0.5 * ((rows[1] - rows[0] @ p["w"]) / p["noise"]["scale"]) ** 2
            - jnp.log(p["noise"]["scale"])
        ),
        params={"w": jnp.zeros(2), "noise": {"scale": jnp.ones(())}},
        constraints={"noise.scale": dist.constraints.positive},
        **options,
    )


def in_torch():
    return inference.LogDensity(
        log_prior=lambda p: -0.5 * (p["w"] ** 2).sum() - p["noise"]["scale"],
        log_lik=lambda p, rows: (
            -0.5 * ((rows[1] - rows[0] @ p["w"]) / p["noise"]["scale"]) ** 2
            - torch.log(p["noise"]["scale"])
        ),
        params={"w": torch.zeros(2), "noise": {"scale": torch.ones(())}},
        constraints={"noise.scale": torch.distributions.constraints.positive},
    )


def test_a_log_density_is_its_twin_in_torch():
    mine, other = (target(t, (X, Y), 5, torch.float64) for t in (in_jax(), in_torch()))
    positions = POSITIONS[:, :3].contiguous()
    rows = tuple(leaf[3:8] for leaf in mine.leaves)
    for leaves in (None, rows):
        torch.testing.assert_close(
            mine.log_density(positions[0], leaves), other.log_density(positions[0], leaves)
        )
    values = mine.constrain(positions[0])
    assert_named_close(values, other.constrain(positions[0]))
    assert_named_close(mine.terms(positions[0]), other.terms(positions[0]))
    assert_named_close(mine.log_likelihood(values), other.log_likelihood(values))
    torch.testing.assert_close(mine.unconstrain(values), positions[0])
    torch.testing.assert_close(
        mine.log_jacobian(positions[0]), other.log_jacobian(positions[0])
    )
    described = mine.describe()
    assert described.pop("backend") == "jax"
    assert described == other.describe()


def test_a_mean_is_scaled():
    spec = inference.LogDensity(
        log_density=lambda p: -(p["x"] ** 2),
        scale="mean",
        params={"x": jnp.zeros(())},
        num_data=10,
    )
    point = torch.tensor([2.0])
    assert float(target(spec, None).log_density(point)) == -40.0


def test_the_dtype_follows_the_data_or_the_parameters():
    assert target(schools, (jnp.asarray(SIGMA), jnp.asarray(EFFECT))).dtype == torch.float32
    assert target(schools, (SIGMA, EFFECT)).dtype == torch.float64
    assert target(in_jax(), (X, Y)).dtype == torch.float32


# ----------------------------------------------------------------------------- which backend


def test_the_backend_follows_the_target():
    assert choose_backend("auto", in_jax(), (X, Y)) == "jax"
    assert choose_backend("auto", in_torch(), (X, Y)) == "torch"
    assert choose_backend("auto", schools, (SIGMA, EFFECT)) == "jax"
    assert choose_backend("auto", schools_in_pyro, (SIGMA, EFFECT)) == "torch"
    assert choose_backend("auto", schools, {"sigma": SIGMA, "y": EFFECT}) == "jax"


def test_asking_a_pyro_model_leaves_no_trace():
    def model(y):
        loc = pyro.param("loc", torch.zeros(()))
        pyro.sample("y", pyro_dist.Normal(loc, 1.0))

    before = torch.get_rng_state()
    assert choose_backend("auto", model, EFFECT) == "torch"
    assert torch.equal(before, torch.get_rng_state())
    assert not list(pyro.get_param_store())


@pytest.mark.parametrize(
    ("spec", "backend", "message"),
    [
        (in_jax, "torch", "`params` are JAX arrays"),
        (in_torch, "jax", "`params` are tensors"),
        (lambda: schools, "torch", "does not fit a NumPyro model"),
        (lambda: schools_in_pyro, "jax", "could not be traced by JAX"),
        (in_jax, "numpy", "`backend` must be one of"),
    ],
)
def test_a_backend_that_does_not_fit_is_refused(spec, backend, message):
    with pytest.raises(ValueError, match=message):
        target(spec(), (SIGMA, EFFECT), backend=backend)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "inference.jax_backend.numpyro_model", None)
    with pytest.raises(ImportError, match=r"needs JAX and NumPyro .*probnet-bayes\[jax\]"):
        target(schools, (SIGMA, EFFECT), backend="jax")


# ---------------------------------------------------------------------------------- bad input


def discrete(y):
    k = numpyro.sample("k", dist.Bernoulli(0.5))
    numpyro.sample("y", dist.Normal(k, 1.0), obs=y)


def branching(y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(1.0 if a > 0 else -1.0, 1.0), obs=y)


def impossible(y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    numpyro.factor("forbidden", -jnp.inf)
    numpyro.sample("y", dist.Normal(a, 1.0), obs=y)


def observed_only(y):
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def density(**options):
    return inference.LogDensity(**({"params": {"x": jnp.zeros(3)}} | options))


BAD = {
    "discrete": (lambda: (discrete, EFFECT), {}, TypeError, "'k' is a discrete latent"),
    "branch": (lambda: (branching, EFFECT), {}, ValueError, "could not be traced by JAX"),
    "no latent": (lambda: (observed_only, EFFECT), {}, ValueError, "no latent sample site"),
    "impossible": (
        lambda: (impossible, EFFECT),
        {},
        inference.InitError,
        "not finite: forbidden",
    ),
    "NaN": (
        lambda: (schools, (SIGMA, np.where(EFFECT < 0, np.nan, EFFECT))),
        {},
        ValueError,
        r"`data\[1\]` holds 2 non-finite values",
    ),
    "missing data": (lambda: (schools, SIGMA), {"backend": "jax"}, ValueError, "'y'"),
    "batch size": (
        lambda: (rows_of_any_number, (X, Y)),
        {"batch_size": 25},
        ValueError,
        "`batch_size` must be at most",
    ),
    "sequential": (
        lambda: (schools, (SIGMA, EFFECT)),
        {"chain_method": "sequential"},
        ValueError,
        "jax.lax.cond",
    ),
    "not compiled": (
        lambda: (schools, (SIGMA, EFFECT)),
        {"compile": False},
        ValueError,
        "always compiled",
    ),
    "device": (
        lambda: (schools, (SIGMA, EFFECT)),
        {"device": "meta"},
        ValueError,
        "`device` is torch's",
    ),
    "integers": (
        lambda: (density(log_prior=lambda p: 0.0, params={"x": jnp.arange(3)}), None),
        {},
        TypeError,
        "parameter `x` has dtype torch.int32",
    ),
    "no scalar": (
        lambda: (density(log_prior=lambda p: p["x"]), None),
        {},
        ValueError,
        "`log_prior` must return a scalar",
    ),
    "no rows": (
        lambda: (density(log_prior=lambda p: 0.0, log_lik=lambda p, y: p["x"].sum()), Y),
        {},
        ValueError,
        "`log_lik` must return one value per row",
    ),
    "constraint of torch": (
        lambda: (
            density(
                log_prior=lambda p: 0.0,
                constraints={"x": torch.distributions.constraints.positive},
            ),
            None,
        ),
        {},
        TypeError,
        "must be a NumPyro constraint",
    ),
    "constraint of integers": (
        lambda: (
            density(log_prior=lambda p: 0.0, constraints={"x": dist.constraints.boolean}),
            None,
        ),
        {},
        TypeError,
        "must be a constraint on real numbers",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(case):
    make, options, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        inference.sample(*make(), num_warmup=2, num_samples=2, progress=False, **options)
