"""HMC of all chains at once: its law, what it learns, its statistics, what goes wrong."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

import inference
from inference import LogDensity, diagnostics
from inference.errors import InferenceWarning

FIXED = {"step_size": 0.3, "adapt_step_size": False, "adapt_mass_matrix": False, "num_steps": 5}
STATISTICS = {
    "lp",
    "energy",
    "energy_error",
    "acceptance_rate",
    "step_size",
    "n_steps",
    "diverging",
}


def run(target, data=None, **options):
    given = {"method": "hmc", "num_chains": 8, "num_warmup": 150, "num_samples": 150}
    given |= {"progress": False, "seed": 0}
    return inference.sample(target, data, **(given | options))


def density(function, dim):
    return LogDensity(
        log_density=lambda p: function(p["x"]),
        scale="sum",
        params={"x": torch.zeros(dim).double()},
    )


def gaussian(covariance):
    precision = torch.tensor(np.linalg.inv(covariance))
    return density(lambda x: -x @ (precision @ x) / 2, len(covariance))


def correlated(dim, correlation):
    return correlation ** np.abs(np.subtract.outer(np.arange(dim), np.arange(dim)))


def largest_error(draws, mean, covariance):
    """Largest error of mean or variance along an eigen-direction, in its standard errors."""
    values, directions = np.linalg.eigh(covariance)
    z = (draws - mean) @ directions / np.sqrt(values)
    ess, ess_of_squares = diagnostics.ess(z), diagnostics.ess(z**2)
    of_mean = np.abs(z.mean((0, 1))) * np.sqrt(ess)
    of_variance = np.abs((z**2).mean((0, 1)) - 1) * np.sqrt(ess_of_squares / 2)
    return max(of_mean.max(), of_variance.max())


# -- the law -------------------------------------------------------------------------------

CASES = {
    "d 2": (correlated(2, 0.5), {}),
    "d 20": (correlated(20, 0.9), {}),
    "d 20, dense": (correlated(20, 0.9), {"full_mass": True}),
    "condition number 361": (np.diag(np.geomspace(1, 361, 20)), {}),
    "361, nothing learnt": (
        np.diag(np.geomspace(1 / 19, 19, 5)),
        FIXED | {"step_size": 0.15, "num_steps": 20},
    ),
    "d 20, length given": (correlated(20, 0.9), {"trajectory_length": 4.0}),
}


@pytest.mark.parametrize(("covariance", "options"), CASES.values(), ids=CASES)
def test_moments_of_a_gaussian(covariance, options):
    draws = run(gaussian(covariance), **options).draws["x"]
    assert largest_error(draws, 0.0, covariance) < 4.5  # of at most 40 normal numbers
    assert diagnostics.rhat(draws).max() < 1.03


def test_the_comparison_sees_a_variance_of_15_percent_too_much():
    covariance = correlated(2, 0.5)
    draws = run(gaussian(1.15 * covariance), num_samples=600).draws["x"]
    assert largest_error(draws, 0.0, covariance) > 4.5


def test_one_chain_samples_as_well():
    covariance = correlated(5, 0.7)
    draws = run(gaussian(covariance), num_chains=1, num_warmup=400, num_samples=500)
    assert largest_error(draws.draws["x"], 0.0, covariance) < 4.5
    assert draws.attrs["notes"] == []


def test_temperature_widens_by_its_root():
    draws = run(gaussian(np.eye(2)), temperature=4.0, **FIXED)
    assert largest_error(draws.draws["x"], 0.0, 4 * np.eye(2)) < 4.5
    x = draws.draws["x"]  # lp is of the density itself, not of its power
    np.testing.assert_allclose(draws.sample_stats["lp"], -(x**2).sum(-1) / 2, rtol=1e-10)


def scale_target(correction):
    """s ~ half-normal(1); `correction`·log s spoils it on purpose."""
    return LogDensity(
        log_density=lambda p: -p["s"].square() / 2 + correction * p["s"].log(),
        scale="sum",
        params={"s": torch.ones(()).double()},
        constraints={"s": constraints.positive},
    )


@pytest.mark.parametrize(("correction", "right"), [(0.0, True), (1.0, False)])
def test_a_positive_parameter_has_its_jacobian(correction, right):
    options = FIXED | {"step_size": 0.2, "num_steps": 8}
    draws = run(scale_target(correction), **options).draws["s"]
    levels = stats.halfnorm.cdf(draws)
    z = (levels.mean() - 0.5) * math.sqrt(12 * float(diagnostics.ess(levels)))
    assert (abs(z) < 4) == right


@pytest.mark.parametrize(("widened", "right"), [(1.0, True), (2.0, False)])
def test_coverage_on_a_conjugate_normal(widened, right):
    """θ ~ N(0, 1), y ~ N(θ, ½): 80 % intervals hold θ in 80 % of 400 replications.

    The replications are the coordinates of one target. A likelihood counted twice fails.
    """
    rng = np.random.default_rng(0)
    theta = rng.normal(size=400)
    y = torch.tensor(theta + math.sqrt(0.5) * rng.normal(size=400))
    target = density(lambda x: -x.square().sum() / 2 - widened * (y - x).square().sum(), 400)
    draws = run(target, trajectory_length=1.5).draws["x"].reshape(-1, 400)
    low, high = np.quantile(draws, [0.1, 0.9], axis=0)
    covered = ((low < theta) & (theta < high)).mean()
    assert (abs(covered - 0.8) < 3 * math.sqrt(0.16 / 400)) == right


# -- what is learnt ------------------------------------------------------------------------


def test_mass_and_step_size_are_learnt_from_all_chains_and_then_fixed():
    spreads = np.geomspace(0.01, 100, 5)
    draws = run(gaussian(np.diag(spreads**2)), num_warmup=300, num_samples=300)
    ratio = draws.state["inverse_mass_matrix"].numpy() / spreads**2
    assert ((ratio > 0.7) & (ratio < 1.4)).all()
    found = draws.sample_stats
    assert np.unique(found["step_size"]).size == 1
    assert 0.7 < found["acceptance_rate"].mean() < 0.92
    assert "all chains together" in draws.attrs["notes"][0]


def test_nothing_is_learnt_where_nothing_may_be():
    draws = run(gaussian(np.eye(2)), **FIXED)
    assert (draws.sample_stats["step_size"] == 0.3).all()
    assert draws.state["inverse_mass_matrix"].tolist() == [1.0, 1.0]
    assert float(draws.state["trajectory_length"]) == pytest.approx(5 * 0.3)
    assert draws.attrs["notes"] == []


def test_lengths_are_those_of_all_chains_and_uniform_up_to_twice_the_mean():
    steps = run(gaussian(np.eye(2)), num_warmup=0, num_samples=900, **FIXED)
    steps = steps.sample_stats["n_steps"]
    assert (steps == steps[:1]).all()
    counts = np.bincount(steps[0], minlength=10)
    assert counts[0] == 0
    assert np.abs(counts[1:] - 100).max() <= 2  # of a sequence of low discrepancy


def test_a_length_far_too_long_for_its_steps_is_said():
    options = {"step_size": 0.001, "adapt_step_size": False, "trajectory_length": 1.0}
    with pytest.warns(InferenceWarning, match="they are cut to 512"):
        run(gaussian(np.eye(1)), num_warmup=1, num_samples=1, **options)


# -- statistics ----------------------------------------------------------------------------


@functools.cache
def some_draws():
    return run(gaussian(np.eye(3)), num_steps=3, target_accept_prob=0.7)


def test_statistics_are_complete():
    draws = some_draws()
    found = draws.sample_stats
    assert set(found) == STATISTICS
    assert all(a.shape == draws.draws["x"].shape[:2] for a in found.values())
    assert found["diverging"].dtype == bool
    assert found["n_steps"].dtype.kind == "i"
    assert {found[n].dtype.name for n in STATISTICS - {"diverging", "n_steps"}} == {"float64"}
    assert draws.attrs["target"]["dtype"] == "float64"


def test_lp_and_energy_are_those_of_the_draw():
    """The kinetic energy left, χ²_3/2, has mean and variance 3/2."""
    draws, found = some_draws().draws["x"], some_draws().sample_stats
    np.testing.assert_allclose(found["lp"], -(draws**2).sum(-1) / 2, rtol=1e-10)
    kinetic = found["energy"] + found["lp"]
    assert (kinetic > 0).all()
    assert abs(kinetic.mean() - 1.5) < 4 * math.sqrt(1.5 / float(diagnostics.ess(kinetic)))


def test_rejections_repeat_the_draw_at_the_rate_that_is_reported():
    draws, found = some_draws().draws["x"], some_draws().sample_stats
    repeated = (draws[:, 1:] == draws[:, :-1]).all(-1)
    assert (found["energy_error"][:, 1:][repeated] == 0).all()
    expected = 1 - found["acceptance_rate"][:, 1:]
    error = np.sqrt((expected * (1 - expected)).sum())
    assert abs(repeated.sum() - expected.sum()) < 4 * error


# -- divergences ---------------------------------------------------------------------------


def funnel(x):
    """v ~ N(0, 3²), x_i ~ N(0, e^v): a neck that no fixed step fits."""
    v = x[0]
    return -v.square() / 18 - (x[1:].square() * (-v).exp()).sum() / 2 - 2.5 * v


def test_a_funnel_diverges_and_says_so_once():
    options = FIXED | {"step_size": 1.5, "num_steps": 10, "num_warmup": 0, "num_samples": 60}
    with pytest.warns(InferenceWarning, match=r"of 480 transitions .* diverged") as record:
        draws = run(density(funnel, 6), **options)
    assert len(record) == 1
    diverging = draws.sample_stats["diverging"]
    assert 0 < diverging.sum() < diverging.size
    assert np.isfinite(draws.draws["x"]).all()
    assert (draws.sample_stats["acceptance_rate"][diverging] == 0).all()


def wall(x):
    """A standard normal, with a slope beyond x₀ = 30 that no step of 0.3 fits."""
    return -x.square().sum() / 2 - 1e4 * torch.relu(x[0] - 30).square()


def test_a_chain_that_diverges_leaves_the_others_bit_equal():
    start = np.zeros((3, 2))
    options = FIXED | {"num_chains": 3, "num_warmup": 0, "num_samples": 40}
    calm = run(density(wall, 2), init={"x": start}, **options)
    start[1] = [33.0, 0.0]
    with pytest.warns(InferenceWarning, match=r"in chains \[1\]"):
        wild = run(density(wall, 2), init={"x": start}, **options)
    np.testing.assert_array_equal(wild.draws["x"][::2], calm.draws["x"][::2])
    assert np.isfinite(wild.draws["x"]).all()


# -- the calling side ----------------------------------------------------------------------


def test_thinning_keeps_every_kth_transition():
    short = {"num_warmup": 30, "full_mass": True}
    all_draws = run(gaussian(np.eye(2)), num_samples=6, **short)
    thinned = run(gaussian(np.eye(2)), num_samples=2, thin=3, **short)
    np.testing.assert_array_equal(thinned.draws["x"], all_draws.draws["x"][:, 2::3])


def test_a_chain_does_not_depend_on_the_others_where_nothing_is_learnt():
    two, four = (
        run(gaussian(np.eye(2)), num_chains=c, num_warmup=0, num_samples=20, **FIXED)
        for c in (2, 4)
    )
    np.testing.assert_allclose(two.draws["x"], four.draws["x"][:2], rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"dtype": torch.float32}, ValueError, "`dtype` must be torch.float64"),
        ({"batch_size": 5}, ValueError, "`batch_size` does not apply"),
        ({"keep_warmup": True}, ValueError, "`keep_warmup`"),
        ({"temperature": 0.0}, ValueError, "`temperature`"),
        ({"step_size": -1.0}, ValueError, "`step_size`"),
        ({"target_accept_prob": 1.0}, ValueError, "`target_accept_prob`"),
        ({"num_steps": 0}, ValueError, "`num_steps`"),
        ({"trajectory_length": 0.0}, ValueError, "`trajectory_length`"),
        ({"trajectory_length": 1.0, "num_steps": 3}, ValueError, "not both"),
        ({"adapt_trajectory_length": True, "num_steps": 3}, ValueError, "fixes the length"),
        ({"max_tree_depth": 3}, TypeError, "`max_tree_depth`"),
    ],
)
def test_what_it_cannot_honour_is_refused(options, error, match):
    with pytest.raises(error, match=match):
        run(gaussian(np.eye(2)), **options)


def interruptible(at_call, calls):
    def function(x):
        calls.append(1)
        if len(calls) == at_call:
            raise KeyboardInterrupt
        return -x.square().sum() / 2

    return density(function, 2)


def test_ctrl_c_keeps_the_complete_draws_of_all_chains():
    options = {"num_chains": 3, "num_warmup": 0, "num_samples": 8, "init": "params"} | FIXED
    calls = []
    whole = run(interruptible(None, calls), **options).draws["x"]
    stopped = run(interruptible(len(calls) - 3, []), **options)
    assert stopped.attrs["interrupted"] is True
    assert 0 < stopped.num_samples < 8
    np.testing.assert_array_equal(stopped.draws["x"], whole[:, : stopped.num_samples])
    with pytest.raises(KeyboardInterrupt):
        run(interruptible(4, []), **options)
