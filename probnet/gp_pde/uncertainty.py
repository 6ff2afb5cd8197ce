"""Error bars whose scale is measured: innovation scaling.

Adding data to a Gaussian model gives Var(m_full - m_part) = v_part - v_full. The ratio κ² of the
observed to the predicted change, when part of the equation's rows is left out, says by how much
the prior over- or understates the errors; reported standard deviations are κ √v.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from probnet.gp_pde.axis import GridAxis
from probnet.gp_pde.dense import Conditioned
from probnet.gp_pde.engines import GridSolution
from probnet.gp_pde.features import PriorDraws
from probnet.gp_pde.system import GridSystem, interpolate
from probnet.linalg import mode_product

_FOLDS = 4
_MAX_POINTS = 600
NUM_ERRORS = 24
"""Prior draws whose solver errors make the covariance on a grid."""

_LOOSE = 1e-3  # relative accuracy of an error, whose scale is measured anyway


def innovation_scale(solution: Conditioned, num_equation: int) -> float:
    """κ of exact conditioning: every fourth equation row is left out, in four ways.

    Args:
        solution: with all rows.
        num_equation: how many rows, the first ones, are the equation's.
    """
    rows = solution.rows
    x = _between(rows.x[:num_equation])
    mean, variance = solution.mean(x), solution.variance(x)
    number = torch.arange(len(rows))
    ratios: list[float] = []
    for fold in range(_FOLDS):
        keep = (number % _FOLDS != fold) | (number >= num_equation)
        part = Conditioned(rows[keep], solution.prior, solution.factor.nugget)
        change = float(((part.mean(x) - mean) ** 2).sum())
        expected = float((part.variance(x) - variance).clamp_min(0).sum())
        ratios.append(change / max(expected, 1e-300))
    return math.sqrt(sum(ratios) / _FOLDS)


class PathwiseErrors:
    """Draws of the error of a grid solve, for functions drawn from the prior.

    A draw u of the prior is solved for from its own source and face data; its difference from
    the solution is an exact draw of the prior predictive error of this solver, whichever linear
    solver it is. On the grid the error solves the same system with the truncation error of the
    draw, L_h u - L u, on the right. The draws are scaled by κ, measured on a thinned grid.

    Args:
        solution: whose errors are wanted.
        seed: of the draws.
        calibrated: scale the errors by κ.
    """

    def __init__(self, solution: GridSolution, seed: int, *, calibrated: bool) -> None:
        self.solution = solution
        system = solution.system
        self.draws = PriorDraws(system.prior, system.nodes, NUM_ERRORS, seed)
        self.exact = self.draws.on_grid(system.nodes)
        self.errors = _errors(system, self.draws, self.exact)
        self.scale = self._innovation_scale() if calibrated else 1.0

    def at(self, x: Tensor) -> Tensor:
        """Scaled errors at points, `(NUM_ERRORS, n)`; their second moment is the variance."""
        solved = interpolate(self.solution.system.axes, self.exact - self.errors, x)
        return self.scale * (self.draws.at(x) - solved)

    def _innovation_scale(self) -> float:
        """Observed over predicted change of the solution when nodes are left out."""
        system = self.solution.system
        coarse = system.subset([_thinned(len(nodes)) for nodes in system.nodes])
        exact = self.draws.on_grid(coarse.nodes)
        solved = torch.cat([exact - _errors(coarse, self.draws, exact), coarse.solve()[None]])
        there = _on_nodes(coarse.axes, solved, system.nodes)
        predicted = (there[:-1] - (self.exact - self.errors)).square().mean(0).sum()
        observed = (there[-1] - self.solution.u).square().sum()
        return math.sqrt(float(observed) / max(float(predicted), 1e-300))


def _errors(system: GridSystem, draws: PriorDraws, exact: Tensor) -> Tensor:
    """Errors on the grid, `(s, *grid)`, of the draws whose values there are `exact`."""
    operator, nodes = system.operator, system.nodes
    truncation = -draws.operator_on_grid(nodes, system.coefficients)
    faces: list[Tensor | None] = []
    for axis, orders in enumerate(system.orders):
        rows = [
            mode_product(system.axes[axis].derivatives[order][[end]], exact, axis + 1)
            - draws.on_face(nodes, axis, end, order)
            for end, at_end in ((0, orders[0]), (-1, orders[1]))
            for order in at_end
        ]
        faces.append(torch.cat(rows, dim=axis + 1) if rows else None)
    found: list[Tensor] = []
    for number, u in enumerate(exact):
        mine = [None if f is None else f[number] for f in faces]
        right = operator.apply(u) + truncation[number]
        found.append(operator.solve(right, mine, target=_LOOSE))
    return torch.stack(found)


def _on_nodes(axes: Sequence[GridAxis], fields: Tensor, nodes: Sequence[Tensor]) -> Tensor:
    for j, (axis, x) in enumerate(zip(axes, nodes, strict=True)):
        weight = axis.factor.solve(axis.interpolation(x).mT.contiguous()).mT.contiguous()
        fields = mode_product(weight, fields, j + 1)
    return fields


def _thinned(count: int) -> Tensor:
    """All nodes but every fifth, in a pattern that is the same from both ends."""
    number = torch.arange(count)
    from_end = torch.minimum(number, count - 1 - number)
    return number[from_end % 5 != 2]


def _between(x: Tensor) -> Tensor:
    """Points between rows of a table of points, at most 600, evenly chosen."""
    middle = (x[1:] + x[:-1]) / 2
    step = max(1, math.ceil(len(middle) / _MAX_POINTS))
    return middle[::step]
