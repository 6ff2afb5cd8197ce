"""JAX functions that torch calls, batches and differentiates."""

import numpy as np
import pytest
import torch

from inference.backends import load
from inference.rng import scoped_seed

with scoped_seed(0):  # importing NumPyro moves NumPy's global generator
    jax = pytest.importorskip("jax", reason="needs the extra 'jax'")
    pytest.importorskip("numpyro", reason="needs the extra 'jax'")
import jax.numpy as jnp

bridge = load("bridge")

WEIGHTS = np.array([1.0, 2.0, 3.0])
POSITIONS = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)


@pytest.fixture(scope="module")
def density():
    """−Σ w θ⁴ − r·θ, r the leaves."""

    def log_density(constants, position, *leaves):
        value = -(constants[0] * position**4).sum()
        return value - sum((leaf * position).sum() for leaf in leaves)

    return bridge.JaxDensity(log_density, (WEIGHTS,), torch.float64)


def value(position):
    return -(torch.from_numpy(WEIGHTS) * position**4).sum(-1)


def gradient(position):
    return -4 * torch.from_numpy(WEIGHTS) * position**3


def curvature(position):
    return -12 * torch.from_numpy(WEIGHTS) * position**2


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_value_and_gradient(density):
    leaf = POSITIONS[0].clone().requires_grad_()
    found = density(leaf)
    assert_close(found.detach(), value(POSITIONS[0]))
    assert_close(torch.autograd.grad(found, leaf)[0], gradient(POSITIONS[0]))


def test_batches(density):
    assert_close(torch.func.vmap(density)(POSITIONS), value(POSITIONS))
    assert_close(torch.func.vmap(torch.func.grad(density))(POSITIONS), gradient(POSITIONS))
    twice = torch.func.vmap(torch.func.vmap(density))(POSITIONS.reshape(2, 2, 3))
    assert_close(twice, value(POSITIONS).reshape(2, 2))


def test_gradient_of_a_batch(density):
    leaf = POSITIONS.clone().requires_grad_()
    total = torch.func.vmap(density)(leaf).sum()
    assert_close(torch.autograd.grad(total, leaf)[0], gradient(POSITIONS))


def test_second_derivatives(density):
    hessian = torch.func.jacrev(torch.func.grad(density))(POSITIONS[0])
    assert_close(hessian, torch.diag(curvature(POSITIONS[0])))
    leaf = POSITIONS[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(density(leaf), leaf, create_graph=True)
    assert_close(torch.autograd.grad(slope.sum(), leaf)[0], curvature(POSITIONS[0]))

    def product(position, vector):
        return torch.func.vjp(torch.func.grad(density), position)[1](vector)[0]

    found = torch.func.vmap(product)(POSITIONS, POSITIONS)
    assert_close(found, curvature(POSITIONS) * POSITIONS)


def test_batches_of_leaves(density):
    leaves = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)
    each = torch.func.vmap(density)(POSITIONS, leaves)
    assert_close(each, value(POSITIONS) - (leaves * POSITIONS).sum(-1))
    at_one = torch.func.vmap(density, in_dims=(None, 0))(POSITIONS[1], leaves)
    assert_close(at_one, value(POSITIONS[1]) - leaves @ POSITIONS[1])
    point = POSITIONS[1].clone().requires_grad_()
    total = torch.func.vmap(density, in_dims=(None, 0))(point, leaves).sum()
    expected = 4 * gradient(POSITIONS[1]) - leaves.sum(0)
    assert_close(torch.autograd.grad(total, point)[0], expected)


def test_functions_of_named_results():
    function = bridge.JaxFunction(
        lambda constants, x, y: {"sum": x + constants * y, "first": x[0]}, 2.0, torch.float64
    )
    found = function(POSITIONS[0], POSITIONS[1])
    assert_close(found["sum"], POSITIONS[0] + 2 * POSITIONS[1])
    batch = torch.func.vmap(function, in_dims=(0, None))(POSITIONS, POSITIONS[1])
    assert_close(batch["sum"], POSITIONS + 2 * POSITIONS[1])
    assert_close(batch["first"], POSITIONS[:, 0])


def test_precision_is_that_of_the_target_and_the_users_setting_stays():
    seen = []

    def function(constants, x):
        seen.append(jnp.zeros(1).dtype)
        return {"x": x / 3}

    third = torch.ones((), dtype=torch.float64)
    double = bridge.JaxFunction(function, (), torch.float64)(third)["x"]
    single = bridge.JaxFunction(function, (), torch.float32)(third.float())["x"]
    assert seen == [jnp.float64, jnp.float32]
    assert float(double) == 1 / 3
    assert single.dtype == torch.float32
    assert not jax.config.jax_enable_x64
    assert jnp.zeros(1).dtype == jnp.float32
