"""Error bars whose scale is measured: innovation scaling.

Adding data to a Gaussian model gives Var(m_full - m_part) = v_part - v_full. The ratio κ² of
the observed to the predicted change, when part of the data is left out, says by how much the
prior over- or understates the errors; reported standard deviations are κ √v.
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

_FOLDS = 8
_MAX_POINTS = 600
NUM_ERRORS = 24
"""Prior draws whose solver errors make the covariance on a grid."""

_SMALLEST = 1e-30  # κ² where solutions do not change at all
_LOOSE = 1e-3  # relative accuracy of an error, whose scale is measured anyway


def innovation_scale(solution: Conditioned, num_equation: int) -> float:
    """κ of exact conditioning: every eighth row of the equation is left out, in eight ways.

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
        change = float((part.mean(x) - mean).square().sum())
        expected = float((part.variance(x) - variance).clamp_min(0).sum())
        ratios.append(change / max(expected, 1e-300))
    return math.sqrt(max(sum(ratios) / _FOLDS, _SMALLEST))


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
        """κ over two thinned grids.

        A light thinning says more about the whole grid, the change by a heavy one is less
        touched by rounding: the larger of the light one's ratio and their geometric mean is
        taken. Ratios are taken point by point: where errors are small counts as much as where
        they are large.
        """
        system, full = self.solution.system, self.exact - self.errors
        ratios: list[float] = []
        for thinned in (_without_every_fifth, _without_every_second):
            coarse = system.subset([thinned(len(nodes)) for nodes in system.nodes])
            exact = self.draws.on_grid(coarse.nodes)
            solved = torch.cat(
                [exact - _errors(coarse, self.draws, exact), coarse.solve()[None]]
            )
            there = _on_nodes(coarse.axes, solved, system.nodes)
            predicted = (there[:-1] - full).square().mean(0)
            observed = (there[-1] - self.solution.u).square()
            ratio = system.operator.restrict(_ratio(observed, predicted)).mean()
            ratios.append(max(float(ratio), _SMALLEST))
        light, heavy = ratios
        return math.sqrt(max(light, math.sqrt(light * heavy)))


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


def _without_every_fifth(count: int) -> Tensor:
    """Numbers of the nodes that are kept, in a pattern that is the same from both ends."""
    number = torch.arange(count)
    return number[torch.minimum(number, count - 1 - number) % 5 != 2]


def _without_every_second(count: int) -> Tensor:
    """The same, of half the nodes."""
    number = torch.arange(count)
    return number[torch.minimum(number, count - 1 - number) % 2 == 0]


def _ratio(observed: Tensor, predicted: Tensor) -> Tensor:
    """Squared changes, observed over predicted, point by point."""
    smallest = 1e-12 * float(predicted.max()) or 1e-300
    return observed / predicted.clamp_min(smallest)


def _between(x: Tensor) -> Tensor:
    """Points between rows of a table of points, at most 600, evenly chosen."""
    middle = (x[1:] + x[:-1]) / 2
    step = max(1, math.ceil(len(middle) / _MAX_POINTS))
    return middle[::step]
