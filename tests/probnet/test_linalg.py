"""Against dense linear algebra."""

import pytest
import torch

from probnet.linalg import EquilibratedCholesky, KroneckerSum, mode_product


def random(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def dense_sum(matrices, shift):
    total = torch.eye(1, dtype=torch.float64) * shift
    for a in matrices:
        eye, unit = torch.eye(len(a)).double(), torch.eye(len(total)).double()
        total = torch.kron(total, eye) + torch.kron(unit, a)
    return total


def shifted(n):
    return random(n, n) + 5 * torch.eye(n)


def jordan(n):
    """Defective: no basis of eigenvectors."""
    return 3 * torch.eye(n).double() + torch.diag(torch.ones(n - 1).double(), 1)


def toeplitz(n):
    number = torch.arange(n)
    return (torch.cos(number / 3.0) / (1 + number)).double()[
        (number[:, None] - number).abs()
    ] + 3 * torch.eye(n)


CASES = {
    "diagonalisable": [shifted(5), shifted(6)],
    "defective": [jordan(5), jordan(4)],
    "mixed": [shifted(4), jordan(5), shifted(3)],
    "all defective": [jordan(3), jordan(4), jordan(5)],
    "mirror symmetric": [toeplitz(7), toeplitz(8)],
    "one axis": [shifted(7)],
}


@pytest.mark.parametrize("name", CASES)
def test_kronecker_sum_is_its_dense_matrix(name):
    matrices = CASES[name]
    operator = KroneckerSum(matrices, 0.3)
    v = random(*(len(a) for a in matrices))
    dense = dense_sum(matrices, 0.3)
    torch.testing.assert_close(operator.apply(v).reshape(-1), dense @ v.reshape(-1))
    torch.testing.assert_close(operator.solve(operator.apply(v)), v, rtol=1e-11, atol=1e-11)
    expected = float(torch.linalg.slogdet(dense).logabsdet)
    assert operator.log_abs_det == pytest.approx(expected, rel=1e-9)


def test_a_resonance_shows_as_cancellation():
    a = torch.diag(torch.tensor([1.0, 2.0]).double())
    assert KroneckerSum([a], -1.0 + 1e-9).cancellation == pytest.approx(5e-10, rel=1e-6)


def test_mode_product_acts_along_its_axis():
    a, v = random(4, 3), random(2, 3, 5)
    torch.testing.assert_close(mode_product(a, v, 1), torch.einsum("ij,ajb->aib", a, v))


def test_cholesky_solves_badly_scaled_matrices():
    scale = torch.logspace(-2, 2, 8, dtype=torch.float64)
    root = random(8, 8)
    gram = scale[:, None] * (root @ root.mT + torch.eye(8)) * scale
    noise = torch.linspace(0, 1, 8, dtype=torch.float64)
    factor = EquilibratedCholesky(gram, 0.0, noise)
    y, full = random(8), gram + torch.diag(noise)
    torch.testing.assert_close(full @ factor.solve(y), y, rtol=1e-8, atol=1e-8)
    assert float(factor.half_solve(y).square().sum()) == pytest.approx(
        float(y @ factor.solve(y)), rel=1e-10
    )
    torch.testing.assert_close(factor.inverse() @ y, factor.solve(y), rtol=1e-8, atol=1e-8)
    scaled = full / scale[:, None] / scale
    expected = float(torch.linalg.slogdet(scaled).logabsdet + 2 * scale.log().sum())
    assert factor.log_det == pytest.approx(expected, rel=1e-9, abs=1e-8)


def test_the_nugget_is_raised_and_reported():
    singular = torch.ones(5, 5, dtype=torch.float64)
    factor = EquilibratedCholesky(singular, 1e-18)
    assert 1e-18 < factor.nugget <= 1e-14
    with pytest.raises(ValueError, match="not positive definite"):
        EquilibratedCholesky(singular - 1e-3 * torch.eye(5), 1e-12)
    with pytest.raises(ValueError, match="positive diagonal"):
        EquilibratedCholesky(torch.zeros(2, 2).double(), 1e-12)
