"""Linear algebra of covariance matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from inference.errors import LinAlgError, warn

_JITTERS = (0.0, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6)


def jittered_cholesky(
    matrix: Tensor, *, hint: Callable[[], str] | None = None, report: bool = False
) -> Tensor:
    """Lower Cholesky factor of a matrix that is positive semi-definite but for rounding.

    Jitter, relative to the mean of the diagonal, is added only where the factorisation fails
    without it: from 1e-10 by tens to 1e-6.

    Args:
        matrix: shape `(*batch, n, n)`.
        hint: called for what made the matrix, to end messages with.
        report: warn where jitter is added, since it acts as noise that nobody asked for.

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
            if report and jitter:
                warn(_not_definite(matrix, f" without {jitter:g}", hint))
            return factor
    raise LinAlgError(_not_definite(matrix, f", even with {_JITTERS[-1]:g}", hint))


def _not_definite(matrix: Tensor, jitter: str, hint: Callable[[], str] | None) -> str:
    size = float(matrix.detach().diagonal(dim1=-2, dim2=-1).mean())
    return (
        f"a covariance matrix of shape {tuple(matrix.shape)} and mean diagonal {size:.3g} is "
        f"not positive definite{jitter} of that added to its diagonal."
        f"{' ' + hint() if hint else ''}"
    )
