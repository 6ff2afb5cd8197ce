"""Scale-adapted SGHMC: exact stationary law with V̂ frozen, and the warm-up's averages."""

import itertools
import math

import numpy as np
import pytest
import torch

from inference.samplers import SGHMC, AdaptiveSGHMC, Settings, take_step

EPSILON = 0.1
CASES = [  # h = ηλ, α, V̂, T
    *itertools.product([0.01, 0.5, 2.0], [0.05, 0.4], [0.04, 1.0, 25.0], [0.3, 1.0])
]


def predicted_variance(
    curvature, square, alpha, *, epsilon=EPSILON, kappa=0.0, noise=0.0, temperature=1.0
):
    """λ·Var(θ) = [T + ε⁴(V/V̂ − κ)/(2ηα)] / (1 − ηλ/(2(2−α))), η = ε²/√V̂."""
    eta = epsilon**2 / math.sqrt(square)
    numerator = temperature + epsilon**4 * (noise / square - kappa) / (2 * eta * alpha)
    return numerator / (1 - eta * curvature / (2 * (2 - alpha)))


def found_law(linear_step, sampler, curvature, square, *, temperature=1.0, noise=0.0):
    return linear_step(
        sampler, curvature, temperature=temperature, frozen={"gradient_square": square}
    ).stationary(noise)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_symplectic_variance_follows_its_formula(linear_step, kinetic_temperature, case):
    """λ Var(θ) = T / (1 − h/(2(2−α))), h = ηλ."""
    h, alpha, square, temperature = case
    sampler = AdaptiveSGHMC(EPSILON, alpha)
    curvature = h * math.sqrt(square) / EPSILON**2
    law = found_law(linear_step, sampler, curvature, square, temperature=temperature)
    expected = predicted_variance(curvature, square, alpha, temperature=temperature)
    assert expected == pytest.approx(temperature / (1 - h / (2 * (2 - alpha))))
    assert curvature * law["position"].item() == pytest.approx(expected, rel=1e-6)
    kinetic = kinetic_temperature(
        sampler, law["momentum"], temperature=temperature, frozen={"gradient_square": square}
    )
    assert kinetic == pytest.approx(expected * 2 / (2 - alpha), rel=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("square", [0.5, 4.0])
def test_noise_correction_follows_its_formula(linear_step, square, kappa, noise):
    """κ = 1 is right if V = V̂; with exact gradients it takes off ε²√V̂/(2α) too much."""
    alpha, curvature = 0.05, 10.0
    sampler = AdaptiveSGHMC(EPSILON, alpha, noise_correction=kappa)
    law = found_law(linear_step, sampler, curvature, square, noise=noise)
    expected = predicted_variance(curvature, square, alpha, kappa=kappa, noise=noise)
    assert curvature * law["position"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.01, 0.2])
def test_exact_gradients_and_the_published_update_are_underdispersed(linear_step, alpha):
    """[1 − κε⁴/(2ηα)] / (1 − ηλ/(2(2−α))) with κ = 1: short by ε²√V̂/(2α)."""
    square, curvature = 2.0, 1.0
    full = AdaptiveSGHMC(EPSILON, alpha, noise_correction=1.0)
    reference = AdaptiveSGHMC(EPSILON, alpha, reference=True)
    eta = EPSILON**2 / math.sqrt(square)
    shortfall = EPSILON**2 * math.sqrt(square) / (2 * alpha)
    expected = (1 - shortfall) / (1 - eta * curvature / (2 * (2 - alpha)))
    for sampler in (full, reference):
        law = found_law(linear_step, sampler, curvature, square)
        assert curvature * law["position"].item() == pytest.approx(expected, rel=1e-6)
    assert shortfall > 0.03  # so the default, without the correction, is told apart


@pytest.mark.parametrize("square", [0.04, 1.0, 25.0])
@pytest.mark.parametrize("alpha", [0.05, 0.4])
@pytest.mark.parametrize("h", [0.01, 0.5, 2.0, 3.5])
def test_baoa_is_exact(linear_step, kinetic_temperature, h, alpha, square):
    sampler = AdaptiveSGHMC(EPSILON, alpha, integrator="baoa")
    curvature = h * math.sqrt(square) / EPSILON**2  # h = ε_i²λ, ε_i² = ε²/√V̂
    law = found_law(linear_step, sampler, curvature, square, temperature=0.7)
    assert curvature * law["position"].item() == pytest.approx(0.7, rel=1e-6)
    kinetic = kinetic_temperature(
        sampler, law["momentum"], temperature=0.7, frozen={"gradient_square": square}
    )
    assert kinetic == pytest.approx(0.7, rel=1e-6)


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_baoa_takes_the_gradient_noise_off_to_one_per_cent(linear_step, share):
    """κ = 1 and V = V̂, up to 0.8 of the largest that leaves any noise: ε_i²V̂ ≤ 4(1−μ)/(1+μ)."""
    alpha, h = 0.1, 1e-3
    mu = 1 - alpha
    # ε_i² V̂ = ε² √V̂ = share · 4(1−μ)/(1+μ)
    square = (share * 4 * alpha / (1 + mu) / EPSILON**2) ** 2
    curvature = h * math.sqrt(square) / EPSILON**2
    sampler = AdaptiveSGHMC(EPSILON, alpha, noise_correction=1.0, integrator="baoa")
    law = found_law(linear_step, sampler, curvature, square, noise=square)
    assert abs(curvature * law["position"].item() - 1) < 0.01
    plain = AdaptiveSGHMC(EPSILON, alpha, integrator="baoa")
    law = found_law(linear_step, plain, curvature, square, noise=square)
    assert curvature * law["position"].item() == pytest.approx(1 + share, rel=0.05)


