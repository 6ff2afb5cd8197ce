"""Jittered and equilibrated Cholesky factors."""

import pytest
import torch

from inference import InferenceWarning
from inference.errors import LinAlgError
from probnet.linalg import EquilibratedCholesky, jittered_cholesky


def test_no_jitter_where_none_is_needed():
    matrix = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
    assert torch.equal(jittered_cholesky(matrix), torch.linalg.cholesky(matrix))


def test_semidefinite_matrices_get_relative_jitter():
    for size in (1e-6, 1e6):
        matrix = size * torch.ones(2, 4, 4, dtype=torch.float64)
        factor = jittered_cholesky(matrix)
        torch.testing.assert_close(factor @ factor.mT, matrix, rtol=2e-6, atol=0)


def test_jitter_is_reported_if_asked():
    with pytest.warns(InferenceWarning, match=r"not positive definite without 1e-10 of"):
        jittered_cholesky(torch.ones(3, 3, dtype=torch.float64), report=True)
    jittered_cholesky(torch.eye(3), report=True)


def test_indefinite_matrices_are_refused_with_the_hint():
    matrix = torch.diag(torch.tensor([1.0, -1e-3], dtype=torch.float64))
    with pytest.raises(LinAlgError, match=r"not positive definite, even with 1e-06.*w_var = 3"):
        jittered_cholesky(matrix, hint=lambda: "w_var = 3")
    with pytest.raises(LinAlgError):
        jittered_cholesky(torch.full((2, 2), torch.nan))


def random(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


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
