"""NUTS: Pyro's kernel on our potential, with complete statistics."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import constraints

import inference
from inference import LogDensity, diagnostics

ROWS = 25
_RNG = np.random.default_rng(0)
X = np.column_stack([np.ones(ROWS), _RNG.normal(size=ROWS)])
Y = X @ np.array([0.5, -1.0]) + 0.7 * _RNG.normal(size=ROWS)


def regression():
    """y = xw + N(0, 0.7²), w ~ N(0, 2²): spec, data, posterior mean and covariance."""

    def log_lik(p, data):
        x, y = data
        return -((y - x @ p["w"]) / 0.7).square() / 2

    spec = LogDensity(
        log_prior=lambda p: -p["w"].square().sum() / 8,
        log_lik=log_lik,
        params={"w": torch.zeros(2)},  # float32: the methods go to float64 by themselves
    )
    covariance = np.linalg.inv(np.eye(2) / 4 + X.T @ X / 0.49)
    data = torch.tensor(X, dtype=torch.float32), torch.tensor(Y, dtype=torch.float32)
    return spec, data, covariance @ X.T @ Y / 0.49, covariance


def run(target, data=None, **options):
    given = {"method": "nuts", "num_chains": 1, "num_warmup": 60, "num_samples": 100}
    given |= {"init": "params", "progress": False, "seed": 0}
    return inference.sample(target, data, **(given | options))


FIXED = {"step_size": 0.3, "adapt_step_size": False, "adapt_mass_matrix": False}


@functools.cache
def regression_draws():
    spec, data, _, _ = regression()
    return run(spec, data, num_chains=2)


def assert_mean_and_sd(values, mean, sd):
    """Within four Monte Carlo standard errors: sd/√ESS, and sd/√(2·ESS of squares).

    values (chain, draw); the law is Gaussian.
    """
    ess = float(diagnostics.ess(values))
    assert abs(values.mean() - mean) < 4 * sd / math.sqrt(ess)
    ess = min(ess, float(diagnostics.ess((values - mean) ** 2)))
    assert abs(values.std() - sd) < 4 * sd / math.sqrt(2 * ess)


# -- the law -------------------------------------------------------------------------------


def test_conjugate_regression():
    _, _, mean, covariance = regression()
    draws = regression_draws().draws["w"]
    along = np.linalg.cholesky(np.linalg.inv(covariance)).T @ (draws - mean)[..., None]
    for i in range(2):
        assert_mean_and_sd(draws[..., i], mean[i], math.sqrt(covariance[i, i]))
        assert_mean_and_sd(along[..., i, 0], 0.0, 1.0)


def test_temperature_widens_by_its_root():
    spec, data, mean, covariance = regression()
    draws = run(spec, data, temperature=4.0, **FIXED)
    assert_mean_and_sd(draws.draws["w"][..., 1], mean[1], 2 * math.sqrt(covariance[1, 1]))
    lp = draws.sample_stats["lp"]  # of the posterior itself, not of its power
    np.testing.assert_allclose(lp, log_posterior(draws.draws["w"]), rtol=1e-5)


SPREAD = torch.tensor([0.4], dtype=torch.float64)


def scale_posterior(correction=0.0):
    """y_i ~ N(0, s²), s ~ half-normal(1); `correction`·log s spoils it on purpose."""
    return LogDensity(
        log_prior=lambda p: -p["s"].square() / 2 + correction * p["s"].log(),
        log_lik=lambda p, y: -(y / p["s"]).square() / 2 - p["s"].log(),
        params={"s": torch.ones(()).double()},
        constraints={"s": constraints.positive},
    )


def scale_quantile_levels(draws):
    """Where draws of s fall in their law, by quadrature: uniform if they are right."""
    square, n = float(SPREAD.square().sum()), len(SPREAD)

    def density(s):
        return np.exp(-(s**2) / 2 - square / (2 * s**2)) * s**-n

    total = integrate.quad(density, 0, 20)[0]
    grid = np.linspace(1e-3, 20, 40_001)
    cumulative = integrate.cumulative_trapezoid(density(grid), grid, initial=0) / total
    return np.interp(draws, grid, cumulative)


def mean_level_z(draws):
    """Mean quantile level less ½, in its Monte Carlo standard errors."""
    levels = scale_quantile_levels(draws)
    return (levels.mean() - 0.5) / math.sqrt(1 / 12 / float(diagnostics.ess(levels)))


def test_a_positive_parameter_has_its_jacobian():
    """By quadrature; without the Jacobian s the draws follow p(s)/s, which is seen."""
    options = FIXED | {"step_size": 0.4, "num_samples": 320}
    right = run(scale_posterior(), SPREAD, **options).draws["s"]
    assert abs(mean_level_z(right)) < 4
    levels = np.sort(scale_quantile_levels(right).ravel())
    thinned = levels[:: math.ceil(levels.size / float(diagnostics.ess(right)))]
    assert stats.kstest(thinned, "uniform").pvalue > 1e-3
    wrong = run(scale_posterior(correction=-1.0), SPREAD, **options).draws["s"]
    assert abs(mean_level_z(wrong)) > 4


# -- statistics ----------------------------------------------------------------------------


def log_posterior(w):
    residual = (Y - w @ X.T) / 0.7
    return -(w**2).sum(-1) / 8 - (residual**2).sum(-1) / 2


STATISTICS = {
    "lp",
    "energy",
    "energy_error",
    "acceptance_rate",
    "step_size",
    "n_steps",
    "diverging",
    "tree_depth",
}


def test_statistics_are_complete():
    draws = regression_draws()
    assert draws.draws["w"].dtype == np.float64  # from data and parameters in float32
    assert draws.attrs["target"]["dtype"] == "float64"
    found = draws.sample_stats
    assert set(found) == STATISTICS
    assert all(a.shape == draws.draws["w"].shape[:2] for a in found.values())
    assert found["diverging"].dtype == bool
    assert {found[n].dtype.kind for n in ("n_steps", "tree_depth")} == {"i"}
    floats = STATISTICS - {"diverging", "n_steps", "tree_depth"}
    assert {found[n].dtype for n in floats} == {np.dtype("float64")}
    assert ((found["acceptance_rate"] >= 0) & (found["acceptance_rate"] <= 1)).all()
    assert (found["n_steps"] >= 1).all()
    assert not found["diverging"].any()


def test_lp_is_the_log_density_of_the_draw():
    draws = regression_draws()
    np.testing.assert_allclose(
        draws.sample_stats["lp"], log_posterior(draws.draws["w"]), rtol=1e-5
    )


def test_energy_is_potential_plus_kinetic():
    """E(energy + lp) = d/2 = 1 with variance d/2, the kinetic part being χ²_d/2."""
    stats_ = regression_draws().sample_stats
    kinetic = stats_["energy"] + stats_["lp"]
    assert (kinetic > 0).all()
    ess = float(diagnostics.ess(kinetic))
    assert abs(kinetic.mean() - 1) < 4 / math.sqrt(ess)
    assert np.abs(stats_["energy_error"]).mean() < 1


def test_tree_depth_is_the_number_of_doublings():
    found = regression_draws().sample_stats
    depth = np.ceil(np.log2(found["n_steps"] + 1)).astype(int)
    np.testing.assert_array_equal(found["tree_depth"], depth)
    assert (found["tree_depth"] <= 10).all()


def test_step_size_is_adapted_to_the_wanted_acceptance():
    """After warm-up it is constant within a chain; acceptance is near the target of 0.8."""
    found = regression_draws().sample_stats
    assert (found["step_size"] == found["step_size"][:, :1]).all()
    assert found["step_size"][0, 0] != found["step_size"][1, 0]
    assert 0.7 < found["acceptance_rate"].mean() < 0.97


def funnel():
    """v ~ N(0, 3²), x_i ~ N(0, e^v): a neck that no fixed step fits."""

    def log_density(p):
        v, x = p["v"], p["x"]
        return -v.square() / 18 - (x.square() * (-v).exp()).sum() / 2 - 2.5 * v

    return LogDensity(
        log_density=log_density,
        scale="sum",
        params={"v": torch.zeros(()).double(), "x": torch.ones(5).double()},
    )


def test_a_funnel_diverges():
    options = FIXED | {"step_size": 1.5, "max_tree_depth": 5}
    draws = run(funnel(), num_warmup=0, num_samples=60, **options)
    diverging = draws.sample_stats["diverging"][0]
    assert 0 < diverging.sum() < 60
    assert np.isfinite(draws.draws["x"]).all()


# -- the calling side ----------------------------------------------------------------------


def test_thinning_keeps_every_kth_transition():
    spec, data, _, _ = regression()
    short = {"num_warmup": 5, "step_size": 0.2, "full_mass": True}
    all_draws = run(spec, data, num_samples=6, **short).draws["w"]
    thinned = run(spec, data, num_samples=2, thin=3, **short).draws["w"]
    np.testing.assert_array_equal(thinned, all_draws[:, 2::3])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"dtype": torch.float32}, ValueError, "`dtype` must be torch.float64"),
        ({"batch_size": 5}, ValueError, "`batch_size` does not apply"),
        ({"schedule": inference.schedules.Polynomial()}, ValueError, "`schedule`"),
        ({"share_batches": True}, ValueError, "`share_batches`"),
        ({"keep_warmup": True}, ValueError, "`keep_warmup`"),
        ({"chunk_size": 3}, ValueError, "`chunk_size`"),
        ({"temperature": 0.0}, ValueError, "`temperature`"),
        ({"step_size": -1.0}, ValueError, "`step_size`"),
        ({"max_tree_depth": 0}, ValueError, "`max_tree_depth`"),
        ({"target_accept_prob": 1.0}, ValueError, "`target_accept_prob`"),
        ({"num_steps": 3}, TypeError, "takes no option `num_steps`"),
        ({"friction": 3}, TypeError, "takes no option `friction`"),
    ],
)
def test_what_they_cannot_honour_is_refused(options, error, match):
    spec, data, _, _ = regression()
    with pytest.raises(error, match=match):
        run(spec, data, **options)


def test_ctrl_c_keeps_the_chains_that_are_complete():
    whole = run(interruptible(None), num_chains=2, num_warmup=3, num_samples=4)
    calls_of_one_chain = len(CALLS)
    stopped = run(
        interruptible(calls_of_one_chain - 3), num_chains=3, num_warmup=3, num_samples=4
    )
    assert stopped.attrs["interrupted"] is True
    assert 1 <= stopped.num_chains <= 2
    np.testing.assert_array_equal(stopped.draws["x"], whole.draws["x"][: stopped.num_chains])
    with pytest.raises(KeyboardInterrupt):
        run(interruptible(10), num_chains=2, num_warmup=3, num_samples=4)


CALLS = []


def interruptible(at_call):
    CALLS.clear()

    def log_density(p):
        CALLS.append(1)
        if len(CALLS) == at_call:
            raise KeyboardInterrupt
        return -p["x"].square().sum() / 2

    return LogDensity(
        log_density=log_density, scale="sum", params={"x": torch.ones(2).double()}
    )
