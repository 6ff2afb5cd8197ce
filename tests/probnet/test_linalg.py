"""The jittered Cholesky factor."""

import pytest
import torch

from inference import InferenceWarning
from inference.errors import LinAlgError
from probnet.linalg import jittered_cholesky


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
