"""The level-set prior of two-phase media."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from inference._checks import check_integer, check_positive


@dataclass(frozen=True)
class LevelSetGRF:
    r"""Two phases by the sign of a Gaussian field: a = low + (high - low) 1[g > 0].

    The field has covariance (-Δ + τ²)^{-α} with Neumann boundaries and no constant mode. On
    n x n nodes that span the unit square, with white noise w,

        g = DCT⁻¹(λ DCT(w)),   λ_k = n τ^{α-1} (π²|k|² + τ²)^{-α/2},   λ_0 = 0,

    DCT the orthonormal type-II transform. w is the standard normal vector that samplers move.

    Source: Iglesias, Lu & Stuart (Interfaces and Free Boundaries 18, 2016), level-set prior;
    the scaling is that of the training data, `probnet.datasets.fields`.

    Args:
        tau: τ > 0, the inverse length over which phases change.
        alpha: α > 1, smoothness of g.
        low: value of a where g <= 0, > 0.
        high: value of a where g > 0, > 0.
        num_nodes: n >= 2, along each axis.

    Raises:
        ValueError: on an argument out of range.
    """

    tau: float = 3.0
    alpha: float = 2.0
    low: float = 5.0
    high: float = 10.0
    num_nodes: int = 29

    def __post_init__(self) -> None:
        for name in ("tau", "low", "high"):
            check_positive(name, getattr(self, name))
        check_integer("num_nodes", self.num_nodes, 2)
        if not self.alpha > 1:
            raise ValueError(
                f"`alpha` must be above 1, for the field to be continuous; got {self.alpha!r}."
            )
        if self.low == self.high:
            raise ValueError(f"`low` and `high` must differ; both are {self.low!r}.")

    @property
    def grid(self) -> tuple[int, int]:
        """Nodes along both axes."""
        return self.num_nodes, self.num_nodes

    @property
    def dim(self) -> int:
        """Length of the white-noise vector."""
        return self.num_nodes**2

    def field(self, white: Tensor) -> Tensor:
        """The Gaussian field g (..., n, n) of white noise (..., n²)."""
        coefficients = self.to_modes(white).reshape(*white.shape[:-1], *self.grid)
        return self._inverse_transform(self._eigenvalues * coefficients)

    def decode(self, white: Tensor) -> Tensor:
        """The medium a (..., n, n) of white noise (..., n²)."""
        return torch.where(self.field(white) > 0, self.high, self.low).to(white.dtype)

    def to_modes(self, white: Tensor) -> Tensor:
        """Orthonormal DCT of white noise, both (..., n²)."""
        square = white.reshape(*white.shape[:-1], *self.grid)
        return (self._dct @ square @ self._dct.T).reshape(white.shape)

    def from_modes(self, modes: Tensor) -> Tensor:
        """Inverse of `to_modes`."""
        square = modes.reshape(*modes.shape[:-1], *self.grid)
        return self._inverse_transform(square).reshape(modes.shape)

    def _inverse_transform(self, coefficients: Tensor) -> Tensor:
        return self._dct.T @ coefficients @ self._dct

    @cached_property
    def _dct(self) -> Tensor:
        """Rows are the orthonormal cosines of the type-II transform."""
        n = self.num_nodes
        k, x = torch.arange(n, dtype=torch.float64), torch.arange(n, dtype=torch.float64)
        matrix = torch.cos(math.pi / n * k[:, None] * (x + 0.5)) * math.sqrt(2 / n)
        matrix[0] /= math.sqrt(2)
        return matrix

    @cached_property
    def _eigenvalues(self) -> Tensor:
        k = torch.arange(self.num_nodes, dtype=torch.float64)
        squared = math.pi**2 * (k[:, None].square() + k.square())
        scale = self.num_nodes * self.tau ** (self.alpha - 1)
        values = scale * (squared + self.tau**2) ** (-self.alpha / 2)
        values[0, 0] = 0
        return values
