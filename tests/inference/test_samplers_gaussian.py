"""Whole runs of `inference.sample` against moments in closed form.

Where a scheme has a known discretisation bias the comparison is with the biased value, not with
a wider bound.
"""

import numpy as np
import pytest
import torch

import inference
from inference import LogDensity

CONDITION = 361.0


def gaussian(dim, seed=0):
    """A target N(m, H⁻¹) in rotated coordinates: spec, m, eigenvalues and eigenvectors of H."""
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    values = np.geomspace(1, CONDITION, dim)
    mean = rng.normal(size=dim)
    hessian, centre = torch.tensor(vectors * values @ vectors.T), torch.tensor(mean)

    def log_density(p):
        away = p["x"] - centre
        return -(hessian @ away) @ away / 2

    spec = LogDensity(
        log_density=log_density, scale="sum", params={"x": torch.zeros(dim).double()}
    )
    return spec, mean, values, vectors


@pytest.fixture
def assert_moments(assert_mean):
    """Function: check mean and variance along each eigenvector of the precision."""

    def check(x, mean, variance, vectors):
        along = (x - mean) @ vectors
        assert_mean(along, 0)
        assert_mean(along**2, variance)

    return check


def run(spec, **options):
    given = {"num_chains": 256, "progress": False, "seed": 0}
    return inference.sample(spec, **(given | options))


BAOA = {"method": "sghmc", "step_size": 0.08, "friction": 2.0, "num_warmup": 250}


@pytest.mark.parametrize("dim", [2, 20])
def test_baoa(assert_moments, assert_mean, dim):
    spec, mean, values, vectors = gaussian(dim)
    draws = run(spec, **BAOA, num_samples=60, thin=5)
    assert_moments(draws.draws["x"], mean, 1 / values, vectors)
    kinetic = draws.sample_stats["kinetic_temperature"][..., None]
    assert_mean(kinetic, 1.0)
    lp = draws.sample_stats["lp"][..., None]
    assert_mean(lp, -dim / 2)  # E of −χ²/2


@pytest.mark.parametrize("dim", [2, 20])
def test_symplectic_with_its_bias(assert_moments, dim):
    """1/(1 − h/(2(2−α))): 1.31 along the stiffest direction."""
    spec, mean, values, vectors = gaussian(dim)
    epsilon, friction = 0.05, 2.0
    draws = run(
        spec,
        method="sghmc",
        integrator="symplectic",
        step_size=epsilon,
        friction=friction,
        num_warmup=350,
        num_samples=40,
        thin=8,
    )
    bias = 1 / (1 - epsilon**2 * values / (2 * (2 - friction * epsilon)))
    assert bias[-1] > 1.3
    assert_moments(draws.draws["x"], mean, bias / values, vectors)


def test_sgld_with_its_bias(assert_moments):
    """1/(1 − ελ/2): 3.6 along the stiff direction of two."""
    spec, mean, values, vectors = gaussian(2)
    draws = run(spec, method="sgld", step_size=0.004, num_warmup=1200, num_samples=40, thin=10)
    bias = 1 / (1 - 0.004 * values / 2)
    assert_moments(draws.draws["x"], mean, bias / values, vectors)


@pytest.mark.parametrize("integrator", ["symplectic", "baoa"])
def test_adaptive_with_the_bias_of_every_chains_own_mass(assert_mean, integrator):
    """With D = diag(√η_i) and S = DHD, Cov(θ) = D S⁻¹ (I − S/(2(2−α)))⁻¹ D; BAOA: S⁻¹ alone."""
    dim, epsilon, alpha = 20, 0.1, 0.1
    spec, mean, values, vectors = gaussian(dim)
    draws = run(
        spec,
        method="sghmc_adaptive",
        integrator=integrator,
        step_size=epsilon,
        momentum_decay=alpha,
        num_warmup=400,
        num_samples=40,
        thin=8,
    )
    root = epsilon * draws.state["gradient_square"].numpy() ** -0.25  # (chain, dim)
    scaled = root[:, :, None] * (vectors * values @ vectors.T) * root[:, None, :]
    law = np.linalg.inv(scaled)
    if integrator == "symplectic":
        law = law @ np.linalg.inv(np.eye(dim) - scaled / (2 * (2 - alpha)))
    law = root[:, :, None] * law * root[:, None, :]
    variance = np.einsum("di,cde,ei->ci", vectors, law, vectors)
    along = (draws.draws["x"] - mean) @ vectors
    assert_mean(along, 0)
    assert_mean(along**2 / variance[:, None], 1)


