"""Linear algebra of covariance matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from inference.errors import LinAlgError

_JITTERS = (0.0, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6)


def jittered_cholesky(matrix: Tensor, *, hint: Callable[[], str] | None = None) -> Tensor:
    """Lower Cholesky factor of a matrix that is positive semi-definite but for rounding.

    Jitter, relative to the mean of the diagonal, is added only where the factorisation fails
    without it: from 1e-10 by tens to 1e-6.

    Args:
        matrix: shape `(*batch, n, n)`.
        hint: called for what made the matrix, to end the error message with.

    Returns:
        Shape `(*batch, n, n)`.

    Raises:
        LinAlgError: if the largest jitter does not help, or on NaN.
    """
    size = matrix.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
    for jitter in _JITTERS:
        shifted = matrix
        if jitter:
            diagonal = matrix.diagonal(dim1=-2, dim2=-1) + jitter * size
            shifted = torch.diagonal_scatter(matrix, diagonal, dim1=-2, dim2=-1)
        factor, info = torch.linalg.cholesky_ex(shifted)
        finite = torch.isfinite(factor.diagonal(dim1=-2, dim2=-1)).all()
        if bool(finite) and not bool(info.any()):
            return factor
    raise LinAlgError(
        f"a covariance matrix of shape {tuple(matrix.shape)} and mean diagonal "
        f"{float(size.detach().mean()):.3g} is not positive definite, even with "
        f"{_JITTERS[-1]:g} of that added to its diagonal.{' ' + hint() if hint else ''}"
    )
