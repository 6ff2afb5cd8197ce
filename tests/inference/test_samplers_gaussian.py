"""Whole runs of `inference.sample` against moments in closed form.

Error bars come from independent chains: an estimate per chain, and the spread between them,
which is the √(2/ESS) of a variance without a model of the autocorrelation. Where a scheme has
a known discretisation bias the comparison is with the biased value, not with a wider bound.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import inference
from inference import LogDensity
from inference.samplers import SGHMC

CONDITION = 361.0
COMPARISONS = 400  # in this file, rounded up: a limit of 0.001 for all of them together


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


def largest_z(values, expected):
    """Largest |estimate − expected| over its standard error; values (chain, draw, dim)."""
    per_chain = values.mean(1)
    error = per_chain.std(0, ddof=1) / math.sqrt(len(per_chain))
    return np.abs((per_chain.mean(0) - expected) / error).max()


def limit(chains):
    return stats.t.isf(0.001 / COMPARISONS / 2, chains - 1)


def assert_moments(x, mean, variance, vectors):
    """Mean and variance along each eigenvector of the precision."""
    along = (x - mean) @ vectors
    assert largest_z(along, 0) < limit(len(x))
    assert largest_z(along**2, variance) < limit(len(x))


def run(spec, **options):
    given = {"num_chains": 256, "progress": False, "seed": 0}
    return inference.sample(spec, **(given | options))


BAOA = {"method": "sghmc", "step_size": 0.08, "friction": 2.0, "num_warmup": 250}


@pytest.mark.parametrize("dim", [2, 20])
def test_baoa(dim):
    spec, mean, values, vectors = gaussian(dim)
    draws = run(spec, **BAOA, num_samples=60, thin=5)
    assert_moments(draws.draws["x"], mean, 1 / values, vectors)
    kinetic = draws.sample_stats["kinetic_temperature"][..., None]
    assert largest_z(kinetic, 1.0) < limit(256)
    lp = draws.sample_stats["lp"][..., None]
    assert largest_z(lp, -dim / 2) < limit(256)  # E of −χ²/2


@pytest.mark.parametrize("dim", [2, 20])
def test_symplectic_with_its_bias(dim):
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


def test_sgld_with_its_bias():
    """1/(1 − ελ/2): 3.6 along the stiff direction of two."""
    spec, mean, values, vectors = gaussian(2)
    draws = run(spec, method="sgld", step_size=0.004, num_warmup=1200, num_samples=40, thin=10)
    bias = 1 / (1 - 0.004 * values / 2)
    assert_moments(draws.draws["x"], mean, bias / values, vectors)


@pytest.mark.parametrize("integrator", ["symplectic", "baoa"])
def test_adaptive_with_the_bias_of_every_chains_own_mass(integrator):
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
    assert largest_z(along, 0) < limit(256)
    assert largest_z(along**2 / variance[:, None], 1) < limit(256)


def test_sgnht_with_its_bias():
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
    assert largest_z(along, 0) < limit(256)
    ratio = (along**2).mean(1) * values
    error = limit(256) * ratio.std(0, ddof=1) / 16
    assert (np.abs(ratio.mean(0) - predicted) < error + 1 / dim).all()
    kinetic = draws.sample_stats["kinetic_temperature"][..., None]
    assert largest_z(kinetic, 1.0) < limit(256)


def test_momentum_resampling_keeps_the_law():
    spec, mean, values, vectors = gaussian(2)
    draws = run(spec, **BAOA, resample_every=7, num_samples=50, thin=5)
    assert_moments(draws.draws["x"], mean, 1 / values, vectors)


def test_the_check_catches_one_tenth_more_temperature():
    """Negative control of the error bars: T = 1.1 in place of 1 must be seen."""
    spec, mean, values, vectors = gaussian(20)
    draws = run(spec, **BAOA, temperature=1.1, num_samples=60, thin=5)
    with pytest.raises(AssertionError):
        assert_moments(draws.draws["x"], mean, 1 / values, vectors)


# -- temperature ---------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_variance_is_proportional_to_temperature(temperature):
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


# -- minibatches ---------------------------------------------------------------------------

ROWS, BATCH = 200, 20


def regression(wrong_scale=False):
    """y = xw + N(0, 1), w ~ N(0, I): spec, data, posterior mean and precision."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, 3))
    y = x @ np.array([1.0, -2.0, 0.5]) + rng.normal(size=ROWS)

    def log_lik(p, data):
        rows, targets = data
        values = -(targets - rows @ p["w"]).square() / 2
        return values * len(rows) / ROWS if wrong_scale else values

    spec = LogDensity(
        log_prior=lambda p: -p["w"].square().sum() / 2,
        log_lik=log_lik,
        params={"w": torch.zeros(3).double()},
        num_data=ROWS,
    )
    precision = np.eye(3) + x.T @ x
    return (
        spec,
        (torch.tensor(x), torch.tensor(y)),
        np.linalg.solve(precision, x.T @ y),
        precision,
    )


