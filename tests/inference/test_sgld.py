"""SGLD against its exact stationary law on a quadratic target."""

import numpy as np
import pytest
import torch

from inference.samplers import SGLD, Settings, take_step

FIELDS = ("position",)


def stationary_variance(linear_step, sampler, curvature, *, temperature=1.0, noise=0.0):
    found = linear_step(sampler, curvature, temperature=temperature, fields=FIELDS)
    return found.stationary(noise)["position"].item()


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("h", [0.01, 0.5, 1.0, 1.9])
def test_variance_follows_its_formula(linear_step, h, temperature):
    """λ Var(θ) = T / (1 − ελ/2)."""
    epsilon = 0.2
    curvature = h / epsilon
    found = stationary_variance(linear_step, SGLD(epsilon), curvature, temperature=temperature)
    assert curvature * found == pytest.approx(temperature / (1 - h / 2), rel=1e-6)


def test_correlated_coordinates(linear_step):
    hessian = np.array([[4.0, 1.5], [1.5, 2.0]])
    found = linear_step(SGLD(0.1), hessian, fields=FIELDS).stationary()["position"]
    expected = np.linalg.inv(hessian @ (np.eye(2) - 0.05 * hessian))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_stable_below_two(linear_step):
    for h, stable in ((1.999, True), (2.001, False)):
        radius = linear_step(SGLD(0.1), h / 0.1, fields=FIELDS).spectral_radius
        assert (radius < 1) is stable


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_known_gradient_noise_is_taken_off_exactly(linear_step, share):
    """εV̂ ≤ 2T; V̂ = V restores the noise-free variance, V̂ = 0 inflates it by 1 + εV/(2T)."""
    epsilon, curvature, temperature = 0.05, 4.0, 0.5
    variance = share * 2 * temperature / epsilon
    exact = temperature / curvature / (1 - epsilon * curvature / 2)
    for known, expected in (
        (variance, exact),
        (None, exact * (1 + epsilon * variance / (2 * temperature))),
    ):
        sampler = SGLD(epsilon, gradient_variance=known)
        found = stationary_variance(
            linear_step, sampler, curvature, temperature=temperature, noise=variance
        )
        assert found == pytest.approx(expected, rel=1e-6)


class HalfNoise(SGLD):
    """A frequent slip: noise ε instead of 2ε with the drift of ε∇log p."""

    def coefficients(self, settings):
        found = super().coefficients(settings)
        return found._replace(noise=found.noise / 2)


def test_the_check_catches_a_wrong_noise(linear_step):
    assert stationary_variance(linear_step, HalfNoise(0.01), 1.0) == pytest.approx(
        0.5, rel=0.01
    )


def test_one_step_by_hand():
    """θ' = θ + εg + √(2εT − ε²V̂) ξ."""
    sampler = SGLD(0.1, gradient_variance=5.0)
    settings = Settings(0.1, 3.0, warmup=False)
    position, noise = torch.tensor([[2.0]]).double(), torch.tensor([[0.7]]).double()
    state = sampler.init(position, noise, settings)
    new, info = take_step(
        sampler, lambda x, _: (-x.square().sum(-1) / 2, -x), state, None, noise, settings
    )
    assert new.position.item() == pytest.approx(2 - 0.2 + (0.6 - 0.05) ** 0.5 * 0.7)
    assert (info.log_density.item(), info.gradient.item()) == (-2.0, -2.0)


def test_kicks_are_cut_in_warmup_only():
    """A move εg is at most 2√ε a coordinate while the chain comes from afar."""
    sampler, force = SGLD(0.04), torch.tensor([[-1e6, 9.0, 1e6]])
    zeros = torch.zeros(1, 3)
    for warmup, expected in ((True, torch.tensor([[-0.4, 0.36, 0.4]])), (False, 0.04 * force)):
        settings = Settings(0.04, 0.0, warmup=warmup)
        state = sampler.init(zeros, zeros, settings)
        new, info = take_step(
            sampler, lambda x, _: (x.sum(-1), force), state, None, zeros, settings
        )
        torch.testing.assert_close(new.position, expected)
        assert torch.equal(info.gradient, force)


def test_no_momentum_and_nothing_to_refresh():
    sampler, settings = SGLD(0.1), Settings(0.1, 1.0, warmup=False)
    state = sampler.init(torch.ones(2, 3), torch.ones(2, 3), settings)
    assert sampler.refresh(state, torch.ones(2, 3), settings) is state
    assert sampler.resample_every is None
    assert sampler.stationary_kinetic_temperature(settings) is None
    assert sampler.statistics(state, settings)["noise_clip_fraction"].tolist() == [0.0, 0.0]


def test_impossible_correction_is_clipped_and_counted():
    limit = 2 / 0.1
    sampler = SGLD(0.1, gradient_variance=torch.tensor([0.99, 1.01]) * limit)
    settings = Settings(0.1, 1.0, warmup=False)
    state = sampler.init(torch.zeros(1, 2), torch.zeros(1, 2), settings)
    new, _ = take_step(
        sampler, lambda x, _: (x.sum(-1), 0 * x), state, None, torch.ones(1, 2), settings
    )
    assert (new.position != 0).tolist() == [[True, False]]
    assert sampler.statistics(new, settings)["noise_clip_fraction"].tolist() == [0.5]


def test_step_size_must_be_positive():
    with pytest.raises(ValueError, match="`step_size`"):
        SGLD(step_size=-0.1)
