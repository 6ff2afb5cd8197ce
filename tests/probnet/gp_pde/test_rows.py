"""Covariances of functionals against automatic differentiation of the kernel."""

import math

import pytest
import torch

from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.rows import Rows, covariance, unique_lags, variance


def prior(smoothness, num_components=2):
    generator = torch.Generator().manual_seed(3)
    numbers = torch.rand(3, num_components, generator=generator, dtype=torch.float64)
    return AxisPrior(0.5 + numbers[0], 0.4 + numbers[1], 3 * numbers[2], smoothness)


def kernel(priors, x, z):
    """The product kernel; the Gaussian one by its own formula, smooth at zero."""
    value = torch.ones((), dtype=torch.float64)
    for j, p in enumerate(priors):
        r = x[j] - z[j]
        if math.isinf(p.smoothness):
            wave = torch.exp(-(r**2) / (2 * p.lengthscale**2))
            value = value * (p.weight * wave * torch.cos(2 * math.pi * p.frequency * r)).sum()
        else:
            value = value * p.derivatives(r, 0)[0]
    return value


def partial(value, leaf, order):
    for axis, count in enumerate(order):
        for _ in range(count):
            (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
            value = gradient[axis]
    return value


@pytest.mark.parametrize("smoothness", [4.5, math.inf])
def test_gram_is_the_autodiff_gram(smoothness):
    """20 rows of (1 + x) ∂²/∂x² + y ∂/∂y + 2 and their covariance, entry by entry."""
    priors = [prior(smoothness), prior(smoothness)]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20, 2, generator=generator, dtype=torch.float64)
    one = torch.ones(20, dtype=torch.float64)
    terms = {(2, 0): 1 + x[:, 0], (0, 1): x[:, 1], (0, 0): 2 * one}
    rows = Rows(x, terms, one, 0 * one)
    found = covariance(rows, rows, priors)
    expected = torch.zeros(20, 20, dtype=torch.float64)
    for i in range(20):
        # Every fifth row: all pairs take a minute. |r| at zero is beyond autodiff.
        for j in range(i if math.isinf(smoothness) else i + 5, 20, 5):
            left, right = (x[k].clone().requires_grad_() for k in (i, j))
            total = 0.0
            for alpha, a in terms.items():
                for beta, b in terms.items():
                    value = partial(kernel(priors, left, right), left, alpha)
                    value = partial(value, right, beta)
                    total = total + a[i] * b[j] * value.detach()
            expected[i, j] = total
    known = expected != 0
    assert int(known.sum()) >= 30
    error = (found - expected)[known].abs().max()
    assert error <= 1e-9 * found.abs().max()
    torch.testing.assert_close(found, found.mT)
    torch.testing.assert_close(found.diagonal(), variance(rows, priors))


def test_lags_of_a_uniform_grid_are_shared_and_exact():
    x = torch.linspace(0, 2 * math.pi, 50, dtype=torch.float64)
    lags, index = unique_lags(x, x)
    assert len(lags) == 99
    torch.testing.assert_close(lags[index], x[:, None] - x, rtol=0, atol=1e-14)
