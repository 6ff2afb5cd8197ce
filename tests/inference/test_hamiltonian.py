"""Leapfrog trajectories: reversible, volume-preserving, of second order, safe in trouble."""

import math

import numpy as np
import pytest
import torch

from inference.errors import InferenceWarning
from inference.hamiltonian import Metric, Point, leapfrog, tempered, transition

DIM = 3
_RNG = np.random.default_rng(0)
_ROOT = torch.tensor(_RNG.normal(size=(DIM, DIM)))
COVARIANCE = _ROOT @ _ROOT.T + torch.eye(DIM).double()
METRICS = {"diagonal": Metric(COVARIANCE.diagonal()), "dense": Metric(COVARIANCE)}


def quartic(positions, batch):
    """log p = -Σ x⁴/4 - ½ (Σ x)²: neither separable nor quadratic."""
    del batch
    total = positions.sum(-1, keepdim=True)
    value = -(positions**4).sum(-1) / 4 - total[:, 0] ** 2 / 2
    return value, -(positions**3) - total


def harmonic(positions, batch):
    del batch
    return -positions.square().sum(-1) / 2, -positions


def point(positions, momenta, evaluate=quartic):
    return Point(positions, momenta, *evaluate(positions, None))


def some_points(chains=4, seed=1):
    rng = np.random.default_rng(seed)
    return point(*(torch.tensor(rng.normal(size=(chains, DIM))) for _ in range(2)))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_leapfrog_is_reversible(metric):
    start = some_points()
    end, _ = leapfrog(quartic, metric, start, 0.05, 17)
    back, broken = leapfrog(quartic, metric, end._replace(momentum=-end.momentum), 0.05, 17)
    torch.testing.assert_close(back.position, start.position, rtol=0, atol=1e-12)
    torch.testing.assert_close(-back.momentum, start.momentum, rtol=0, atol=1e-12)
    assert not broken.any()
    assert (end.position - start.position).abs().max() > 0.1


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_leapfrog_preserves_volume(metric):
    start = some_points(1)

    def flow(state):
        positions, momenta = state[None].split(DIM, dim=-1)
        end, _ = leapfrog(quartic, metric, point(positions, momenta), 0.1, 5)
        return torch.cat([end.position, end.momentum], -1)[0]

    state = torch.cat([start.position, start.momentum], -1)[0]
    step = 1e-5 * torch.eye(2 * DIM).double()
    columns = [(flow(state + e) - flow(state - e)) / 2e-5 for e in step]
    assert float(torch.linalg.det(torch.stack(columns))) == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_energy_error_is_of_second_order(metric):
    """Over a fixed time, halving the step quarters the error."""
    start, uniform = some_points(), torch.zeros(4).double()
    errors = [
        transition(
            quartic, metric, start, uniform, step_size=0.2 / n, num_steps=5 * n
        ).energy_error
        for n in (16, 32)
    ]
    torch.testing.assert_close(
        errors[0] / errors[1], torch.full((4,), 4.0).double(), rtol=0.02, atol=0
    )


def test_on_a_harmonic_oscillator_a_modified_energy_is_exact():
    """p² + (1 - ε²/4) x² is conserved, and n steps turn by n·arccos(1 - ε²/2)."""
    epsilon, steps = 0.7, 9
    one = torch.ones(1, 1).double()
    start = point(one, 0 * one, harmonic)
    end, _ = leapfrog(harmonic, Metric(torch.ones(1).double()), start, epsilon, steps)
    shape = 1 - epsilon**2 / 4
    found = end.momentum**2 + shape * end.position**2
    assert float(found) == pytest.approx(shape, abs=1e-13)
    angle = steps * math.acos(1 - epsilon**2 / 2)
    assert float(end.position) == pytest.approx(math.cos(angle), abs=1e-13)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_momentum_has_the_inverse_covariance(metric):
    """Its response to unit noise, R, has RᵀR = S⁻¹; whitening undoes S; energies agree."""
    units = torch.eye(DIM).double()
    covariance = metric.covariance if metric.covariance.ndim == 2 else metric.covariance.diag()
    response = metric.momentum(units)
    torch.testing.assert_close(response.T @ response, torch.linalg.inv(covariance))
    white = metric.whiten(units)
    torch.testing.assert_close(white @ white.T, torch.linalg.inv(covariance))
    torch.testing.assert_close(metric.kinetic(response), torch.full((DIM,), 0.5).double())
    torch.testing.assert_close(metric.velocity(units), covariance)


def test_an_indefinite_covariance_falls_back_to_its_diagonal():
    with pytest.warns(InferenceWarning, match="not positive definite"):
        metric = Metric(torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double())
    torch.testing.assert_close(metric.covariance, torch.ones(2).double())


def walled(kind):
    """A standard normal that is not finite beyond x₀ = 1: -inf, NaN, or NaN in its gradient."""

    def evaluate(positions, batch):
        assert torch.isfinite(positions).all()
        value, gradient = harmonic(positions, batch)
        outside = positions[:, 0] > 1
        if kind != "gradient":
            value = value.masked_fill(outside, kind)
        return value, gradient.masked_fill(outside[:, None], torch.nan)

    return evaluate


@pytest.mark.parametrize("kind", [-math.inf, math.nan, "gradient"])
def test_a_chain_that_breaks_off_is_rejected_and_leaves_the_others_alone(kind):
    zeros = torch.zeros(3, DIM).double()
    momenta = zeros.clone()
    momenta[:, 0] = torch.tensor([0.5, 5.0, -0.5])
    start = point(zeros, momenta, harmonic)
    uniform, metric = torch.zeros(3).double(), Metric(torch.ones(DIM).double())
    options = {"step_size": 0.3, "num_steps": 8}
    done = transition(walled(kind), metric, start, uniform, **options)
    assert done.diverging.tolist() == [False, True, False]
    assert done.accept_prob[1] == 0
    assert not done.accepted[1]
    assert torch.equal(done.next.position[1], start.position[1])
    free = transition(harmonic, metric, start, uniform, **options)
    for mine, other in zip(done.next, free.next, strict=True):
        assert torch.equal(mine[::2], other[::2])
        assert torch.isfinite(mine).all()


def test_an_energy_error_above_1000_is_rejected_whatever_the_uniform():
    start = point(torch.ones(1, 1).double(), torch.ones(1, 1).double(), harmonic)
    done = transition(
        harmonic,
        Metric(torch.ones(1).double()),
        start,
        torch.zeros(1).double(),
        step_size=3.0,
        num_steps=10,
    )
    assert math.isfinite(done.energy_error)
    assert bool(done.diverging)
    assert not bool(done.accepted)


def test_temperature_divides_density_and_gradient():
    positions = some_points().position
    for mine, other in zip(
        tempered(quartic, 4.0)(positions, None), quartic(positions, None), strict=True
    ):
        torch.testing.assert_close(mine, other / 4)
