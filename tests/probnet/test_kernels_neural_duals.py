"""Dual activations against quadrature, Monte Carlo and each other."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special

from inference import InferenceWarning
from probnet.kernels.neural.activations import dual_activation
from probnet.kernels.neural.duals import PiecewiseLinear
from probnet.kernels.neural.hermite import Hermite
from probnet.networks import ACTIVATIONS

CASES = [(0.3, 0.7, 0.4), (-0.8, 1.0, 2.0), (0.0, 0.5, 1.5)]  # k, q, q'
FUNCTIONS = {
    "relu": (lambda u: np.maximum(u, 0), lambda u: 1.0 * (u > 0)),
    "leaky_relu": (lambda u: np.where(u > 0, u, 0.01 * u), lambda u: np.where(u > 0, 1, 0.01)),
    "abs": (np.abs, np.sign),
    "identity": (lambda u: u, np.ones_like),
    "erf": (special.erf, lambda u: 2 / math.sqrt(math.pi) * np.exp(-(u**2))),
    "sin": (np.sin, np.cos),
    "cos": (np.cos, lambda u: -np.sin(u)),
    "tanh": (np.tanh, lambda u: 1 / np.cosh(u) ** 2),
    "gelu": (
        lambda u: u * special.ndtr(u),
        lambda u: special.ndtr(u) + u * np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi),
    ),
    "silu": (
        lambda u: u * special.expit(u),
        lambda u: special.expit(u) * (1 + u * (1 - special.expit(u))),
    ),
}


def by_quadrature(phi, k, q, q2):
    """E[φ(u)φ(v)] in polar coordinates, where kinks through the origin are lines of angle."""
    rho = k / math.sqrt(q * q2)
    tilt = math.asin(rho)

    def at_angle(t):
        def radial(r):
            u = math.sqrt(q) * r * math.cos(t)
            v = math.sqrt(q2) * r * math.sin(t + tilt)
            return phi(u) * phi(v) * r * math.exp(-(r**2) / 2) / (2 * math.pi)

        return integrate.quad(radial, 0, 12, epsabs=1e-12)[0]

    kinks = sorted(
        t % (2 * math.pi) for t in (math.pi / 2, 3 * math.pi / 2, -tilt, math.pi - tilt)
    )
    return integrate.quad(at_angle, 0, 2 * math.pi, points=kinks, limit=200, epsabs=1e-10)[0]


def tensors(*values):
    return [torch.tensor([v], dtype=torch.float64) for v in values]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_moments_are_those_of_the_activation(name):
    dual = dual_activation(name)
    phi, slope = FUNCTIONS[name]
    for k, q, q2 in CASES[:2]:
        found = dual.pair(*tensors(k, q, q2)), dual.pair_derivative(*tensors(k, q, q2))
        for value, function in zip(found, (phi, slope), strict=True):
            expected = by_quadrature(lambda u: float(function(np.float64(u))), k, q, q2)  # noqa: B023
            assert float(value) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_moments_are_the_limit_of_equal_inputs(name):
    dual = dual_activation(name)
    q = torch.tensor([0.01, 0.7, 3.0], dtype=torch.float64)
    torch.testing.assert_close(dual.pair(q, q, q), dual.second_moment(q), rtol=0, atol=1e-11)
    pair = dual.pair_derivative(q, q, q)
    expected = dual.derivative_second_moment(q)
    torch.testing.assert_close(pair, expected, rtol=0, atol=3e-6)  # κ₀ has a root at ρ = 1


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs", "erf", "sin", "cos", "tanh"])
def test_gradients_equal_central_differences(name):
    dual = dual_activation(name)
    for values in CASES:
        assert torch.autograd.gradcheck(
            dual.pair, [t.requires_grad_() for t in tensors(*values)], eps=1e-6, atol=1e-7
        )
        assert torch.autograd.gradcheck(
            dual.pair_derivative,
            [t.requires_grad_() for t in tensors(*values)],
            eps=1e-6, atol=1e-6,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["relu", "erf", "sin", "tanh"])
def test_hermite_series_agrees_with_closed_forms(name):
    """The series knows nothing of the closed forms; ReLU's kink makes it converge slowly."""
    series, dual = Hermite(ACTIVATIONS[name]), dual_activation(name)
    k, q, q2 = tensors(0.3, 0.7, 0.4)
    value = float(dual.pair(k, q, q2))
    if name == "relu":
        with pytest.warns(InferenceWarning, match="Hermite series"):
            assert float(series.pair(k, q, q2)) == pytest.approx(value, abs=1e-12)
    else:
        assert float(series.pair(k, q, q2)) == pytest.approx(value, abs=1e-12)


def test_a_steep_activation_is_reported():
    q = torch.full((3, 1), 400.0, dtype=torch.float64)
    with pytest.warns(InferenceWarning, match=r"Hermite series .* lacks"):
        Hermite(lambda u: torch.tanh(20 * u)).pair(q, q, q.T)


def test_zero_variance_gives_zero_and_finite_gradients():
    for name in ("relu", "leaky_relu", "erf", "tanh"):
        k, q, q2 = (t.requires_grad_() for t in tensors(0.0, 0.0, 1.3))
        value = dual_activation(name).pair(k, q, q2)
        gradients = torch.autograd.grad(value, (k, q, q2))
        assert float(value.detach()) == 0
        assert all(bool(torch.isfinite(g)) for g in gradients)


def test_slopes_of_a_dual_given_as_an_object():
    dual = dual_activation(PiecewiseLinear(0.2, 1.0))
    assert float(dual.second_moment(torch.tensor(2.0))) == pytest.approx(1.04)


def test_unknown_activations_are_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"`activation` must be one of .*Did you mean 'relu'"):
        dual_activation("reluu")
    with pytest.raises(TypeError, match="`activation` must be a name"):
        dual_activation(3)
