"""Linear functionals of u, their values, and covariances between them.

Everything that is known about u is a row: Σ_α a_α(x) ∂^α u(x) = y + noise. A collocation point,
a Dirichlet or Neumann value and an interior observation differ in their coefficients only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probnet.gp_pde.prior import AxisPrior
from probnet.pde import MultiIndex

_LAG_DIGITS = 1e-11  # lags closer than this share of the largest are one


@dataclass(frozen=True, eq=False)
class Rows:
    """Functionals of u at points.

    Attributes:
        x: points, shape `(n, d)`.
        coefficients: a_α at the points, each of shape `(n,)`, by multi-index α.
        values: y, shape `(n,)`.
        noise_var: variance of the noise of y, shape `(n,)`.
    """

    x: Tensor
    coefficients: Mapping[MultiIndex, Tensor]
    values: Tensor
    noise_var: Tensor

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def points(cls, x: Tensor, order: MultiIndex | None = None) -> Rows:
        """The derivative ∂^order u (u itself by default) at points, of unknown value."""
        zeros = torch.zeros(len(x), dtype=x.dtype)
        return cls(x, {order or (0,) * x.shape[1]: torch.ones_like(zeros)}, zeros, zeros)

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """All rows in one object."""
        orders = sorted({order for part in parts for order in part.coefficients})
        coefficients = {
            order: torch.cat(
                [p.coefficients.get(order, torch.zeros_like(p.values)) for p in parts]
            )
            for order in orders
        }
        return cls(
            torch.cat([p.x for p in parts]),
            coefficients,
            torch.cat([p.values for p in parts]),
            torch.cat([p.noise_var for p in parts]),
        )

    def __getitem__(self, keep: Tensor) -> Rows:
        """The rows that a mask or an index selects."""
        coefficients = {order: a[keep] for order, a in self.coefficients.items()}
        return Rows(self.x[keep], coefficients, self.values[keep], self.noise_var[keep])


def covariance(left: Rows, right: Rows, prior: Sequence[AxisPrior]) -> Tensor:
    """Prior covariance of two sets of functionals, shape `(len(left), len(right))`.

    Cov(∂^α u(x), ∂^β u(x')) = Π_j (-1)^β_j k_j^(α_j + β_j)(x_j - x_j').
    """
    axes = [_lag_tables(left, right, axis, axis_prior) for axis, axis_prior in enumerate(prior)]
    total = torch.zeros(len(left), len(right), dtype=left.x.dtype)
    for alpha, a in left.coefficients.items():
        for beta, b in right.coefficients.items():
            block = a[:, None] * b
            for (table, index), i, j in zip(axes, alpha, beta, strict=True):
                block = block * ((-1) ** j * table[i + j])[index]
            total += block
    return total


def variance(rows: Rows, prior: Sequence[AxisPrior]) -> Tensor:
    """Prior variance of each functional, shape `(n,)`."""
    total = torch.zeros(len(rows), dtype=rows.x.dtype)
    orders = [max(order[axis] for order in rows.coefficients) for axis in range(len(prior))]
    zero = torch.zeros((), dtype=rows.x.dtype)
    at_zero = [p.derivatives(zero, 2 * o) for p, o in zip(prior, orders, strict=True)]
    for alpha, a in rows.coefficients.items():
        for beta, b in rows.coefficients.items():
            factors = [
                (-1) ** j * float(table[i + j])
                for table, i, j in zip(at_zero, alpha, beta, strict=True)
            ]
            total += a * b * math.prod(factors)
    return total


def unique_lags(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct differences of two sets of coordinates, and the index `(n, m)` into them."""
    lags = left[:, None] - right
    scale = float(lags.abs().max()) * _LAG_DIGITS or 1.0
    distinct, index = torch.unique(torch.round(lags / scale), return_inverse=True)
    if len(distinct) > lags.numel() // 4:  # scattered points: nothing to share
        return lags.reshape(-1), torch.arange(lags.numel()).reshape(lags.shape)
    # A representative of each group, not its rounded value: nodes keep their exact lags.
    exact = torch.empty_like(distinct).scatter_(0, index.reshape(-1), lags.reshape(-1))
    return exact, index


def _lag_tables(left: Rows, right: Rows, axis: int, prior: AxisPrior) -> tuple[Tensor, Tensor]:
    orders = [max(order[axis] for order in rows.coefficients) for rows in (left, right)]
    lags, index = unique_lags(left.x[:, axis], right.x[:, axis])
    return prior.derivatives(lags, sum(orders)), index
