"""SGNHT: its thermostat finds gradient noise that nobody told it of."""

import math

import numpy as np
import pytest
import torch

from inference.samplers import SGHMC, SGNHT, Settings, take_step


def free(x, batch):
    del batch
    return x.sum(-1), torch.zeros_like(x)


def test_one_step_by_hand():
    """p' = p + εg − εξp + √(2aεT) n;  θ' = θ + εp';  ξ' = ξ + ε(p'ᵀp'/d − T)."""
    sampler, settings = SGNHT(0.1, 2.0), Settings(0.1, 3.0, warmup=False)
    position = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    noise = torch.tensor([[0.5, 0.25]], dtype=torch.float64)
    state = sampler.init(position, noise, settings)
    assert state.thermostat.tolist() == [[2.0]]
    np.testing.assert_allclose(state.momentum, math.sqrt(3) * noise)
    state = state._replace(thermostat=torch.tensor([[5.0]], dtype=torch.float64))
    new, info = take_step(
        sampler, lambda x, _: (-x.square().sum(-1) / 2, -x), state, None, noise, settings
    )
    p = math.sqrt(3) * noise.numpy() * 0.5 - 0.1 * position.numpy()
    p = p + math.sqrt(2 * 2 * 0.1 * 3) * noise.numpy()
    np.testing.assert_allclose(new.momentum, p)
    np.testing.assert_allclose(new.position, position.numpy() + 0.1 * p)
    assert new.thermostat.item() == pytest.approx(5 + 0.1 * ((p**2).mean() - 3))
    assert info.log_density.item() == -1
    found = sampler.statistics(new, settings)
    assert found["kinetic_temperature"].item() == pytest.approx((p**2).mean())
    assert found["thermostat"].item() == new.thermostat.item()


@pytest.mark.parametrize("h", [0.01, 1.0])
def test_with_its_thermostat_at_rest_it_is_symplectic_sghmc(linear_step, h):
    """ξ enters as the friction does: same drift, same noise, same response to gradients."""
    mine = linear_step(SGNHT(0.1, 2.0), h / 0.01, temperature=0.5)
    theirs = linear_step(SGHMC(0.1, 2.0, "symplectic"), h / 0.01, temperature=0.5)
    np.testing.assert_allclose(mine.drift, theirs.drift, rtol=1e-12)
    np.testing.assert_allclose(mine.noise, theirs.noise, rtol=1e-12)
    np.testing.assert_allclose(mine.gradient, theirs.gradient, rtol=1e-12)


def test_known_gradient_noise_is_taken_off_the_injected():
    sampler = SGNHT(0.1, 2.0, gradient_variance=torch.tensor([0.0, 30.0, 50.0]))
    settings = Settings(0.1, 1.0, warmup=False)
    zeros, ones = torch.zeros(1, 3).double(), torch.ones(1, 3).double()
    new, _ = take_step(
        sampler, free, sampler.init(zeros, zeros, settings), None, ones, settings
    )
    np.testing.assert_allclose(new.momentum, [[math.sqrt(0.4), math.sqrt(0.1), 0]], atol=1e-7)
    found = sampler.statistics(new, settings)["noise_clip_fraction"].item()
    assert found == pytest.approx(1 / 3)


def test_kicks_are_cut_in_warmup_only():
    sampler, force = SGNHT(0.1, 1.0), torch.tensor([[-1e6, 19.0, 1e6]])
    zeros = torch.zeros(1, 3)
    for warmup, expected in ((True, torch.tensor([[-2.0, 1.9, 2.0]])), (False, 0.1 * force)):
        settings = Settings(0.1, 0.0, warmup=warmup)
        state = sampler.init(zeros, zeros, settings)
        new, _ = take_step(
            sampler, lambda x, _: (x.sum(-1), force), state, None, zeros, settings
        )
        torch.testing.assert_close(new.momentum, expected)


def simulate(sampler, curvature, gradient_noise, *, steps=2000, chains=16, burn_in=500):
    """Means over draws of θ²λ, p² and, if there is one, the thermostat; one value per chain."""
    generator = torch.Generator().manual_seed(1)

    def normal():
        return torch.randn(chains, len(curvature), generator=generator, dtype=torch.float64)

    def evaluate(x, batch):
        del batch
        return x[:, 0], -curvature * x + math.sqrt(gradient_noise) * normal()

    settings = Settings(sampler.step_size, 1.0, warmup=False)
    state = sampler.init(normal() / curvature.sqrt(), normal(), settings)
    sums = [0.0, 0.0, 0.0]
    for step in range(steps):
        state, _ = take_step(sampler, evaluate, state, None, normal(), settings)
        if step >= burn_in:
            thermostat = getattr(state, "thermostat", torch.zeros(chains, 1))
            new = (
                (state.position.square() * curvature).mean(-1),
                state.momentum.square().mean(-1),
                thermostat.squeeze(-1),
            )
            sums = [a + b for a, b in zip(sums, new, strict=True)]
    return [(s / (steps - burn_in)).numpy() for s in sums]


def standard_error(values):
    return values.std(ddof=1) / math.sqrt(len(values))


def test_unknown_isotropic_gradient_noise_is_absorbed():
    """In many dimensions ξ is constant, and SGNHT is symplectic Euler at that friction.

    It receives the noise 2aεT + ε²V = 2εξT', and its momentum is kept at
    T = T'·[2/(2−εξ)]/(1 − h/(2(2−εξ))). Hence, at T = 1,
        ξ(1 − h/4 − εξ/2) = a + εV/2   and   λVar(θ) = T'/(1 − h/(2(2−εξ))) = 1 − εξ/2.
    Beside the error bars 1/d is allowed for, the thermostat's own fluctuation. At a fixed
    friction the same noise gives a variance of 1 + εV/(2a) = 3.
    """
    epsilon, friction, noise, dim = 0.05, 1.0, 80.0, 200
    curvature = torch.full((dim,), 1.0, dtype=torch.float64)
    position, momentum, thermostat = simulate(SGNHT(epsilon, friction), curvature, noise)
    b, c = 1 - epsilon**2 / 4, friction + epsilon * noise / 2
    xi = (b - math.sqrt(b**2 - 2 * epsilon * c)) / epsilon
    for found, expected in (
        (momentum, 1.0),
        (thermostat, xi),
        (position, 1 - epsilon * xi / 2),
    ):
        allowed = 4 * standard_error(found) + expected / dim
        assert abs(found.mean() - expected) < allowed

    fixed, _, _ = simulate(SGHMC(epsilon, friction, "symplectic"), curvature, noise)
    assert abs(fixed.mean() - 3) < 4 * standard_error(fixed) + 3 / dim + 3 * epsilon / 2


def test_refresh_and_expected_kinetic_temperature():
    """Half a move back with the old momentum, half a move on with the new one."""
    sampler, settings = SGNHT(0.1, 2.0), Settings(0.1, 4.0, warmup=False)
    ones = torch.ones(2, 3).double()
    start = sampler.init(ones, 5 * ones, settings)  # p = 10
    state = sampler.refresh(start, ones, settings)
    assert torch.equal(state.momentum, 2 * ones)
    torch.testing.assert_close(state.position, ones - 0.05 * 10 + 0.05 * 2)
    assert torch.equal(state.thermostat, 2 * ones[:, :1])
    assert sampler.stationary_kinetic_temperature(settings) == 4.0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"step_size": 0.0}, "`step_size`"),
        ({"friction": 0.0}, "`friction`"),
        ({"resample_every": 0}, "`resample_every`"),
    ],
)
def test_options_out_of_range_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        SGNHT(**options)
