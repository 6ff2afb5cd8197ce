"""Eigenvalues of the curvature, against matrices whose spectrum is known."""

import numpy as np
import pytest
import torch

from inference.curvature import (
    DENSE_DIM,
    curvature_spectrum,
    hessian_products,
    largest_curvature,
    negative_hessian,
)

FLOAT = torch.float64


def rotation(dim, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, generator=random, dtype=FLOAT))[0]


def test_spectrum_of_a_gaussian_is_exact():
    values = torch.logspace(-3, 3, 30, dtype=FLOAT)
    q = rotation(30)
    precision = (q * values) @ q.mT
    found = curvature_spectrum(lambda x: -x @ precision @ x / 2, torch.ones(30, dtype=FLOAT))
    np.testing.assert_allclose(found.eigenvalues, values, rtol=1e-8)
    np.testing.assert_allclose((found.eigenvectors * q).sum(0).abs(), 1, rtol=1e-6)
    assert found.complete
    assert found.curved.all()
    assert found.num_gradients == 60


def test_single_precision_is_solved_in_double_and_knows_its_resolution():
    def log_density(x):
        return -(x[0] ** 2) * 500 - x[1] ** 2 / 2 - 0 * x[2] ** 2

    found = curvature_spectrum(log_density, torch.zeros(3))
    assert found.eigenvalues.dtype == FLOAT
    np.testing.assert_allclose(found.eigenvalues, [0, 1, 1000], atol=1e-3)
    assert found.curved.tolist() == [False, True, True]


def test_curvature_of_a_function_that_is_not_quadratic():
    """log cosh in each coordinate: sech²."""
    position = torch.linspace(-2, 2, 7, dtype=FLOAT)
    found = negative_hessian(lambda x: -torch.log(torch.cosh(x)).sum(), position)
    np.testing.assert_allclose(found, torch.diag(1 / torch.cosh(position) ** 2), atol=1e-12)


def test_the_two_ends_of_a_large_spectrum():
    dim = DENSE_DIM + 100
    middle = torch.linspace(10, 20, dim - 4, dtype=FLOAT)
    values = torch.cat([torch.tensor([1.0, 3.0], dtype=FLOAT), middle])
    values = torch.cat([values, torch.tensor([40.0, 100.0], dtype=FLOAT)])
    found = curvature_spectrum(lambda x: -(values * x.square()).sum() / 2, 0 * values)
    assert not found.complete
    np.testing.assert_allclose(found.eigenvalues[:2], [1, 3], rtol=1e-2)
    np.testing.assert_allclose(found.eigenvalues[-2:], [40, 100], rtol=1e-2)
    assert float(found.eigenvectors[-1, -1].abs()) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("dim", [1, 5, 60])
def test_largest_curvature_at_many_points(dim):
    """A Gaussian in random coordinates, tilted by a quartic: the dense solver's answer."""
    q = rotation(dim)
    scales = torch.logspace(0, 2, dim, dtype=FLOAT)

    def log_density(x):
        z = q @ x
        return -(scales * z.square()).sum() / 2 - (z**4).sum()

    random = torch.Generator().manual_seed(1)
    points = torch.randn(6, dim, generator=random, dtype=FLOAT)
    start = torch.randn(dim, generator=random, dtype=FLOAT)
    found, cost = largest_curvature(log_density, points, start)
    exact = [torch.linalg.eigvalsh(negative_hessian(log_density, p))[-1] for p in points]
    np.testing.assert_allclose(found, exact, rtol=1e-6 if dim <= 12 else 0.02)
    assert (found <= torch.stack(exact) * (1 + 1e-9)).all()
    assert cost == 2 * min(dim, 12)


def test_a_start_that_is_an_eigenvector_already():
    values = torch.tensor([1.0, 2.0, 9.0], dtype=FLOAT)
    start = torch.tensor([0.0, 0.0, 1.0], dtype=FLOAT)
    found, _ = largest_curvature(
        lambda x: -(values * x.square()).sum() / 2, torch.zeros(2, 3, dtype=FLOAT), start
    )
    np.testing.assert_allclose(found, [9, 9])


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: x.square().sum(), ValueError, "no positive curvature"),
        (lambda x: -x.abs().pow(1.5).sum(), ValueError, "Hessian of the log density is not"),
        (lambda x: -x.sum() if x[0] > 0 else x.sum(), RuntimeError, "vectorised"),
    ],
)
def test_no_curvature_to_go_by(function, error, message):
    with pytest.raises(error, match=message):
        curvature_spectrum(function, torch.zeros(3, dtype=FLOAT))


def test_hessian_products_are_those_of_autodiff():
    def log_density(x):
        return torch.sin(x).prod()

    points = torch.linspace(0.2, 1, 8, dtype=FLOAT).reshape(2, 4)
    vectors = torch.linspace(-1, 1, 8, dtype=FLOAT).reshape(2, 4)
    found = hessian_products(log_density, points, vectors)
    for row, point, vector in zip(found, points, vectors, strict=True):
        exact = torch.func.jacrev(torch.func.grad(log_density))(point) @ vector
        np.testing.assert_allclose(row, exact, rtol=1e-12)