def test_sgnht_with_its_bias(assert_mean):
    """Symplectic Euler at the friction ξ and the temperature that make E pᵀp/d = T.

    With f = 1/(1 − h/(2(2−εξ))) the variance is (1 − εξ/2)·f/mean(f) times the truth; 1/d is
    allowed for the thermostat's fluctuation.
    """
    dim, epsilon = 20, 0.03
    spec, mean, values, vectors = gaussian(dim)
    draws = run(
        spec, method="sgnht", step_size=epsilon, friction=2.0, num_warmup=500, num_samples=40,
        thin=10, init={"x": mean},
    )  # fmt: skip
    alpha = epsilon * draws.sample_stats["thermostat"].mean()
    factor = 1 / (1 - epsilon**2 * values / (2 * (2 - alpha)))
    predicted = (1 - alpha / 2) * factor / factor.mean()
    along = (draws.draws["x"] - mean) @ vectors
    assert_mean(along, 0)
    assert_mean(along**2 * values, predicted, allowed=1 / dim)
    kinetic = draws.sample_stats["kinetic_temperature"][..., None]
    assert_mean(kinetic, 1.0)


def test_momentum_resampling_keeps_the_law(assert_moments):
    spec, mean, values, vectors = gaussian(2)
    draws = run(spec, **BAOA, resample_every=7, num_samples=50, thin=5)
    assert_moments(draws.draws["x"], mean, 1 / values, vectors)


def test_the_check_catches_one_tenth_more_temperature(assert_moments):
    """Negative control of the error bars: T = 1.1 in place of 1 must be seen."""
    spec, mean, values, vectors = gaussian(20)
    draws = run(spec, **BAOA, temperature=1.1, num_samples=60, thin=5)
    with pytest.raises(AssertionError):
        assert_moments(draws.draws["x"], mean, 1 / values, vectors)


# -- temperature ---------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_variance_is_proportional_to_temperature(assert_moments, temperature):
    spec, mean, values, vectors = gaussian(2)
    draws = run(spec, **BAOA, temperature=temperature, num_samples=50, thin=5)
    assert_moments(draws.draws["x"], mean, temperature / values, vectors)
    assert (draws.sample_stats["temperature"] == temperature).all()


@pytest.mark.parametrize(
    "options",
    [
        {"method": "sghmc", "step_size": 0.05},
        {"method": "sghmc", "step_size": 0.05, "integrator": "symplectic"},
        {"method": "sghmc", "step_size": 0.05, "resample_every": 5},
        {"method": "sghmc_adaptive", "step_size": 0.05},
        {"method": "sghmc_adaptive", "step_size": 0.05, "integrator": "baoa"},
        {"method": "sgld", "step_size": 0.001},
        {"method": "csgld", "step_size": 0.001, "num_cycles": 2, "exploration": 0.5},
        {"method": "csghmc", "step_size": 0.05, "num_cycles": 2, "exploration": 0.5},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_draws_scale_with_the_root_of_temperature(options):
    """A linear step from the mode: the path is √T times that at T = 1, noise for noise."""
    spec, mean, _, _ = gaussian(2)
    common = {"num_warmup": 0, "num_samples": 40, "num_chains": 2, "init": {"x": mean}}
    one, hot = (run(spec, **common, **options, temperature=t).draws["x"] for t in (1.0, 4.0))
    assert np.abs(one - mean).max() > 1e-3
    np.testing.assert_allclose(hot - mean, 2 * (one - mean), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("method", "options", "left"),
    [
        ("sghmc", {"step_size": 0.09, "friction": 2.0}, 1e-8),
        ("sghmc_adaptive", {"step_size": 0.09, "momentum_decay": 0.2}, 1e-8),
        ("sgld", {"step_size": 0.005}, 0.995**399),
    ],
)
def test_temperature_zero_is_a_deterministic_descent_to_the_mode(method, options, left):
    """Whatever the noise: descent with momentum; SGLD leaves (1 − ε)^399 of the start."""
    spec, mean, _, _ = gaussian(2)
    common = {"num_warmup": 0, "num_samples": 2, "thin": 200, "num_chains": 1}
    common |= {"temperature": 0.0, "init": {"x": mean + 1.0}}
    first, second = (
        run(spec, method=method, **common, **options, seed=seed).draws["x"] for seed in (0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert np.linalg.norm(first[0, 1] - mean) < 2**0.5 * left * 1.001
