"""Derivatives against automatic differentiation, and the kernels as covariances."""

import math

import pytest
import torch

from probnet.kernels import GaussianSpectralMixture, StudentTSpectralMixture
from probnet.kernels.spectral import SMOOTHNESSES, spectral_derivatives

PARAMETERS = [
    torch.tensor(v, dtype=torch.float64) for v in ([0.5, 2.0], [0.3, 1.0], [0.0, 3.0])
]


def kernel(r, smoothness, order=0, **options):
    return spectral_derivatives(
        r, *PARAMETERS, smoothness=smoothness, max_order=order, **options
    )


@pytest.mark.parametrize("smoothness", SMOOTHNESSES)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_derivatives_match_autodiff(smoothness, order):
    r = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leaf = r.clone().requires_grad_()
    value = kernel(leaf, smoothness)[0]
    for _ in range(order):
        (value,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
    found = kernel(r, smoothness, order)[order]
    assert (found - value).abs().max() <= 1e-9 * found.abs().max()


@pytest.mark.parametrize("smoothness", SMOOTHNESSES)
def test_derivatives_at_zero_are_moments_of_the_spectrum(smoothness):
    """Σ w times the moment of frequency about zero: odd ones vanish, even ones are known."""
    weight, lengthscale, frequency = PARAMETERS
    omega = 2 * math.pi * frequency
    # Moments of the envelope's spectrum: -m''(0) and m''''(0).
    second = smoothness / (smoothness - 1) if math.isfinite(smoothness) else 1.0
    fourth = (
        3 * smoothness**2 / ((smoothness - 1) * (smoothness - 2))
        if math.isfinite(smoothness)
        else 3.0
    )
    a, b = second / lengthscale**2, fourth / lengthscale**4
    found = kernel(torch.zeros((), dtype=torch.float64), smoothness, 4)
    expected = [
        weight.sum(),
        torch.zeros(()).double(),
        -(weight * (a + omega**2)).sum(),
        torch.zeros(()).double(),
        (weight * (b + 6 * a * omega**2 + omega**4)).sum(),
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=1e-9)


def test_a_periodic_kernel_repeats_with_its_derivatives():
    r = torch.linspace(-1, 1, 7, dtype=torch.float64)
    for smoothness in (2.5, math.inf):
        here, there = (kernel(x, smoothness, 2, period=1.5) for x in (r, r + 3.0))
        torch.testing.assert_close(here, there, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "make", [GaussianSpectralMixture, StudentTSpectralMixture], ids=["gaussian", "student_t"]
)
def test_kernels_are_covariances_that_gpytorch_can_use(make):
    k = make(3).double()
    x = torch.randn(12, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gram = k(x).to_dense()
    assert torch.linalg.eigvalsh(gram).min() > -1e-12 * len(x)
    torch.testing.assert_close(gram.diagonal(), k(x, diag=True))
    gram.sum().backward()
    assert k.frequency.grad is not None
    assert torch.isfinite(k.frequency.grad).all()


def test_set_components_gives_the_formula():
    k = GaussianSpectralMixture(2).double()
    k.set_components(*PARAMETERS)
    x = torch.tensor([[0.0], [0.7]], dtype=torch.float64)
    torch.testing.assert_close(
        k(x).to_dense()[0, 1], kernel(torch.tensor(0.7).double(), math.inf)[0]
    )


def test_smoothness_is_checked():
    with pytest.raises(ValueError, match=r"`smoothness` must be one of"):
        StudentTSpectralMixture(1, 1.5)
    with pytest.raises(ValueError, match="derivatives up to order 4; 5 were asked for"):
        kernel(torch.zeros(()).double(), 2.5, 5)
