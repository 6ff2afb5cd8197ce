"""Against dense linear algebra."""

import pytest
import torch

from probnet.linalg import KroneckerSum, mode_product


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
