"""Compactly supported test functions of weak residuals, with quadrature that is exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from inference._checks import check_choice, check_integer, check_positive

_SMALLEST_RADIUS_IN_SINGLE = 1e-4


@dataclass(frozen=True)
class WendlandTests:
    r"""Wendland's C⁴ functions ψ((ξ - c)/R) about random centres, d = 1 or 2 dimensions.

    With ρ = ‖ξ - c‖/R <= 1 and l = ⌊d/2⌋ + 3,

        ψ(ρ) = (1 - ρ)^{l+2} [(l² + 4l + 3)ρ² + (3l + 6)ρ + 3] / 3,

        ∇ψ = -(1 - ρ)^{l+1} [(l³ + 8l² + 19l + 12)ρ + l² + 7l + 12] / 3 · (ξ - c)/R².

    A residual is a mean over the support, ⟨g⟩ = Σ_q w_q g(c + R ξ_q), Σ w = 1. The rule
    `"gauss"` is exact for ψ and for flux components that are linear in the support: 5
    Gauss-Legendre radii by 8 angles, or 5 points on each side. The rule `"grid"` is the
    published one, the plain mean over the nodes of a uniform grid inside the ball: on it a flux
    s with ∇·s = -f has ⟨s·∇ψ⟩ = κ f⟨ψ⟩ with `consistency` κ ≠ 1, so that its solutions are
    wrong by the factor 1/κ, for every input.

    Source: Wendland (Adv. Comput. Math. 4, 1995); Zang & Koutsourelakis (J. Comput. Phys. 538,
    2025) for weak residuals by them.

    Args:
        num_centres: >= 1, drawn afresh by Latin hypercube at every step.
        radius: R > 0, in the units of the coordinates.
        num_dims: d, 1 or 2.
        quadrature: `"gauss"` or `"grid"`.
        grid_size: nodes of the grid along each axis of [-1, 1]^d, for `"grid"`.

    Raises:
        ValueError: on an argument out of range.

    Example:
        >>> f"{WendlandTests().consistency:.6f}"
        '1.000000'
        >>> f"{WendlandTests(quadrature='grid', grid_size=7).consistency:.5f}"
        '0.98763'
    """

    num_centres: int = 100
    radius: float = 0.05
    num_dims: int = 2
    quadrature: str = "gauss"
    grid_size: int = 7

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_integer("num_centres", self.num_centres, 1)
        check_positive("radius", self.radius)
        check_choice("quadrature", self.quadrature, ("gauss", "grid"))
        check_integer("grid_size", self.grid_size, 3)
        if self.num_dims not in {1, 2}:
            raise ValueError(f"`num_dims` must be 1 or 2; got {self.num_dims!r}.")

    def value(self, offsets: Tensor) -> Tensor:
        """ψ at offsets (ξ - c)/R, shape (..., d) to (...); zero outside the unit ball."""
        rho, order = self._radii(offsets), self._order
        polynomial = ((order + 1) * (order + 3) * rho + 3 * (order + 2)) * rho + 3
        return (1 - rho) ** (order + 2) * polynomial / 3

    def gradient(self, offsets: Tensor) -> Tensor:
        """∇ψ with respect to ξ at offsets (ξ - c)/R, both of shape (..., d)."""
        rho, order = self._radii(offsets), self._order
        slope = (order + 3) * (order + 4) * ((order + 1) * rho + 1) / 3
        return -((1 - rho) ** (order + 1) * slope / self.radius)[..., None] * offsets

    @property
    def offsets(self) -> Tensor:
        """Quadrature nodes in the unit ball, (num_nodes, d), float64."""
        return self._rule[0]

    @property
    def weights(self) -> Tensor:
        """Their weights (num_nodes,), float64, of sum 1."""
        return self._rule[1]

    @cached_property
    def consistency(self) -> float:
        """κ = -⟨ξ₁∂₁ψ⟩/⟨ψ⟩ on the rule; 1 in the continuum."""
        slopes = self.offsets[:, 0] * self.gradient(self.offsets)[:, 0] * self.radius
        return float(
            -(self.weights * slopes).sum() / (self.weights * self.value(self.offsets)).sum()
        )

    def draw_centres(
        self,
        lower: Sequence[float],
        upper: Sequence[float],
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Latin-hypercube centres whose supports lie in the box, (num_centres, d).

        Args:
            lower: corner of the box.
            upper: its opposite corner.
            generator: advances.
            dtype: of the centres; in float32 a radius below 1e-4 is refused, as the points of a
                support are then told apart by rounding.

        Raises:
            ValueError: if a support does not fit into the box, or for the reason above.
        """
        if dtype == torch.float32 and self.radius < _SMALLEST_RADIUS_IN_SINGLE:
            raise ValueError(
                f"`radius` must be at least {_SMALLEST_RADIUS_IN_SINGLE} in float32, whose "
                f"rounding would show in differences of coordinates; got {self.radius}."
            )
        low, high = (torch.tensor(c, dtype=torch.float64) for c in (lower, upper))
        if len(low) != self.num_dims or bool((2 * self.radius > high - low).any()):
            raise ValueError(
                f"`radius` {self.radius} does not fit: supports of length {2 * self.radius} "
                f"in {self.num_dims} dimensions, the box goes from {tuple(lower)} to "
                f"{tuple(upper)}."
            )
        count, device = self.num_centres, generator.device
        strata = torch.stack(
            [
                torch.randperm(count, generator=generator, device=device)
                for _ in range(self.num_dims)
            ],
            dim=-1,
        )
        jitter = torch.rand(
            strata.shape, generator=generator, dtype=torch.float64, device=device
        )
        share = (strata + jitter) / count
        low, high = low.to(device), high.to(device)
        return (low + self.radius + share * (high - low - 2 * self.radius)).to(dtype)

    def points(self, centres: Tensor) -> Tensor:
        """Quadrature nodes of every support, (num_centres, num_nodes, d)."""
        return centres[:, None] + self.radius * self.offsets.to(centres)

    def residuals(self, flux: Tensor, source: Tensor | float) -> Tensor:
        """⟨s·∇ψ_j⟩ - ⟨f ψ_j⟩, zero for the flux s = a∇u of a solution of -∇·(a∇u) = f.

        Args:
            flux: s at `points`, shape (..., num_centres, num_nodes, d).
            source: f at `points`, (..., num_centres, num_nodes), or a number.

        Returns:
            r_j, shape (..., num_centres).
        """
        weights = self.weights.to(flux)
        slopes = weights[:, None] * self.gradient(self.offsets).to(flux)
        bumps = weights * self.value(self.offsets).to(flux)
        right = torch.as_tensor(source).to(flux) * bumps
        return (flux * slopes).sum((-2, -1)) - right.sum(-1)

    @property
    def _order(self) -> int:
        return self.num_dims // 2 + 3

    @staticmethod
    def _radii(offsets: Tensor) -> Tensor:
        return offsets.norm(dim=-1).clamp_max(1)

    @cached_property
    def _rule(self) -> tuple[Tensor, Tensor]:
        if self.quadrature == "grid":
            return _grid_rule(self.grid_size, self.num_dims)
        return _gauss_rule(self.num_dims)


