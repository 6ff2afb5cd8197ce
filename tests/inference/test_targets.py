"""`LogDensity`: scaling, change of variables, and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch
from pyro.distributions import constraints
from torch.distributions import (
    Beta,
    Dirichlet,
    Exponential,
    Gamma,
    LKJCholesky,
    Normal,
    Uniform,
)

from inference import LogDensity
from inference.binding import bind
from inference.gradients import log_density_and_gradient

FLOAT = torch.float64


def bound(spec, data=None, batch_size=None, dtype=None):
    return bind(spec, data, batch_size=batch_size, dtype=dtype, device=None)


def regression(num_data=None, **options):
    """y ~ N(x·w + b, s), on 12 rows."""
    x = torch.linspace(-1, 1, 24, dtype=FLOAT).reshape(12, 2)
    y = torch.sin(3 * x[:, 0])
    spec = LogDensity(
        log_prior=lambda p: (
            Normal(0, 1).log_prob(p["line"]["w"]).sum()
            + Normal(0, 2).log_prob(p["line"]["b"])
            + Exponential(1.0).log_prob(p["s"])
        ),
        log_lik=lambda p, d: Normal(d[0] @ p["line"]["w"] + p["line"]["b"], p["s"]).log_prob(
            d[1]
        ),
        params={"line": {"w": torch.zeros(2, dtype=FLOAT), "b": 0.5}, "s": torch.tensor(1.0)},
        constraints={"s": constraints.positive},
        num_data=num_data,
        **options,
    )
    return spec, (x, y)


# ------------------------------------------------------------------------- parameters and rows


def test_nested_parameters_are_named_by_their_path_and_handed_over_nested():
    spec, data = regression()
    target = bound(spec, data)
    assert {n: tuple(s) for n, s in target.layout.shapes.items()} == {
        "line.w": (2,),
        "line.b": (),
        "s": (),
    }
    assert target.num_data == 12
    assert set(target.constrain(torch.zeros(4, dtype=FLOAT))) == {"line.w", "line.b", "s"}


def test_the_log_density_is_prior_plus_rows_plus_jacobian():
    spec, (x, y) = regression()
    z = torch.tensor([0.3, -0.2, 0.1, -0.7], dtype=FLOAT)
    w, b, s = z[:2], z[2], z[3].exp()
    expected = (
        Normal(0, 1).log_prob(w).sum()
        + Normal(0, 2).log_prob(b)
        + Exponential(1.0).log_prob(s)
        + Normal(x @ w + b, s).log_prob(y).sum()
        + z[3]
    )
    torch.testing.assert_close(bound(spec, (x, y)).log_density(z), expected)


def test_chains_side_by_side_have_the_densities_and_gradients_of_chains_alone():
    spec, data = regression()
    target = bound(spec, data, batch_size=5)
    z = torch.linspace(-2, 2, 64 * 4, dtype=FLOAT).reshape(64, 4)
    rows = torch.arange(64 * 5).reshape(64, 5) % 12
    batch = tuple(leaf[rows] for leaf in target.leaves)
    together = log_density_and_gradient(target, "vectorized")(z, batch)
    alone = log_density_and_gradient(target, "sequential")(z, batch)
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 6, 12])
def test_the_mean_over_disjoint_batches_is_the_full_log_density(batch_size):
    spec, data = regression()
    target = bound(spec, data, batch_size=batch_size)
    z = torch.tensor([0.3, -0.2, 0.1, -0.7], dtype=FLOAT)
    batches = [
        tuple(leaf[i : i + batch_size] for leaf in target.leaves)
        for i in range(0, 12, batch_size)
    ]
    estimates = torch.stack([target.log_density(z, batch) for batch in batches])
    torch.testing.assert_close(estimates.mean(), target.log_density(z), rtol=1e-13, atol=0)
    if batch_size < 12:  # else the identity would hold for any scaling
        assert float(estimates.std()) > 0.1


def test_a_batch_of_all_rows_is_no_minibatch():
    spec, data = regression()
    assert bound(spec, data, batch_size=12).batch_size is None
    assert bound(spec, data, batch_size=11).batch_size == 11


@pytest.mark.parametrize("kind", ["tensor", "tuple", "list", "dict", "with a constant"])
def test_the_likelihood_gets_the_data_in_the_users_structure(kind):
    rows = np.arange(4.0)
    data = {
        "tensor": rows,
        "tuple": (rows, rows),
        "list": [rows, rows],
        "dict": {"x": rows, "y": rows},
        "with a constant": {"x": rows, "scale": "unit"},
    }[kind]
    seen = []

    def log_lik(p, d):
        seen.append(d)
        x = d if kind == "tensor" else d["x"] if isinstance(d, dict) else d[0]
        return Normal(p["m"], 1).log_prob(x)

    spec = LogDensity(lambda p: -(p["m"] ** 2), log_lik, {"m": torch.zeros(())})
    target = bound(spec, data, batch_size=2)
    target.log_density(torch.zeros(1), tuple(leaf[:2] for leaf in target.leaves))
    assert isinstance(
        seen[-1], {"tensor": torch.Tensor, "tuple": tuple, "list": tuple}.get(kind, dict)
    )
    if kind == "with a constant":
        assert seen[-1]["scale"] == "unit"
        assert len(seen[-1]["x"]) == 2


def test_python_numbers_among_the_parameters_do_not_widen_them():
    spec = LogDensity(lambda p: -(p["a"] ** 2) - p["b"], params={"a": torch.ones(()), "b": 0.5})
    assert bound(spec).dtype == torch.float32


def test_the_dtype_is_that_of_the_parameters_and_the_data_follow():
    x, flags = np.arange(3.0), np.array([True, False, True])
    for dtype in (torch.float32, torch.float64):
        spec = LogDensity(
            lambda p: -(p["m"] ** 2),
            lambda p, d: Normal(p["m"], 1).log_prob(d[0]) * d[1],
            {"m": torch.zeros((), dtype=dtype)},
        )
        target = bound(spec, (x, flags))
        assert target.dtype == dtype
        assert [leaf.dtype for leaf in target.leaves] == [dtype, torch.bool]
        assert target.log_density(torch.zeros(1, dtype=dtype)).dtype == dtype
    assert bound(spec, (x, flags), dtype=torch.float32).leaves[0].dtype == torch.float32


def test_the_log_likelihood_of_rows_is_unscaled_and_takes_new_data():
    spec, (x, y) = regression()
    target = bound(spec, (x, y), batch_size=3)
    values = {
        "line.w": torch.ones(2, dtype=FLOAT),
        "line.b": torch.zeros(()),
        "s": torch.ones(()),
    }
    expected = Normal(x.sum(-1), 1).log_prob(y)
    torch.testing.assert_close(target.log_likelihood(values)["log_lik"], expected)
    new = target.log_likelihood(values, (x[:5], y[:5]))["log_lik"]
    torch.testing.assert_close(new, expected[:5])


def test_a_target_describes_itself_in_json():
    spec, data = regression(num_data=12)
    described = json.loads(json.dumps(bound(spec, data, batch_size=4).describe()))
    assert described == {
        "parameters": {"line.w": [2], "line.b": [], "s": []},
        "dtype": "float64",
        "num_data": 12,
        "batch_size": 4,
    }


# -------------------------------------------------------------------------- change of variables

CHANGES = {
    "positive": (constraints.positive, Gamma(2.0, 3.0), ()),
    "nonnegative": (constraints.nonnegative, Exponential(0.7), ()),
    "unit interval": (constraints.unit_interval, Beta(2.0, 1.5), ()),
    "interval": (constraints.interval(-1.0, 3.0), Uniform(-1.0, 3.0), ()),
    "above": (constraints.greater_than(2.0), Gamma(2.0, 3.0), ()),
    "below": (constraints.less_than(1.0), Normal(0.0, 1.0), ()),
    "two at once": (constraints.positive, Gamma(2.0, 3.0), (2,)),
    "independent": (constraints.independent(constraints.positive, 1), Gamma(2.0, 3.0), (2,)),
    "simplex": (constraints.simplex, Dirichlet(torch.tensor([2.0, 1.5, 3.0])), (3,)),
    "correlation": (constraints.corr_cholesky, LKJCholesky(2, 1.5), (2, 2)),
    "ordered": (constraints.ordered_vector, Normal(0.0, 1.0), (2,)),
    "real": (constraints.real, Normal(1.0, 2.0), ()),
}
MASS = {"above": 7 * math.exp(-6), "below": float(Normal(0.0, 1.0).cdf(torch.tensor(1.0)))}
MASS["ordered"] = 0.5  # of two independent normals, the first is the smaller


@pytest.mark.parametrize("name", CHANGES)
def test_the_density_of_unconstrained_parameters_has_the_mass_of_the_prior(name):
    """∫ exp(log_density(z)) dz over R^d equals the prior's mass on the support.

    The integrands are analytic and vanish at the ends, so the trapezoidal rule is exact to
    rounding; what lies beyond ±24 weighs less than exp(−24).
    """
    constraint, law, shape = CHANGES[name]
    start = {"positive": 1.0}.get(name, 0.5)
    params = torch.full(shape, start, dtype=FLOAT)
    spec = LogDensity(
        lambda p: law.log_prob(p["x"]).sum(),
        params={"x": params},
        constraints={"x": constraint},
    )
    target = bound(spec)
    axis = torch.linspace(-24, 24, 4001 if target.layout.dim == 1 else 481, dtype=FLOAT)
    grid = torch.cartesian_prod(*[axis] * target.layout.dim).reshape(-1, target.layout.dim)
    with torch.no_grad():
        density = torch.func.vmap(target.log_density)(grid).exp()
    mass = float(density.sum()) * float(axis[1] - axis[0]) ** target.layout.dim
    assert mass == pytest.approx(MASS.get(name, 1.0), rel=1e-5)


def test_without_the_jacobian_the_mass_is_another():
    """Negative control of the test above."""
    axis = torch.linspace(-24, 24, 4001, dtype=FLOAT)
    forgotten = float(Gamma(2.0, 3.0).log_prob(axis.exp()).exp().sum()) * 48 / 4000
    assert abs(forgotten - 1) > 0.5


@pytest.mark.parametrize("name", CHANGES)
def test_constraining_undoes_unconstraining(name):
    constraint, _, shape = CHANGES[name]
    spec = LogDensity(
        lambda p: p["x"].sum() * 0,
        params={"x": torch.full(shape, 0.5)},
        constraints={"x": constraint},
    )
    target = bound(spec, dtype=FLOAT)
    z = torch.linspace(-1.5, 2, target.layout.dim, dtype=FLOAT)
    values = target.constrain(z)
    assert values["x"].shape == torch.Size(shape)
    assert bool(constraint.check(values["x"]).all())
    torch.testing.assert_close(target.unconstrain(values), z)


# ------------------------------------------------------------------------------- a bare density


def test_a_mean_log_density_is_multiplied_by_the_number_of_data():
    """Collapsed posteriors come from forgetting this."""
    y = np.arange(5.0)

    def total(p, d):
        return Normal(p["m"], 1).log_prob(d).sum()

    def average(p, d):
        return total(p, d) / 5

    params, z = {"m": torch.zeros((), dtype=FLOAT)}, torch.tensor([0.4], dtype=FLOAT)
    summed = bound(LogDensity(log_density=total, scale="sum", params=params), y)
    mean = bound(LogDensity(log_density=average, scale="mean", params=params, num_data=5), y)
    torch.testing.assert_close(mean.log_density(z), summed.log_density(z))
    assert "log_density" in mean.terms(z)


def test_the_jacobian_is_not_multiplied_by_the_number_of_data():
    spec = LogDensity(
        log_density=lambda p: -p["s"],
        scale="mean",
        params={"s": torch.ones((), dtype=FLOAT)},
        constraints={"s": constraints.positive},
        num_data=10,
    )
    z = torch.tensor([0.3], dtype=FLOAT)
    torch.testing.assert_close(bound(spec).log_density(z), -10 * z[0].exp() + z[0])


def test_a_bare_density_without_data_takes_the_parameters_alone():
    spec = LogDensity(
        log_density=lambda p: -(p["x"] ** 2).sum(), scale="sum", params={"x": torch.ones(3)}
    )
    target = bound(spec)
    assert target.num_data is None
    assert float(target.log_density(torch.full((3,), 2.0))) == -12


def test_a_bare_density_scales_its_own_minibatch():
    """It gets the batch; with scale='mean' its mean over the batch stands for that of all."""
    y = torch.arange(6.0, dtype=FLOAT)
    spec = LogDensity(
        log_density=lambda p, d: Normal(p["m"], 1).log_prob(d).mean(),
        scale="mean",
        params={"m": torch.zeros((), dtype=FLOAT)},
        num_data=6,
    )
    target, z = bound(spec, y, batch_size=2), torch.tensor([0.4], dtype=FLOAT)
    batches = [target.log_density(z, (y[i : i + 2],)) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.stack(batches).mean(), target.log_density(z))


def test_a_prior_alone_is_a_target():
    spec = LogDensity(lambda p: -(p["x"] ** 2), params={"x": 1.0})
    assert float(bound(spec).log_density(torch.tensor([2.0]))) == -4
    with pytest.raises(ValueError, match="no `log_lik`"):
        bound(spec).log_likelihood({"x": torch.ones(())})


def test_a_flat_prior_may_return_a_python_number():
    spec = LogDensity(
        lambda p: 0.0, lambda p, d: Normal(p["m"], 1).log_prob(d), {"m": torch.zeros(())}
    )
    target = bound(spec, np.zeros(3))
    assert target.log_density(torch.zeros(1)).shape == ()
    assert all(
        torch.isfinite(torch.as_tensor(v)).all() for v in target.terms(torch.zeros(1)).values()
    )


# --------------------------------------------------------------------------------- refusals


def flat(p):
    return p["m"] * 0


def one_per_row(p, d):
    return Normal(p["m"], 1).log_prob(d)


M = {"m": torch.zeros(())}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"params": M}, ValueError, "give `log_prior`"),
        ({"log_lik": one_per_row, "params": M}, ValueError, "give `log_prior`"),
        ({"log_prior": flat}, ValueError, "`params` must be a dict with at least one tensor"),
        ({"log_prior": flat, "params": {}}, ValueError, "`params` must be a dict"),
        ({"log_density": flat, "params": M}, ValueError, "`scale` must be 'sum'.* or 'mean'"),
        (
            {"log_density": flat, "scale": "mean", "params": M},
            ValueError,
            "`num_data` is needed with scale='mean'",
        ),
        (
            {"log_density": flat, "scale": "average", "params": M, "num_data": 1},
            ValueError,
            "`scale` must be one of",
        ),
        (
            {"log_prior": flat, "scale": "sum", "params": M},
            ValueError,
            "`scale` belongs to `log_density`",
        ),
        (
            {"log_density": flat, "log_prior": flat, "scale": "sum", "params": M},
            ValueError,
            "`log_density` excludes",
        ),
        (
            {"log_prior": flat, "params": {"m": torch.zeros(2, dtype=torch.int64)}},
            TypeError,
            "parameter `m` has dtype torch.int64",
        ),
        ({"log_prior": flat, "params": {"m": True}}, TypeError, "parameter `m` has dtype"),
        (
            {"log_prior": flat, "params": {"a": {"m": 3}}},
            TypeError,
            "parameter `a.m` has dtype torch.int64",
        ),
        (
            {"log_prior": flat, "params": {"m": torch.tensor(torch.nan)}},
            ValueError,
            "parameter `m` holds non-finite",
        ),
        (
            {"log_prior": flat, "params": M, "constraints": {"s": constraints.positive}},
            ValueError,
            r"`constraints` names \['s'\]",
        ),
        (
            {"log_prior": flat, "params": M, "constraints": {"m": "positive"}},
            TypeError,
            r"`constraints\['m'\]` must be a torch constraint on real numbers",
        ),
        (
            {
                "log_prior": flat,
                "params": M,
                "constraints": {"m": constraints.nonnegative_integer},
            },
            TypeError,
            r"`constraints\['m'\]` must be a torch constraint",
        ),
        (
            {"log_prior": flat, "params": M, "constraints": {"m": constraints.simplex}},
            ValueError,
            r"parameter `m` of shape \(\) cannot lie in Simplex",
        ),
        ({"log_prior": flat, "params": M, "num_data": 0}, ValueError, "`num_data` must be at"),
        ({"log_prior": flat, "params": M, "num_data": 3.0}, TypeError, "`num_data` must be an"),
    ],
)
def test_a_contradictory_log_density_is_refused_when_it_is_made(arguments, error, message):
    with pytest.raises(error, match=message):
        LogDensity(**arguments)


@pytest.mark.parametrize(
    ("change", "data", "batch_size", "message"),
    [
        ({}, None, None, "`data` is needed"),
        ({"num_data": 4}, np.zeros(3), None, "`data` has 3 rows but `num_data` is 4"),
        ({}, (np.zeros(3), np.zeros(2)), None, "one row per example"),
        ({}, np.zeros(()), None, "one row per example"),
        ({}, np.zeros((0, 2)), None, "`data` is empty"),
        ({}, {"note": "no arrays"}, None, "holds no array"),
        ({}, np.zeros(3), 4, "`batch_size` must be at most the number of data, 3; got 4"),
        ({}, np.zeros(3), 0, "`batch_size` must be at least 1"),
        (
            {"log_lik": lambda p, d: one_per_row(p, d).sum()},
            np.zeros(3),
            None,
            r"`log_lik` must return one value per row, shape \(3,\); got \(\)",
        ),
        (
            {"log_lik": lambda p, d: one_per_row(p, d)[:, None]},
            np.zeros(3),
            None,
            r"`log_lik` must return one value per row, shape \(3,\); got \(3, 1\)",
        ),
        (
            {"log_prior": lambda p: p["m"][None]},
            np.zeros(3),
            None,
            r"`log_prior` must return a scalar; got shape \(1,\)",
        ),
    ],
)
def test_data_and_outputs_of_the_wrong_shape_are_refused(change, data, batch_size, message):
    spec = LogDensity(**{"log_prior": flat, "log_lik": one_per_row, "params": M, **change})
    with pytest.raises(ValueError, match=message):
        bound(spec, data, batch_size=batch_size)


def test_a_bare_density_must_return_a_scalar_and_cannot_be_cut_without_rows():
    vector = LogDensity(log_density=lambda p: p["m"][None], scale="sum", params=M)
    with pytest.raises(
        ValueError, match=r"`log_density` must return a scalar; got shape \(1,\)"
    ):
        bound(vector)
    scalar = LogDensity(log_density=lambda p: p["m"], scale="sum", params=M)
    with pytest.raises(ValueError, match="`data` is needed"):
        bound(scalar, batch_size=2)


def test_only_targets_can_be_bound_and_only_in_floating_point():
    with pytest.raises(TypeError, match="`target` must be a Pyro model"):
        bound(3.0)
    with pytest.raises(ValueError, match="`dtype` must be a floating-point dtype"):
        bound(LogDensity(flat, params=M), dtype=torch.int64)
