"""Two ways to solve a linear(ised) equation: exact conditioning, and a grid's direct solve.

Both return a solution that knows u and its derivatives everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from probnet.gp_pde.dense import Conditioned
from probnet.gp_pde.discretisation import Discretisation
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.rows import Rows
from probnet.gp_pde.system import GridSystem, interpolate
from probnet.pde import MultiIndex


class Engine(Protocol):
    """Solves L u + slope * u = right with the conditions of a problem."""

    def solve(self, slope: Tensor, right: Tensor) -> Any:
        """The solution."""
        ...

    def values(self, solution: Any) -> Tensor:
        """U at all nodes."""
        ...

    def operator(self, solution: Any) -> Tensor:
        """L u at the nodes where the equation holds."""
        ...

    def at_equation(self, field: Tensor) -> Tensor:
        """Values of a field on the grid at those nodes."""
        ...


class DenseEngine:
    """Exact conditioning on all rows; the equation holds at every node.

    Args:
        problem: equation and conditions.
        prior: one per axis.
        nugget: ε.
    """

    def __init__(
        self, problem: Discretisation, prior: Sequence[AxisPrior], nugget: float
    ) -> None:
        self.problem, self.prior, self.nugget = problem, list(prior), nugget
        shape = problem.shape
        x = torch.cartesian_prod(*problem.nodes).reshape(-1, problem.pde.dim)
        zeros = torch.zeros(len(x), dtype=torch.float64)
        flat = {order: a.reshape(-1) for order, a in problem.coefficients.items()}
        self._operator_rows = Rows(x, flat, zeros, zeros)
        self._shape = shape

    def solve(self, slope: Tensor, right: Tensor) -> Conditioned:
        """The posterior of u."""
        return Conditioned(self.problem.rows(slope, right), self.prior, self.nugget)

    def values(self, solution: Conditioned) -> Tensor:
        """Posterior mean of u at all nodes."""
        return solution.mean(self._operator_rows.x).reshape(self._shape)

    def operator(self, solution: Conditioned) -> Tensor:
        """Posterior mean of L u at all nodes."""
        return solution.mean_of(self._operator_rows).reshape(self._shape)

    def at_equation(self, field: Tensor) -> Tensor:
        """The field itself."""
        return field


@dataclass(frozen=True, eq=False)
class GridSolution:
    """u on a grid, and everywhere by the conditional mean k(x, X) C⁻¹ u.

    Attributes:
        system: that u solves.
        u: values at the nodes.
    """

    system: GridSystem
    u: Tensor

    def mean(self, x: Tensor, order: MultiIndex | None = None) -> Tensor:
        """∂^order u at points `(n, d)`."""
        return interpolate(self.system.axes, self.u[None], x, order)[0]


class GridEngine:
    """The grid's direct solve; the equation holds at nodes that no condition has eliminated.

    Args:
        system: the linear part of the problem.
    """

    def __init__(self, system: GridSystem) -> None:
        self.system = system

    def solve(self, slope: Tensor, right: Tensor) -> GridSolution:
        """U on the grid."""
        system = self.system.with_slope(slope, right)
        return GridSolution(system, system.solve())

    def values(self, solution: GridSolution) -> Tensor:
        """U at all nodes."""
        return solution.u

    def operator(self, solution: GridSolution) -> Tensor:
        """L u at the kept nodes."""
        plain = self.system.operator
        return plain.restrict(plain.apply(solution.u))

    def at_equation(self, field: Tensor) -> Tensor:
        """The field at the kept nodes."""
        return self.system.operator.restrict(field)
