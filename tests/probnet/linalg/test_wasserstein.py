import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from probnet.linalg import gaussian_w2


def _covariances(count, size):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(count, size, size + 2, generator=generator, dtype=torch.float64)
    return a @ a.mT / size


def test_it_is_the_bures_distance():
    k, g = _covariances(2, 5)
    root = sqrtm(g.numpy())
    expected = float(k.trace() + g.trace()) - 2 * np.trace(sqrtm(root @ k.numpy() @ root)).real
    assert float(gaussian_w2(k, torch.linalg.cholesky(g))) == pytest.approx(expected, rel=1e-6)
    assert abs(float(gaussian_w2(g, torch.linalg.cholesky(g)))) < 1e-12
    assert float(gaussian_w2(k, 0 * g)) == pytest.approx(float(k.trace()))


def test_batches_are_of_single_distances():
    k, g = _covariances(6, 4).split(3)
    factors = torch.linalg.cholesky(g)
    found = gaussian_w2(k, factors)
    single = torch.stack([gaussian_w2(*pair) for pair in zip(k, factors, strict=True)])
    torch.testing.assert_close(found, single)
    torch.testing.assert_close(gaussian_w2(g, torch.linalg.cholesky(k)), found)  # symmetric


def test_a_floor_keeps_the_gradient_finite():
    k = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    gaussian_w2(k, torch.eye(3, dtype=torch.float64), floor=1e-9).backward()
    assert bool(torch.isfinite(k.grad).all())
