"""Cholesky factors of covariance matrices that are positive definite only up to rounding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from inference.errors import LinAlgError, warn

_RAISES = 4
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


class EquilibratedCholesky:
    """Cholesky factor of the unit-diagonal form of a covariance matrix plus a nugget.

    G + ε diag(G) + diag(noise) = D R Rᵀ D with D = diag(G + noise)^½. On failure ε is
    multiplied by ten, a few times.

    Args:
        gram: G, shape `(n, n)`.
        nugget: ε >= 0, relative to each diagonal entry.
        noise_var: variances added to the diagonal, shape `(n,)`.
        raises: how often ε may be multiplied by ten.

    Attributes:
        nugget: the ε that was used.

    Raises:
        ValueError: if the matrix is not positive definite even then.
    """

    def __init__(
        self,
        gram: Tensor,
        nugget: float,
        noise_var: Tensor | None = None,
        *,
        raises: int = _RAISES,
    ) -> None:
        diagonal = gram.diagonal() if noise_var is None else gram.diagonal() + noise_var
        if not bool((diagonal > 0).all()):
            raise ValueError(
                "`gram` must have a positive diagonal; some functional has prior variance "
                f"{float(diagonal.min()):.3g}. Is a coefficient zero where the equation needs "
                "it?"
            )
        self.scale = diagonal.sqrt()
        unit = gram / self.scale[:, None] / self.scale
        share = gram.diagonal() / diagonal  # of the diagonal that is not noise
        for raised in range(raises + 1):
            self.nugget = nugget * 10**raised
            unit.diagonal().copy_(1.0 + self.nugget * share)
            factor, info = torch.linalg.cholesky_ex(unit)
            if not int(info):
                self.factor = factor
                return
        raise ValueError(
            f"`gram` is not positive definite with a nugget of {self.nugget:.0e}. Take fewer "
            f"points, a rougher kernel or a larger nugget."
        )

    def solve(self, b: Tensor) -> Tensor:
        """G⁻¹ b for b of shape `(n,)` or `(n, m)`."""
        flat = b.reshape(len(b), -1) / self.scale[:, None]
        return (torch.cholesky_solve(flat, self.factor) / self.scale[:, None]).reshape(b.shape)

    def half_solve(self, b: Tensor) -> Tensor:
        """(D R)⁻¹ b, whose squared norm is bᵀ G⁻¹ b."""
        flat = b.reshape(len(b), -1) / self.scale[:, None]
        half = torch.linalg.solve_triangular(self.factor, flat, upper=False)
        return half.reshape(b.shape)

    def inverse(self) -> Tensor:
        """G⁻¹, shape `(n, n)`."""
        return torch.cholesky_inverse(self.factor) / self.scale[:, None] / self.scale

    @property
    def log_det(self) -> float:
        """Log |G|."""
        logs = self.factor.diagonal().log().sum() + self.scale.log().sum()
        return 2.0 * float(logs)