def test_each_coordinate_has_its_own_mass(linear_step):
    """Scales of 1 and 10⁴ sampled together; the same law as SGHMC's on the scaled problem."""
    curvature, square = np.array([1.0, 1e4]), torch.tensor([1.0, 1e8])
    for integrator in ("symplectic", "baoa"):
        sampler = AdaptiveSGHMC(0.3, 0.2, integrator=integrator)
        law = linear_step(
            sampler, np.diag(curvature), frozen={"gradient_square": square}
        ).stationary()
        friction = 0.2 if integrator == "symplectic" else -math.log(0.8)
        scaled = SGHMC(0.3, friction / 0.3, integrator)
        expected = linear_step(scaled, 1.0).stationary()["position"].item()
        np.testing.assert_allclose(
            np.diag(law["position"]) * curvature, [expected, expected], rtol=1e-6
        )


class WrongSign(AdaptiveSGHMC):
    """The correction added where it should be taken off."""

    def _raw_noise_variance(self, state, settings):
        wanted = 2 * settings.step_size**2 * self.momentum_decay * self._inverse_mass(state)
        return wanted + self.noise_correction * settings.step_size**4


class UnscaledNoise(AdaptiveSGHMC):
    """The noise of unit mass with the drift of the adapted one."""

    def _raw_noise_variance(self, state, settings):
        right = super()._raw_noise_variance(state, settings)
        return right / self._inverse_mass(state)


@pytest.mark.parametrize("kind", [WrongSign, UnscaledNoise])
def test_the_check_catches_a_wrong_noise(linear_step, kind):
    square, alpha, curvature = 2.0, 0.05, 1.0
    wrong = found_law(linear_step, kind(EPSILON, alpha, 1.0), curvature, square)
    expected = predicted_variance(curvature, square, alpha, kappa=1.0)
    assert abs(curvature * wrong["position"].item() / expected - 1) > 0.05


# -- the averages of the warm-up -----------------------------------------------------------


def run(sampler, gradients, *, warmup, temperature=1.0):
    """States along given gradients (steps, dim) of log p, without noise."""
    settings = Settings(sampler.step_size, temperature, warmup=warmup)
    zeros = torch.zeros(1, gradients.shape[1], dtype=torch.float64)
    states = [sampler.init(zeros, zeros, settings)]
    for gradient in gradients:
        state, _ = take_step(
            sampler,
            lambda x, _, g=gradient: (x.sum(-1), g[None]),
            states[-1],
            None,
            zeros,
            settings,
        )
        states.append(state)
    return states


