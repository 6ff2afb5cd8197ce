"""The bound equals Pyro's on the Pyro model; the physics terms; the learned precision."""

import math

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from inference.rng import scoped_seed
from probnet.datasets.fields import LevelSetGRF
from probnet.neural_operator import Darcy2D, DGenNO, MultiONet, TwoPhase, WendlandTests
from probnet.neural_operator.objective import (
    Bound,
    MeshPhysics,
    WeakPhysics,
    learned_precision,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bound():
    pde = Darcy2D(mesh=(8, 8))
    small = MultiONet(width=8, depth=3, sum_layers=2, initial_weight=0.1)
    model = DGenNO(pde, (9, 9), TwoPhase(5.0, 10.0), 3, decoder=small, input_decoder=small)
    physics = MeshPhysics(pde, torch.float64, CPU)
    networks = model.networks(seed=1).double()
    return Bound(networks, pde, TwoPhase(5.0, 10.0), physics, physics.num_residuals)


@pytest.fixture(scope="module")
def media():
    return LevelSetGRF(num_nodes=9).sample(5, seed=0).flatten(1)


SETTINGS = {"precision": 300.0, "temperature": 0.5, "beta": 0.7}


def _bound_of(bound, media, noise):
    terms = bound.terms(media, noise, SETTINGS["temperature"])
    return bound.value(terms, SETTINGS["precision"], SETTINGS["beta"])


def test_bound_equals_pyro_with_analytic_kl(bound, media):
    """With the same draw of z; Pyro sums over inputs, the bound averages."""
    with scoped_seed(3), torch.no_grad():
        pyros = -TraceMeanField_ELBO().loss(
            bound.pyro_model, bound.pyro_guide, media, **SETTINGS
        )
    with scoped_seed(3), torch.no_grad():
        encoding = bound.networks.encode(media)
        guide = torch.distributions.Normal(encoding.mean, encoding.scale)
        noise = (guide.rsample() - encoding.mean) / encoding.scale
        ours = _bound_of(bound, media, noise)
    assert float(ours) * len(media) == pytest.approx(pyros, rel=1e-10)


def test_bound_equals_pyro_with_sampled_kl_within_its_standard_error(bound, media):
    draws = 200
    with scoped_seed(4), torch.no_grad():
        elbo = Trace_ELBO()
        pyros = torch.tensor([
            -elbo.loss(bound.pyro_model, bound.pyro_guide, media, **SETTINGS)
            for _ in range(draws)
        ], dtype=torch.float64) / len(media)  # fmt: skip
        noise = torch.randn(draws, 5, 3, dtype=torch.float64)
        ours = torch.stack([_bound_of(bound, media, n) for n in noise])
    error = float((pyros.var() / draws + ours.var() / draws).sqrt())
    assert abs(float(pyros.mean() - ours.mean())) < 4 * error
    # Negative control: the KL term is far larger than that error.
    assert float(bound.networks.encode(media).kl().mean().detach()) > 20 * error


def test_pyro_sites(bound, media):
    with scoped_seed(0):
        trace = pyro.poutine.trace(bound.pyro_model).get_trace(media, 1.0)
    assert {"z", "x", "pde"} <= set(trace.nodes)


def test_physics_is_the_energy_of_the_candidate(bound, media):
    pde = bound.problem
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nodes = pde.nodes
    u = pde.mollifier(nodes) * bound.networks.solution_decoder(nodes, z)
    expected = pde.energy(u.reshape(5, 9, 9), bound.coefficients(media))
    torch.testing.assert_close(
        bound.physics(bound.networks, z, bound.coefficients(media)), expected
    )
    assert bound.num_residuals == 49  # inner nodes


def test_excess_is_half_the_squared_energy_error(bound, media):
    pde, coefficients = bound.problem, bound.coefficients(media)
    z = torch.zeros(5, 3, dtype=torch.float64)
    exact = pde.solve(coefficients)
    u = pde.mollifier(pde.nodes) * bound.networks.solution_decoder(pde.nodes, z)
    error = u.detach().reshape(5, 9, 9) - exact
    expected = (error * pde.stiffness_product(error, coefficients)).sum((-2, -1)) / 2
    with torch.no_grad():
        found = bound.physics.excess(
            bound.networks, z, coefficients, pde.loss(exact, coefficients)
        )
    torch.testing.assert_close(found, expected)


def test_weak_physics_reaches_the_decoder(bound, media):
    """One loss per input, with a gradient in the decoder; zero is another module's test."""
    pde = Darcy2D(mesh=(8, 8))
    tests = WendlandTests(num_centres=20, radius=0.1)
    stream = torch.Generator().manual_seed(0)
    physics = WeakPhysics(pde, tests, stream, torch.float64)
    z = torch.randn(5, 3, generator=stream, dtype=torch.float64)
    loss = physics(bound.networks, z, bound.coefficients(media))
    assert loss.shape == (5,)
    assert (loss > 0).all()
    loss.sum().backward()
    gradients = [p.grad for p in bound.networks.solution_decoder.parameters()]
    assert sum(g is not None and bool(g.abs().sum() > 0) for g in gradients) > 3
    bound.networks.zero_grad()


def test_precision_is_the_conjugate_mean():
    """For losses of N(0, 1/λ) residuals, M/2 of them on average λ⁻¹: the mean is λ again."""
    residuals = torch.randn(
        50, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ) / math.sqrt(40.0)
    found = learned_precision(residuals.square().sum(-1) / 2, 200)
    assert found == pytest.approx(40.0, rel=5 * math.sqrt(2 / 10_000))