def _gauss_rule(num_dims: int) -> tuple[Tensor, Tensor]:
    """5 radii per half-line or ray: exact to degree 9, that of ψ times the radial weight."""
    nodes, weights = np.polynomial.legendre.leggauss(5)
    radii = torch.from_numpy((nodes + 1) / 2)
    share = torch.from_numpy(weights / 2)
    if num_dims == 1:
        return torch.cat([-radii, radii])[:, None], share.repeat(2) / 2
    angles = 2 * math.pi * (torch.arange(8, dtype=torch.float64) + 0.5) / 8
    rays = torch.stack([angles.cos(), angles.sin()], dim=-1)
    offsets = (radii[:, None, None] * rays).reshape(-1, 2)
    return offsets, (2 * radii * share / 8).repeat_interleave(8)


def _grid_rule(size: int, num_dims: int) -> tuple[Tensor, Tensor]:
    """Equal weights on the nodes of a uniform grid of [-1, 1]^d that lie inside the ball."""
    axis = torch.linspace(-1, 1, size, dtype=torch.float64)
    if num_dims == 1:
        offsets = axis[:, None]
    else:
        square = torch.cartesian_prod(axis, axis)
        offsets = square[square.square().sum(-1) < 1 - 1e-12]
    return offsets, torch.full((len(offsets),), 1 / len(offsets), dtype=torch.float64)