def run_regression(spec, data, **options):
    given = {"step_size": 0.002, "friction": 40.0, "num_warmup": 600, "num_samples": 40}
    given |= {"thin": 20, "batch_size": BATCH, "num_chains": 128, "progress": False, "seed": 1}
    return inference.sample(data=data, target=spec, **(given | options))


def predicted_inflation(data, mean, epsilon=0.002, friction=40.0):
    """ηV(1+μ)/(4(1−μ)), V = (N²/n)(1 − n/N)·s² of the rows' gradients at the mean, largest one.

    It is an upper bound here: within an epoch the batches' errors sum to zero.
    """
    x, y = (t.numpy() for t in data)
    rows = x * (x @ mean - y)[:, None]
    covariance = ROWS**2 / BATCH * (1 - BATCH / ROWS) * np.cov(rows.T)
    mu = math.exp(-epsilon * friction)
    return epsilon**2 * np.linalg.eigvalsh(covariance)[-1] * (1 + mu) / (4 * (1 - mu))


def test_minibatches_give_the_conjugate_posterior():
    """Var ratio within [1, 1 + predicted inflation] and its error bars, along three axes."""
    spec, data, mean, precision = regression()
    draws = run_regression(spec, data)
    assert set(draws.sample_stats) >= {"lp_estimate"}
    inflation = predicted_inflation(data, mean)
    assert inflation < 0.1
    along = (draws.draws["w"] - mean) @ np.linalg.cholesky(precision)
    assert largest_z(along, 0) < limit(128)
    ratio = (along**2).mean(1)
    error = limit(128) * ratio.std(0, ddof=1) / math.sqrt(128)
    assert (ratio.mean(0) > 1 - error).all()
    assert (ratio.mean(0) < 1 + inflation + error).all()

    # negative control: without N/n the likelihood counts a tenth, the posterior is far too wide
    wrong, *_ = regression(wrong_scale=True)
    draws = run_regression(wrong, data, num_samples=10)
    along = (draws.draws["w"] - mean) @ np.linalg.cholesky(precision)
    assert ((along**2).mean((0, 1)) > 5).all()


def test_independent_minibatches_inflate_as_the_lyapunov_equation_says(linear_step):
    """With n > N/2 every epoch is one batch, so errors are independent from step to step.

    Here they do not depend on the position either: V = (N²/n)(1 − n/N)s², the factor of the
    design rule 1 + ηV(1+μ)/(4(1−μ)) is 1.7, and the exact one is that of the linear step.
    """
    rows, size, epsilon, friction = 12, 7, 0.1, 2.0
    y = torch.tensor(np.random.default_rng(0).normal(scale=2.4, size=(rows, 1)))
    spec = LogDensity(  # y_i ~ N(m, 1), m ~ N(0, 1)
        log_prior=lambda p: -p["m"].square().sum() / 2,
        log_lik=lambda p, data: (data * p["m"]).sum(-1) - p["m"].square().sum() / 2,
        params={"m": torch.zeros(1).double()},
    )
    draws = run(
        spec, data=y, batch_size=size, step_size=epsilon, friction=friction, num_warmup=100,
        num_samples=40, thin=10,
    )  # fmt: skip
    precision = 1.0 + rows
    variance = rows**2 / size * (1 - size / rows) * y.numpy().var(ddof=1)
    law = linear_step(SGHMC(epsilon, friction), precision).stationary(variance)["position"]
    mu = math.exp(-epsilon * friction)
    rule = 1 + epsilon**2 * variance * (1 + mu) / (4 * (1 - mu))
    assert precision * law.item() == pytest.approx(rule, rel=0.05)
    assert rule > 1.5
    away = draws.draws["m"] - y.numpy().sum() / precision
    assert largest_z(away, 0) < limit(256)
    assert largest_z(away**2, law.item()) < limit(256)


def test_temperature_zero_is_deterministic_given_the_batches(monkeypatch):
    """The same batches with other noise, or none at all: the same path."""
    spec, data, _, _ = regression()
    options = {"temperature": 0.0, "num_chains": 2, "num_warmup": 0, "num_samples": 40}
    options |= {"thin": 1}
    first = run_regression(spec, data, **options).draws["w"]
    monkeypatch.setattr("inference.rng.NormalStream._fill", lambda self: torch.full(
        (self._block_steps, len(self._generators), self._dim), 7.0, dtype=torch.float64
    ))  # fmt: skip
    second = run_regression(spec, data, **options).draws["w"]
    np.testing.assert_array_equal(first, second)
    monkeypatch.undo()
    third = run_regression(spec, data, **options, seed=2).draws["w"]
    assert not np.allclose(first, third)
