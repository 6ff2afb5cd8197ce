"""What a parametric PDE must offer to be learned and inverted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from probnet._checks import Values, check_matrix

if TYPE_CHECKING:
    from probnet.neural_operator.inverse_posterior import InversePosterior


class Problem(ABC):
    """A PDE whose input is a field: solved exactly on a mesh, or scored at the mesh's nodes.

    Attributes:
        num_dims: d_x, coordinates of a point (space, or space and time).
        num_components: of the solution, c.
        lower: of the box that contains the domain, one number per coordinate.
        upper: of that box.
        num_given_values: coefficients that `ansatz` is linear in, such as initial values; 0
            where the given values do not depend on the input.
        variational: `loss` is an energy, whose minimum is not 0; otherwise it is half a
            squared dual norm of the residual, 0 at the discrete solution.
        solution_shape: of the nodal values of one solution; `nodes` runs over its entries in
            C order (a last axis of components apart).
    """

    num_dims: int
    num_components: int = 1
    num_given_values: int = 0
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    variational: bool
    solution_shape: tuple[int, ...]

    @property
    @abstractmethod
    def nodes(self) -> Tensor:
        """Where `loss` wants the solution: (num_nodes, d_x), float64."""

    @abstractmethod
    def coefficients(self, inputs: Tensor) -> Tensor:
        """What `solve` and `loss` take, from fields at the nodes of an input grid.

        Args:
            inputs: shape `(*batch, *grid)`, for any grid whose nodes span the input's domain,
                ends included.
        """

    @abstractmethod
    def solve(self, coefficients: Tensor) -> Tensor:
        """The discrete solution.

        Args:
            coefficients: shape `(*batch, *its own shape)`.

        Returns:
            Nodal values `(*batch, *solution_shape)`, float64.
        """

    @abstractmethod
    def loss(self, values: Tensor, coefficients: Tensor) -> Tensor:
        """Score nodal values without solving; differentiable, in the dtype of `values`.

        Args:
            values: of a candidate at `nodes`, shape (B, num_nodes) or
                (B, num_nodes, num_components), boundary data included.
            coefficients: of B inputs.

        Returns:
            The energy of each, or half its squared residual in the dual norm, shape (B,).
        """

    @abstractmethod
    def mollifier(self, points: Tensor) -> Tensor:
        """m(ξ), zero where the solution is given and positive elsewhere: (n,) or (n, c)."""

    @abstractmethod
    def lifting(self, points: Tensor) -> Tensor:
        """g(ξ), which has the given values that no input changes, of the mollifier's shape."""

    def ansatz(self, points: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The map from a network U to m U + g at points, which has the given values exactly.

        What depends on the points alone is computed here, once. A problem whose given values
        depend on the input (initial values, an inflow) adds them here.

        Args:
            points: shape (n, d_x), in the domain; their dtype is the map's.

        Returns:
            A differentiable function of values of U at the points, shape (B, n) or
            (B, n, num_components), and of the coefficients of B inputs. It returns values of a
            candidate for the solution, of the shape of U's, such as `loss` takes at `nodes`.
        """
        m, g = self.mollifier(points), self.lifting(points)

        def candidate(network: Tensor, coefficients: Tensor) -> Tensor:
            return m.to(network) * network + g.to(network)

        return candidate

    def given_values(self, inputs: Tensor) -> Tensor:
        """`coefficients` `(*batch, num_given_values)`, unchecked, which `ansatz` is linear in.

        For problems with `num_given_values` > 0. Decoded inputs are good by construction, and
        samplers cannot branch on their values.

        Args:
            inputs: as `coefficients` takes them.
        """
        raise NotImplementedError(
            f"the given values of {type(self).__name__} do not depend on the input."
        )

    @abstractmethod
    def observation_operator(self, points: Tensor) -> Callable[[Tensor], Tensor]:
        """The map of nodal values `(*batch, *solution_shape)` to those `(*batch, n)` at points.

        A last axis of components stays the last.

        Args:
            points: shape (n, d_x), in the domain.
        """

    def interpolate(self, values: Tensor, points: Tensor) -> Tensor:
        """Values `(*batch, n)` of a discrete solution at points (n, d_x) of the domain."""
        return self.observation_operator(points)(values)

    def reference_posterior(
        self, y: Values, sensors: Values, *, noise_sd: float | None = None, **options: Any
    ) -> InversePosterior:
        """The exact posterior of the input by Markov chains with the solver, no network.

        Args:
            y: observed values, shape (num_sensors,).
            sensors: where, shape (num_sensors, num_dims).
            noise_sd: of the measurement noise; must be given.
            options: see `probnet.neural_operator.reference_posterior`.
        """
        from probnet.neural_operator.reference_posterior import reference_posterior

        return reference_posterior(self, y, sensors, noise_sd=noise_sd, **options)

    def check_points(self, name: str, points: Tensor) -> Tensor:
        """Return points as a float64 matrix, or raise on other shapes or outside the domain."""
        matrix = check_matrix(name, points, self.num_dims)
        low = torch.tensor(self.lower, dtype=matrix.dtype, device=matrix.device)
        high = torch.tensor(self.upper, dtype=matrix.dtype, device=matrix.device)
        outside = ~((matrix >= low) & (matrix <= high)).all(-1)
        if outside.any():
            first = int(outside.int().argmax())
            raise ValueError(
                f"`{name}` must lie in the domain, the box from {self.lower} to {self.upper}; "
                f"{int(outside.sum())} of {len(matrix)} do not (first: row {first}, "
                f"{matrix[first].tolist()})."
            )
        return matrix
