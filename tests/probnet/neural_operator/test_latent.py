"""Latent posteriors: a linear network's is Gaussian, in closed form; modes of a bent one."""

import math

import numpy as np
import pytest
import torch

from inference import diagnostics
from probnet.neural_operator.latent import (
    Readout,
    find_modes,
    latent_target,
    starting_points,
    whiten,
)
from probnet.neural_operator.latent_sampling import sample_many, sample_one
from probnet.neural_operator.model_error import ModelError
from probnet.neural_operator.observations import Observations

DIM, SENSORS, NOISE_SD, LIMIT = 3, 4, 0.3, 4.5


def random(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def readout(seed):
    return Readout(random(SENSORS, DIM, seed=seed), random(SENSORS, seed=seed + 100))


def observations(seed):
    return Observations(random(SENSORS, seed=seed + 50), torch.zeros(SENSORS, 2), NOISE_SD)


def model_error(seed):
    return ModelError(0.2 * random(30, SENSORS, seed=seed) + 0.1).at(lambda values: values)


def problems(seeds, *, with_error):
    readouts, data = [readout(s) for s in seeds], [observations(s) for s in seeds]
    errors = [model_error(s) if with_error else None for s in seeds]
    return readouts, data, errors


def closed_form(map_, data, error):
    """Mean and covariance of w given y = Tw + t + e + noise."""
    covariance, target = NOISE_SD**2 * torch.eye(SENSORS).double(), data.y - map_.offset
    if error is not None:
        covariance, target = covariance + error.covariance, target - error.mean
    weighted = torch.linalg.solve(covariance, map_.features)
    posterior = torch.linalg.inv(torch.eye(DIM).double() + map_.features.T @ weighted)
    return posterior @ weighted.T @ target, posterior


def check_gaussian(draws, mean, covariance):
    """First and second moments of draws (chain, draw, dim) within Monte Carlo error."""
    values = draws.numpy()
    error = values.std((0, 1)) / diagnostics.ess(values) ** 0.5
    assert abs((values.mean((0, 1)) - mean.numpy()) / error).max() < LIMIT
    squares = (values - mean.numpy()) ** 2
    error = squares.std((0, 1)) / diagnostics.ess(squares) ** 0.5
    expected = covariance.diagonal().numpy()
    assert abs((squares.mean((0, 1)) - expected) / error).max() < LIMIT


@pytest.mark.parametrize("with_error", [False, True])
def test_modes_of_a_linear_network_are_the_posterior(with_error):
    readouts, data, errors = problems([0, 1], with_error=with_error)
    target = latent_target(torch.clone, readouts, data, errors, DIM)
    modes = find_modes(target, seed=0, num_starts=3)
    for i in range(2):
        mean, covariance = closed_form(readouts[i], data[i], errors[i])
        torch.testing.assert_close(modes.positions[i], mean.expand(3, -1))
        factor = modes.factors[i, 0]
        torch.testing.assert_close(factor @ factor.T, covariance)
    torch.testing.assert_close(modes.log_weights, torch.full((2, 3), -math.log(3.0)).double())


def test_whitened_density_is_standard_normal_up_to_a_constant():
    target = latent_target(torch.clone, *problems([0, 1], with_error=True), DIM)
    whitened = whiten(target, find_modes(target, seed=0, num_starts=2))
    v = random(6, DIM, seed=3)
    constant = (whitened.log_density(v) + v.square().sum(-1) / 2).unflatten(0, (2, 3))
    torch.testing.assert_close(constant, constant[:, :1].expand(-1, 3))
    torch.testing.assert_close(whitened.coordinates(whitened.base(v)), v)


def test_a_bent_network_has_two_modes_and_chains_start_in_both():
    """U = w₀² + 0.1 w₁ with y = 1: modes at w₀ = ±0.99 of equal weight."""

    def bent(w):
        return torch.stack([w[:, 0] ** 2, 0.1 * w[:, 1]], -1)

    sensor = Readout(torch.ones(1, 2).double(), torch.zeros(1).double())
    data = Observations(torch.ones(1).double(), torch.zeros(1, 2), 0.1)
    target = latent_target(bent, [sensor], [data], [None], 2)
    modes = find_modes(target, seed=0, num_starts=12)
    first = modes.positions[0, :, 0]
    assert set(first.sign().tolist()) == {-1.0, 1.0}
    assert float((first.abs() - 0.994).abs().max()) < 0.01
    starts = starting_points(modes, 20, seed=0)
    assert 3 <= int((starts[:, 0] > 0).sum()) <= 17


def test_jacobians_are_those_of_autograd():
    weights = random(5, DIM, seed=9)

    def network(w):
        return torch.tanh(w @ weights.T)

    readouts = [Readout(random(SENSORS, 5, seed=s), random(SENSORS, seed=s)) for s in (1, 2)]
    data = [observations(s) for s in (1, 2)]
    target = latent_target(network, readouts, data, [None, None], DIM)
    base = random(4, DIM, seed=4)
    residual, jacobian = target.linearise(base)
    full = torch.autograd.functional.jacobian(target.residual, base)
    own = torch.stack([full[i, :, i] for i in range(4)])
    torch.testing.assert_close(jacobian, own)
    torch.testing.assert_close(residual, target.residual(base))


@pytest.mark.parametrize("method", ["nuts", "hmc", "svi"])
def test_each_method_samples_the_posterior(method):
    readouts, data, errors = problems([0], with_error=True)
    target = latent_target(torch.clone, readouts, data, errors, DIM)
    modes = find_modes(target, seed=0, num_starts=2)
    whitened = whiten(target, modes)
    draws = sample_one(
        whitened,
        starting_points(modes, 2, seed=0),
        method=method,
        num_samples=150,
        num_warmup=60,
        seed=0,
        progress=False,
        options={"num_steps": 100} if method == "svi" else {},
    )
    v = torch.from_numpy(np.array(draws.draws["v"]))
    base = whitened.base(v.flatten(0, 1)).reshape(v.shape)
    mean, covariance = closed_form(readouts[0], data[0], errors[0])
    check_gaussian(base, mean, covariance)


def test_many_problems_are_sampled_together():
    seeds = [0, 1, 2]
    readouts, data, errors = problems(seeds, with_error=False)
    target = latent_target(torch.clone, readouts, data, errors, DIM)
    modes = find_modes(target, seed=0, num_starts=2)
    whitened = whiten(target, modes)
    starts = starting_points(modes, 2, seed=0)
    v, stats = sample_many(
        whitened, starts, num_samples=300, num_warmup=100, seed=0, progress=False
    )
    assert v.shape == (3, 2, 300, DIM)
    assert stats["acceptance_rate"].shape == (3, 2, 300)
    base = whitened.base(v.flatten(0, 2)).reshape(v.shape)
    for i in range(3):
        check_gaussian(base[i], *closed_form(readouts[i], data[i], None))
