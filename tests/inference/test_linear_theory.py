"""Predictions on quadratics, against the samplers' own steps and simulated recursions."""

import numpy as np
import pytest
import torch

from inference import linear_theory
from inference.samplers import SGHMC, SGLD, SGNHT, Settings, take_step

LAMBDA = np.array([0.5, 4.0, 60.0])
EPSILON, FRICTION = 0.15, 2.0
VARIANCE = np.array([1.0, 0.3, 20.0])


def predicted(name, variance):
    step = getattr(linear_theory, name)(LAMBDA, np.array(EPSILON), np.array(FRICTION))
    return linear_theory.predict(step, LAMBDA, variance)


@pytest.mark.parametrize("integrator", ["baoa", "symplectic"])
@pytest.mark.parametrize("variance", [0 * LAMBDA, VARIANCE])
def test_variance_is_that_of_the_samplers_own_step(linear_step, integrator, variance):
    sampler = SGHMC(EPSILON, FRICTION, integrator)
    law = linear_step(sampler, np.diag(LAMBDA)).stationary(variance)["position"]
    found = predicted(integrator, variance)
    np.testing.assert_allclose(1 + found.inflation, LAMBDA * np.diag(law), rtol=1e-9)
    if not variance.any():
        np.testing.assert_allclose(found.gradient_noise, 0, atol=1e-12)


def test_langevin_has_its_closed_forms(linear_step):
    epsilon = 0.01
    step = linear_theory.langevin(LAMBDA, np.array(epsilon))
    found = linear_theory.predict(step, LAMBDA, VARIANCE)
    exact = 1 / (1 - epsilon * LAMBDA / 2)
    np.testing.assert_allclose(1 + found.discretisation, exact, rtol=1e-12)
    np.testing.assert_allclose(found.gradient_noise, exact * epsilon * VARIANCE / 2, rtol=1e-12)
    np.testing.assert_allclose(
        found.autocorrelation, (2 - epsilon * LAMBDA) / (epsilon * LAMBDA), rtol=1e-12
    )
    law = linear_step(SGLD(epsilon), np.diag(LAMBDA), fields=("position",))
    simulated = LAMBDA * np.diag(law.stationary(VARIANCE)["position"])
    np.testing.assert_allclose(1 + found.inflation, simulated, rtol=1e-9)


def test_baoa_is_exact_up_to_its_limit_of_stability():
    h = np.array([0.01, 0.5, 2.0, 3.9, 4.1])
    step = linear_theory.baoa(h, np.array(1.0), np.array(0.3))
    found = linear_theory.predict(step, h, 0 * h)
    np.testing.assert_allclose(found.discretisation[:4], 0, atol=1e-10)
    assert np.isinf([figure[4] for figure in found]).all()


@pytest.mark.parametrize("epsilon", [0.01, 0.1])
def test_noise_follows_the_design_rule_where_the_step_is_small(epsilon):
    """ε²V(1+μ)/(4(1−μ)), to h/4 and the like."""
    lam, friction = np.array([0.1, 1.0]), 3.0
    mu = np.exp(-friction * epsilon)
    step = linear_theory.baoa(lam, np.array(epsilon), np.array(friction))
    found = linear_theory.predict(step, lam, np.array([5.0, 9.0]))
    rule = epsilon**2 * np.array([5.0, 9.0]) * (1 + mu) / (4 * (1 - mu))
    np.testing.assert_allclose(found.gradient_noise, rule, rtol=0.01)


def test_mean_and_square_autocorrelation_times_of_baoa():
    """Of θ: 4 tanh(aε/2)/h in closed form. Of θ²: the sum of its squared autocorrelations."""
    lam, epsilon = np.array([1.0, 1.0, 3.0]), np.array([0.3, 0.3, 0.8])
    friction = np.array([5.0, 0.2, 1.0])
    step = linear_theory.baoa(lam, epsilon, friction)
    found = linear_theory.predict(step, lam, 0 * lam).autocorrelation
    first = 4 * np.tanh(friction * epsilon / 2) / (epsilon**2 * lam)
    second = []
    for drift, e, curvature in zip(step.drift, epsilon, lam, strict=True):
        state, total = np.array([1 / curvature, e / 2]), 0.0
        for _ in range(3000):
            total += (state[0] * curvature) ** 2
            state = drift @ state
        second.append(2 * total - 1)
    np.testing.assert_allclose(found, np.maximum(first, second), rtol=1e-8)
    assert first[0] > second[0]
    assert first[1] < second[1]