@pytest.mark.parametrize("reference", [False, True])
def test_warmup_averages_follow_the_published_update(reference):
    """A plain rewriting: r = 1/(τ+1), then τ, ḡ, V̂ in this order, all from the old values."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(3, 2, (40, 2))
    tau, mean, square = np.ones(2), np.ones(2), np.ones(2)
    sampler = AdaptiveSGHMC(reference=reference)
    delta = 1e-16 if reference else 1e-10
    states = run(sampler, torch.tensor(gradients), warmup=True)[1:]
    velocity = np.zeros(2)
    for gradient, state in zip(gradients, states, strict=True):
        g = -gradient  # of the potential
        r = 1 / (tau + 1)
        tau, mean, square = (
            tau + 1 - tau * mean**2 / (square + delta),
            mean + r * (g - mean),
            square + r * (g**2 - square),
        )
        np.testing.assert_allclose(state.window[0], tau, rtol=1e-12)
        np.testing.assert_allclose(state.gradient_mean[0], mean, rtol=1e-12)
        np.testing.assert_allclose(state.gradient_square[0], square, rtol=1e-12)
        velocity = 0.95 * velocity - 1e-4 * g / (np.sqrt(square) + delta)
        np.testing.assert_allclose(state.momentum[0], velocity, rtol=1e-9)


def test_the_second_moment_is_learnt():
    """V̂ tends to E[g²] of independent gradients, whatever their scale.

    For E g = 0 the window τ grows to the number of steps, 1000, so the relative error is about
    √(2/1000) = 4.5 %; four of those, and the start's share, are allowed.
    """
    scale = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    gradients = scale * torch.randn(1000, 3, generator=generator, dtype=torch.float64)
    last = run(AdaptiveSGHMC(), gradients, warmup=True)[-1]
    np.testing.assert_allclose(last.gradient_square[0], scale**2, rtol=0.2)


@pytest.mark.parametrize("integrator", ["symplectic", "baoa"])
def test_averages_are_frozen_after_warmup(integrator):
    gradients = torch.randn(10, 2, generator=torch.Generator().manual_seed(0)).double()
    states = run(AdaptiveSGHMC(integrator=integrator), gradients, warmup=False)
    for name in ("window", "gradient_mean", "gradient_square"):
        assert all(torch.equal(getattr(s, name), torch.ones(1, 2).double()) for s in states)
    assert not torch.equal(states[0].position, states[-1].position)


# -- one term at a time --------------------------------------------------------------------


def step_with(sampler, noise, *, square=1.0, temperature=1.0):
    settings = Settings(sampler.step_size, temperature, warmup=False)
    zeros = torch.zeros_like(noise)
    state = sampler.init(zeros, zeros, settings)
    state = state._replace(gradient_square=zeros + square)
    new, _ = take_step(sampler, lambda x, _: (x.sum(-1), 0 * x), state, None, noise, settings)
    return new, settings


def test_start():
    """τ = ḡ = V̂ = 1; the published form starts at rest, BAOA with p ~ N(0, T)."""
    settings = Settings(0.01, 4.0, warmup=True)
    ones = torch.ones(2, 3)
    state = AdaptiveSGHMC().init(5 * ones, ones, settings)
    assert not state.momentum.any()
    for name in ("window", "gradient_mean", "gradient_square"):
        assert torch.equal(getattr(state, name), ones)
    moving = AdaptiveSGHMC(integrator="baoa").init(5 * ones, ones, settings)
    assert torch.equal(moving.momentum, 2 * ones)


def test_clipped_noise_is_zero_and_counted_and_floored_in_the_published_form():
    """2ε²αm − ε⁴ < 0 where √V̂ > 2α/ε²: no noise, or a variance of 1e-16 in the reference."""
    noise = torch.ones(1, 2, dtype=torch.float64)
    square = (torch.tensor([0.9, 1.1], dtype=torch.float64) * 2 * 0.05 / 0.1**2) ** 2
    sampler = AdaptiveSGHMC(0.1, 0.05, noise_correction=1.0)
    new, settings = step_with(sampler, noise, square=square)
    assert (new.momentum != 0).tolist() == [[True, False]]
    assert sampler.statistics(new, settings)["noise_clip_fraction"].tolist() == [0.5]
    sampler = AdaptiveSGHMC(0.1, 0.05, reference=True)
    new, settings = step_with(sampler, noise, square=square)
    assert new.momentum[0, 1].item() == pytest.approx(1e-8)
    assert sampler.statistics(new, settings)["noise_clip_fraction"].tolist() == [0.5]


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("square", [0.04, 25.0])
@pytest.mark.parametrize("integrator", ["symplectic", "baoa"])
def test_redrawing_the_momentum_keeps_the_law(linear_step, integrator, square, every):
    """Exact for BAOA; the redraw of the symplectic form is short of Var(v) by order h."""
    h = 2.0 if integrator == "baoa" else 1e-4
    sampler = AdaptiveSGHMC(EPSILON, 0.3, integrator=integrator)
    curvature = h * math.sqrt(square) / EPSILON**2
    step = linear_step(sampler, curvature, temperature=0.5, frozen={"gradient_square": square})
    found = curvature * step.stationary_resampled(every)["position"].item() / 0.5
    assert abs(found - 1) < (1e-6 if integrator == "baoa" else h)


@pytest.mark.parametrize("integrator", ["symplectic", "baoa"])
def test_a_redrawn_momentum_is_at_the_stationary_temperature(integrator):
    sampler = AdaptiveSGHMC(0.1, 0.3, integrator=integrator)
    noise = torch.ones(1, 2, dtype=torch.float64)
    state, settings = step_with(sampler, noise, square=16.0, temperature=4.0)
    new = sampler.refresh(state, noise, settings)
    found = sampler.statistics(new, settings)["kinetic_temperature"].item()
    assert found == pytest.approx(sampler.stationary_kinetic_temperature(settings))


def test_expected_kinetic_temperature_is_the_limit_of_small_steps(
    linear_step, kinetic_temperature
):
    for integrator in ("symplectic", "baoa"):
        sampler = AdaptiveSGHMC(0.1, 0.3, integrator=integrator)
        law = found_law(linear_step, sampler, 1e-6, 1.0, temperature=0.5)
        found = kinetic_temperature(sampler, law["momentum"], temperature=0.5)
        settings = Settings(0.1, 0.5, warmup=False)
        assert sampler.stationary_kinetic_temperature(settings) == pytest.approx(
            found, rel=1e-6
        )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"step_size": 0.0}, "`step_size`"),
        ({"momentum_decay": 0.0}, "`momentum_decay`"),
        ({"momentum_decay": 1.0}, "`momentum_decay`"),
        ({"noise_correction": 1.1}, "`noise_correction`"),
        ({"integrator": "euler"}, "`integrator`"),
        ({"resample_every": 0}, "`resample_every`"),
        ({"reference": True, "integrator": "baoa"}, "`reference`"),
    ],
)
def test_options_out_of_range_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        AdaptiveSGHMC(**options)
