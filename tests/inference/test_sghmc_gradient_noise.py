"""Gradient noise in SGHMC: taken off where its variance is known, else heating as predicted."""

import math

import numpy as np
import pytest
import torch

from inference.samplers import SGHMC, Settings, take_step

FRICTIONS = [0.1, 2.0, 9.0]
EPSILON = 0.1

NOISY = [  # λ, ε, a, inflation without a correction
    (100.0, 0.002, 50.0, 1.078),
    (1000.0, 0.001, 50.0, 1.39),
    (1000.0, 0.002, 50.0, 1.78),
]


def largest_variance(epsilon, friction):
    """Gradient-noise variance above which BAOA has no noise left to take off (T = 1)."""
    mu = math.exp(-friction * epsilon)
    return 4 * (1 - mu) / (1 + mu) / epsilon**2


@pytest.mark.parametrize(("curvature", "epsilon", "friction", "plain"), NOISY)
def test_known_gradient_noise_is_taken_off(linear_step, curvature, epsilon, friction, plain):
    """V = 39λ, a minibatch of one row in forty: the numbers of the derivation."""
    variance = 39 * curvature
    known = SGHMC(epsilon, friction, gradient_variance=variance)
    law = linear_step(known, curvature).stationary(variance)
    assert curvature * law["position"].item() == pytest.approx(1, abs=1e-3)
    law = linear_step(SGHMC(epsilon, friction), curvature).stationary(variance)
    assert curvature * law["position"].item() == pytest.approx(plain, rel=5e-3)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
@pytest.mark.parametrize("friction", FRICTIONS)
@pytest.mark.parametrize("h", [1e-4, 1e-2])
def test_correction_is_good_to_one_per_cent_wherever_it_is_feasible(
    linear_step, h, friction, share
):
    curvature = h / EPSILON**2
    variance = share * largest_variance(EPSILON, friction)
    sampler = SGHMC(EPSILON, friction, gradient_variance=variance)
    law = linear_step(sampler, curvature).stationary(variance)
    assert abs(curvature * law["position"].item() - 1) < 0.01


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
@pytest.mark.parametrize("friction", FRICTIONS)
@pytest.mark.parametrize("h", [1e-4, 1e-2])
def test_unaccounted_gradient_noise_inflates_as_predicted(
    linear_step, h, friction, share, temperature
):
    """The design rule: Var is 1 + ηV(1+μ)/(4(1−μ)T) times the truth, to 5 %."""
    curvature, mu = h / EPSILON**2, math.exp(-friction * EPSILON)
    variance = share * largest_variance(EPSILON, friction)
    predicted = 1 + EPSILON**2 * variance * (1 + mu) / (4 * (1 - mu) * temperature)
    sampler = SGHMC(EPSILON, friction)
    law = linear_step(sampler, curvature, temperature=temperature).stationary(variance)
    found = curvature * law["position"].item() / temperature
    assert found == pytest.approx(predicted, rel=0.05)


@pytest.mark.parametrize("share_of_kick", [lambda mu: mu**2, lambda mu: 1.0])
def test_the_check_catches_another_factor_in_the_correction(linear_step, share_of_kick):
    """Negative control: μ² or 1 in place of ((1 + μ)/2)² leaves more than 1 %."""
    epsilon, friction, curvature = EPSILON, 5.0, 1.0
    mu = math.exp(-friction * epsilon)
    variance = 0.5 * largest_variance(epsilon, friction)
    sampler = SGHMC(
        epsilon,
        friction,
        gradient_variance=variance * share_of_kick(mu) / ((1 + mu) / 2) ** 2,
    )
    law = linear_step(sampler, curvature).stationary(variance)
    assert abs(law["position"].item() - 1) > 0.01


def test_symplectic_correction_removes_exactly_the_gradient_noise(linear_step):
    """There the kick and the noise enter alike, so V̂ = V restores the noise-free law."""
    variance = np.array([3.0, 35.0])
    hessian = np.diag([1.0, 30.0])
    plain = SGHMC(EPSILON, 2.0, "symplectic")
    known = SGHMC(EPSILON, 2.0, "symplectic", gradient_variance=torch.tensor(variance))
    np.testing.assert_allclose(
        linear_step(known, hessian).stationary(variance)["position"],
        linear_step(plain, hessian).stationary()["position"],
        rtol=1e-9,
        atol=1e-12,
    )


def test_impossible_correction_is_clipped_and_counted():
    """Where ε²((1+μ)/2)²V̂ exceeds (1−μ²)T nothing is injected, and the statistic says so."""
    limit = largest_variance(EPSILON, 2.0)
    sampler = SGHMC(
        EPSILON, 2.0, gradient_variance=torch.tensor([0.0, 0.99, 1.01, 5.0]) * limit
    )
    settings = Settings(EPSILON, 1.0, warmup=False)
    zeros, ones = torch.zeros(2, 4), torch.ones(2, 4)
    state = sampler.init(zeros, zeros, settings)
    new, _ = take_step(sampler, lambda x, _: (x.sum(-1), 0 * x), state, None, ones, settings)
    assert (new.momentum != 0).tolist() == [[True, True, False, False]] * 2
    assert sampler.statistics(new, settings)["noise_clip_fraction"].tolist() == [0.5, 0.5]
    hot = settings._replace(temperature=10.0)
    assert sampler.statistics(new, hot)["noise_clip_fraction"].tolist() == [0.0, 0.0]