def test_autocorrelation_time_is_that_of_a_simulated_chain():
    """Variance of a chain's mean over many chains: τ Var/n, and √(2/chains) of it as error."""
    chains, n = 2000, 600
    lam, epsilon, friction = 1.0, 0.7, 1.5
    sampler = SGHMC(epsilon, friction)
    settings = Settings(epsilon, 1.0, warmup=False)
    random = torch.Generator().manual_seed(0)

    def normal():
        return torch.randn(chains, 1, generator=random, dtype=torch.float64)

    state, total = sampler.init(normal(), normal(), settings), 0.0
    for _ in range(n):
        state, _ = take_step(
            sampler, lambda x, _: (x.sum(-1), -lam * x), state, None, normal(), settings
        )
        total = total + state.position / n
    step = linear_theory.baoa(np.array([lam]), np.array(epsilon), np.array(friction))
    tau = 4 * np.tanh(friction * epsilon / 2) / (epsilon**2 * lam)
    found = linear_theory.predict(step, np.array([lam]), np.zeros(1)).autocorrelation[0]
    assert found == pytest.approx(tau)  # here means are the slower
    assert float(total.var()) * n / tau == pytest.approx(1, abs=4 * (2 / chains) ** 0.5)


@pytest.mark.parametrize("n", [6, 7])
def test_errors_of_an_epoch_cancel(n):
    """Against chains whose batches walk through permutations; 7 rows do not divide 60.

    Taken as independent they would inflate the variance over six times as much.
    """
    chains, total, epochs, settled = 4000, 60, 60, 20
    lam, eps, a = np.array([2.0]), np.array(0.1), np.array(3.0)
    random = np.random.default_rng(0)
    rows = random.normal(size=total)
    rows -= rows.mean()
    variance = np.array([total**2 / n * (1 - n / total) * rows.var(ddof=1)])
    step = linear_theory.baoa(lam, eps, a)
    state, square = np.zeros((chains, 2)), []
    for epoch in range(epochs):
        order = random.permuted(np.tile(rows, (chains, 1)), axis=1)
        for batch in range(total // n):
            error = total * order[:, batch * n : (batch + 1) * n].mean(1)
            state = state @ step.drift[0].T + error[:, None] * step.kick[0]
            if epoch >= settled:
                square.append((state[:, 0] ** 2).mean())
    found = linear_theory.predict(step, lam, variance, total / n).gradient_noise[0]
    # an epoch's chains are as good as independent of the next epoch's
    error = (2 / (chains * (epochs - settled))) ** 0.5
    assert float(lam[0]) * np.mean(square) / found == pytest.approx(1, abs=4 * error)
    assert linear_theory.predict(step, lam, variance).gradient_noise[0] > 6 * found


def test_thermostat_finds_the_damping_that_holds_the_temperature(linear_step):
    """At the mean damping the sampler's own step has E p² = 1 and the predicted variances."""
    epsilon, friction = np.array(0.05), np.array(1.0)
    lam, variance = np.linspace(1, 60, 50), np.linspace(0, 10, 50)
    step = linear_theory.thermostat(lam, epsilon, friction, variance)
    found = linear_theory.predict(step, lam, variance)
    damping = (1 - step.drift[0, 1, 1]) / epsilon
    assert damping > friction

    def law(injected):
        sampler = SGNHT(float(epsilon), float(injected))
        linear = linear_step(sampler, np.diag(lam), frozen={"thermostat": damping})
        return linear.stationary(variance)

    found_law = law(friction)
    assert np.diag(found_law["momentum"]).mean() == pytest.approx(1, abs=1e-3)
    exact = lam * np.diag(found_law["position"])
    np.testing.assert_allclose(1 + found.inflation, exact, rtol=1e-6)
