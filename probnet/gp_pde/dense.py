"""Exact conditioning of the Gaussian process on rows, by one Cholesky factorisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.rows import Rows, covariance, variance
from probnet.linalg import EquilibratedCholesky
from probnet.pde import MultiIndex

MAX_ROWS = 6000
_MAX_REFINEMENTS = 30
_CHUNK = 2048  # points of prediction handled at once


class Conditioned:
    """The posterior of u given rows: m = k G⁻¹ y, Cov = k** - k G⁻¹ kᵀ.

    The nugget is a regularisation, not noise: its effect on the mean is taken back by iteration
    with the unregularised matrix, as long as the residual falls.

    Args:
        rows: what is known.
        prior: one per axis.
        nugget: ε, relative to the prior variance of each row.

    Attributes:
        factor: of the Gram matrix.
        alpha: G⁻¹ y, shape `(n,)`.
        residual: relative residual of the rows, in prior standard deviations.

    Raises:
        ValueError: on more than 6000 rows or a Gram matrix that cannot be factorised.
    """

    def __init__(self, rows: Rows, prior: Sequence[AxisPrior], nugget: float) -> None:
        if len(rows) > MAX_ROWS:
            raise ValueError(
                f"`grid` gives {len(rows)} rows; exact conditioning (needed in one dimension, "
                f"with noise and with observations) takes at most {MAX_ROWS}. Take fewer nodes."
            )
        self.rows, self.prior = rows, list(prior)
        gram = covariance(rows, rows, self.prior)
        self.factor = EquilibratedCholesky(gram, nugget, rows.noise_var)
        self.alpha, self.residual = self._refined(gram)

    def mean(self, x: Tensor, order: MultiIndex | None = None) -> Tensor:
        """Posterior mean of ∂^order u at points `(n, d)`."""
        return torch.cat(
            [
                covariance(Rows.points(piece, order), self.rows, self.prior) @ self.alpha
                for piece in x.split(_CHUNK)
            ]
        )

    def mean_of(self, functionals: Rows) -> Tensor:
        """Posterior mean of functionals."""
        return covariance(functionals, self.rows, self.prior) @ self.alpha

    def variance(self, x: Tensor, order: MultiIndex | None = None) -> Tensor:
        """Posterior variance at points, never below rounding error of the prior's."""
        pieces: list[Tensor] = []
        for piece in x.split(_CHUNK):
            points = Rows.points(piece, order)
            before = variance(points, self.prior)
            half = self._half(points)
            floor = torch.finfo(torch.float64).eps * before
            pieces.append(torch.maximum(before - (half**2).sum(0), floor))
        return torch.cat(pieces)

    def covariance(self, x: Tensor) -> Tensor:
        """Posterior covariance of u at points, `(n, n)`."""
        points = Rows.points(x)
        half = self._half(points)
        found = covariance(points, points, self.prior) - half.mT @ half
        return (found + found.mT) / 2

    def _half(self, points: Rows) -> Tensor:
        return self.factor.half_solve(covariance(self.rows, points, self.prior))

    def _refined(self, gram: Tensor) -> tuple[Tensor, float]:
        y, alpha = self.rows.values, torch.zeros_like(self.rows.values)
        size = float(torch.linalg.norm(y / self.factor.scale))
        if size == 0:
            return alpha, 0.0
        residual, reached = y, 1.0
        for _ in range(_MAX_REFINEMENTS):
            trial = alpha + self.factor.solve(residual)
            rest = y - gram @ trial - self.rows.noise_var * trial
            relative = float(torch.linalg.norm(rest / self.factor.scale)) / size
            if not relative < reached:
                break
            alpha, residual, reached = trial, rest, relative
        return alpha, reached
