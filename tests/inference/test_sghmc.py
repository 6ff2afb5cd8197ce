"""SGHMC against its exact stationary law: on a quadratic target a step is linear."""

import math

import numpy as np
import pytest
import torch

from inference.samplers import SGHMC, Settings, take_step

CURVATURES = [0.01, 0.5, 2.0, 3.5]  # h = ε²λ
FRICTIONS = [0.1, 2.0, 9.0]
EPSILON = 0.1


def symplectic(h, alpha):
    """λ·Var(θ)/T of symplectic Euler."""
    return 1 / (1 - h / (2 * (2 - alpha)))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("friction", [*FRICTIONS, 60.0])
@pytest.mark.parametrize("h", CURVATURES)
def test_baoa_is_exact_on_a_quadratic(
    linear_step, kinetic_temperature, h, friction, temperature
):
    sampler, hessian = SGHMC(step_size=EPSILON, friction=friction), h / EPSILON**2
    law = linear_step(sampler, hessian, temperature=temperature).stationary()
    assert hessian * law["position"].item() / temperature == pytest.approx(1, rel=1e-6)
    kinetic = kinetic_temperature(sampler, law["momentum"], temperature=temperature)
    assert kinetic == pytest.approx(temperature, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("friction", FRICTIONS)
@pytest.mark.parametrize("h", [0.01, 0.5, 2.0])
def test_symplectic_variance_follows_its_formula(
    linear_step, kinetic_temperature, h, friction, temperature
):
    """λ Var(θ) = T / (1 − h/(2(2−α))), and the momentum is 2/(2−α) times hotter still."""
    sampler = SGHMC(step_size=EPSILON, friction=friction, integrator="symplectic")
    alpha, hessian = friction * EPSILON, h / EPSILON**2
    law = linear_step(sampler, hessian, temperature=temperature).stationary()
    expected = temperature * symplectic(h, alpha)
    assert hessian * law["position"].item() == pytest.approx(expected, rel=1e-6)
    kinetic = kinetic_temperature(sampler, law["momentum"], temperature=temperature)
    assert kinetic == pytest.approx(expected * 2 / (2 - alpha), rel=1e-6)


@pytest.mark.parametrize("integrator", ["baoa", "symplectic"])
def test_correlated_coordinates_mix_as_their_eigenvectors_do(linear_step, integrator):
    """The step commutes with rotations: Cov(θ) is a function of the Hessian alone."""
    hessian = np.array([[4.0, 1.5, 0.0], [1.5, 2.0, -0.5], [0.0, -0.5, 9.0]])
    sampler = SGHMC(step_size=0.3, friction=1.5, integrator=integrator)
    found = linear_step(sampler, hessian).stationary()["position"]
    inflation = np.eye(3)
    if integrator == "symplectic":
        inflation = np.linalg.inv(np.eye(3) - 0.3**2 * hessian / (2 * (2 - 0.45)))
    np.testing.assert_allclose(found @ hessian, inflation, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("friction", FRICTIONS)
def test_steps_are_stable_up_to_the_stated_curvature(linear_step, friction):
    """BAOA: h < 4.  Symplectic Euler: h < 2(1 + μ), μ = 1 − aε."""
    limits = {"baoa": 4.0, "symplectic": 2 * (2 - friction * EPSILON)}
    for integrator, limit in limits.items():
        sampler = SGHMC(step_size=EPSILON, friction=friction, integrator=integrator)
        below = linear_step(sampler, 0.999 * limit / EPSILON**2).spectral_radius
        above = linear_step(sampler, 1.001 * limit / EPSILON**2).spectral_radius
        assert below < 1 < above


class ExplicitEuler(SGHMC):
    """What two other packages do: position and momentum both move by the old values."""

    def coefficients(self, settings):
        return settings

    def step(self, evaluate, state, batch, noise, settings, *, warmup=False):
        del warmup
        value, gradient = evaluate(state.position, batch)
        epsilon, decay = settings.step_size, self.friction * settings.step_size
        kick = math.sqrt(2 * decay * settings.temperature) * noise
        momentum = (1 - decay) * state.momentum + epsilon * gradient + kick
        position = state.position + epsilon * state.momentum
        return state._replace(position=position, momentum=momentum), (value, gradient)


class WrongNoise(SGHMC):
    """Symplectic Euler with the noise 1 − μ² of the exact friction instead of 2(1 − μ)."""

    def coefficients(self, settings):
        found = super().coefficients(settings)
        return found._replace(noise=found.noise * (1 - self.friction * settings.step_size / 2))


def test_the_check_catches_explicit_euler(linear_step):
    """Negative control with the closed form of that scheme, which is 2.013 here."""
    epsilon, a, curvature = 0.05, 1.0, 10.0
    h, alpha = epsilon**2 * curvature, a * epsilon
    law = linear_step(ExplicitEuler(epsilon, a), curvature).stationary()
    found = curvature * law["position"].item()
    excess = epsilon * curvature / (2 * a) * (2 - 1.5 * alpha + h / 2)
    assert found == pytest.approx((1 - alpha / 2 + h / 2) / (1 - alpha / 2 - excess), rel=1e-6)
    assert found == pytest.approx(2.013, abs=5e-4)
    good = linear_step(SGHMC(epsilon, a, "symplectic"), curvature).stationary()
    assert curvature * good["position"].item() == pytest.approx(1.0065, abs=5e-5)


@pytest.mark.parametrize("friction", FRICTIONS)
def test_the_check_catches_the_wrong_noise(linear_step, friction):
    """Negative control: (1 − μ²)/(2(1 − μ)) = (1 + μ)/2, which h = 0.01 cannot hide."""
    law = linear_step(WrongNoise(EPSILON, friction, "symplectic"), 1.0).stationary()
    alpha = friction * EPSILON
    assert law["position"].item() == pytest.approx(
        symplectic(0.01, alpha) * (1 - alpha / 2), rel=1e-6
    )
    assert abs(law["position"].item() / symplectic(0.01, alpha) - 1) > 4e-3


# -- one term at a time --------------------------------------------------------------------


def constant_force(force):
    return lambda position, batch: (position.sum(-1), torch.full_like(position, force))


@pytest.mark.parametrize("integrator", ["baoa", "symplectic"])
def test_zero_temperature_ignores_the_noise(integrator):
    sampler = SGHMC(0.1, 1.0, integrator)
    settings = Settings(0.1, 0.0, warmup=False)
    start = torch.arange(6.0).reshape(2, 3)
    state = sampler.init(start, torch.ones(2, 3), settings)
    assert not state.momentum.any()
    one, _ = take_step(sampler, constant_force(2.0), state, None, torch.ones(2, 3), settings)
    two, _ = take_step(sampler, constant_force(2.0), state, None, -torch.ones(2, 3), settings)
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_one_step_of_each_integrator_by_hand():
    """θ = 1, p = 3, g = −2, ξ = 0.5, T = 4."""
    settings = Settings(0.1, 4.0, warmup=False)
    start, noise = torch.ones(1, 1).double(), torch.full((1, 1), 0.5).double()
    state = SGHMC(0.1, 2.0).init(start, 1.5 * start, settings)
    assert state.momentum.item() == pytest.approx(3.0)  # p = √T·1.5

    mu = math.exp(-0.2)
    kicked = 3 - 0.2
    after = mu * kicked + math.sqrt((1 - mu**2) * 4) * 0.5
    new, info = take_step(SGHMC(0.1, 2.0), constant_force(-2.0), state, None, noise, settings)
    assert new.momentum.item() == pytest.approx(after)
    assert new.position.item() == pytest.approx(1 + 0.05 * kicked + 0.05 * after)
    assert (info.log_density.item(), info.gradient.item()) == (1.0, -2.0)

    after = 0.8 * 3 - 0.2 + math.sqrt(2 * 0.2 * 4) * 0.5
    new, _ = take_step(
        SGHMC(0.1, 2.0, "symplectic"), constant_force(-2.0), state, None, noise, settings
    )
    assert new.momentum.item() == pytest.approx(after)
    assert new.position.item() == pytest.approx(1 + 0.1 * after)


@pytest.mark.parametrize("integrator", ["baoa", "symplectic"])
def test_kicks_are_cut_in_warmup_only(integrator):
    """εg beyond ±2 a coordinate would throw a far chain to infinity."""
    sampler = SGHMC(0.1, 1e-9, integrator)
    force = torch.tensor([[-1e6, 19.0, 1e6]])
    zeros = torch.zeros(1, 3)
    found = {}
    for warmup in (True, False):
        settings = Settings(0.1, 0.0, warmup=warmup)
        state = sampler.init(zeros, zeros, settings)
        new, info = take_step(
            sampler, lambda x, _: (x.sum(-1), force), state, None, zeros, settings
        )
        found[warmup] = new.momentum
        assert torch.equal(info.gradient, force)
    torch.testing.assert_close(found[True], torch.tensor([[-2.0, 1.9, 2.0]]))
    torch.testing.assert_close(found[False], 0.1 * force)


def test_step_size_of_the_settings_rules():
    """A schedule changes `settings.step_size`; the sampler's own is only the base."""
    noise = torch.ones(1, 2)
    states = [
        take_step(
            SGHMC(base, 3.0),
            constant_force(1.0),
            SGHMC(base, 3.0).init(noise, noise, Settings(0.02, 1.0, warmup=False)),
            None,
            noise,
            Settings(0.02, 1.0, warmup=False),
        )[0]
        for base in (0.5, 0.02)
    ]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


@pytest.mark.parametrize("every", [1, 7, 50])
@pytest.mark.parametrize("friction", FRICTIONS)
@pytest.mark.parametrize("h", CURVATURES)
def test_redrawing_the_momentum_leaves_the_law_of_baoa_exact(linear_step, h, friction, every):
    """It is a step with μ = 0, in effect, and every μ has the same law."""
    step = linear_step(SGHMC(EPSILON, friction), h / EPSILON**2, temperature=0.5)
    law = step.stationary_resampled(every)
    assert h / EPSILON**2 * law["position"].item() == pytest.approx(0.5, rel=1e-6)
    assert law["momentum"].item() == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("every", [1, 7, 50])
@pytest.mark.parametrize("friction", FRICTIONS)
def test_redrawing_the_momentum_of_the_symplectic_form_errs_by_order_h(
    linear_step, friction, every
):
    """The redraw lacks the factor 1/(1 − h/(2(2−α))) of Var(p), and nothing else."""
    h = 1e-4
    step = linear_step(SGHMC(EPSILON, friction, "symplectic"), h / EPSILON**2)
    law = step.stationary_resampled(every)
    assert abs(h / EPSILON**2 * law["position"].item() - 1) < h


class RefreshInPlace(SGHMC):
    """A redraw that forgets how position and momentum are correlated between steps."""

    def refresh(self, state, noise, settings):
        return state._replace(momentum=settings.temperature**0.5 * noise)


@pytest.mark.parametrize("integrator", ["baoa", "symplectic"])
def test_the_check_catches_a_redraw_at_the_wrong_place(linear_step, integrator):
    """Negative control: every 7 steps it costs 10 % of the variance even as h tends to 0."""
    step = linear_step(RefreshInPlace(EPSILON, 1.0, integrator), 1e-2)
    found = 1e-2 * step.stationary_resampled(7)["position"].item()
    assert found < 0.9


def test_step_changes_nothing_in_place():
    settings = Settings(0.1, 1.0, warmup=False)
    sampler, noise = SGHMC(), torch.ones(2, 2)
    state = sampler.init(torch.ones(2, 2), noise, settings)
    before = [x.clone() for x in (state.position, state.momentum, noise)]
    take_step(sampler, constant_force(1.0), state, None, noise, settings)
    sampler.refresh(state, noise, settings)
    assert all(torch.equal(a, b) for a, b in zip((*state[:2], noise), before, strict=True))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"step_size": 0.0}, "`step_size`"),
        ({"friction": -1.0}, "`friction`"),
        ({"friction": math.inf}, "`friction`"),
        ({"integrator": "euler"}, "`integrator`"),
        ({"resample_every": 0}, "`resample_every`"),
        ({"step_size": 0.5, "friction": 2.1, "integrator": "symplectic"}, "at most 1"),
    ],
)
def test_options_out_of_range_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        SGHMC(**options)


def test_expected_kinetic_temperature_is_the_limit_of_small_steps(
    linear_step, kinetic_temperature
):
    settings = Settings(EPSILON, 0.5, warmup=False)
    for integrator in ("baoa", "symplectic"):
        sampler = SGHMC(EPSILON, 4.0, integrator)
        law = linear_step(sampler, 1e-6, temperature=0.5).stationary()
        found = kinetic_temperature(sampler, law["momentum"], temperature=0.5)
        assert sampler.stationary_kinetic_temperature(settings) == pytest.approx(
            found, rel=1e-6
        )
