"""Is the solution to be trusted? Findings for the diagnostics, and messages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probnet.gp_pde.axis import build_axis
from probnet.gp_pde.dense import Conditioned
from probnet.gp_pde.discretisation import Discretisation
from probnet.gp_pde.engines import GridSolution
from probnet.gp_pde.grid import GridOperator
from probnet.pde import Coefficient, Unknown
from probnet.pde.functions import mesh
from probnet.pde.problem import nonlinear_part

_SINGULAR, _NEAR = 1e-12, 1e-3
_LARGE_RESIDUAL = 0.05
_MAX_OFF_GRID = (400, 24, 10)  # points per axis


class SolverWarning(UserWarning):
    """Something about a solution that makes it less trustworthy."""


def operator_findings(
    problem: Discretisation, core: Conditioned | GridSolution, slope: Tensor
) -> tuple[dict[str, Any], list[str]]:
    """The smallest |eigenvalue| of the collocation operator, and how singular it is.

    Raises:
        ValueError: if it is singular to rounding.
    """
    operator = _operator(problem, core, slope)
    if operator is None:
        return {"min_abs_eig": None, "cancellation": None}, []
    separable = operator.separable
    largest = float(separable.spectrum.abs().max())
    found = {
        "min_abs_eig": separable.min_abs_eig,
        "cancellation": separable.cancellation,
        "eigenvector_condition": separable.condition,
        "gmres_iterations": operator.num_iterations,
    }
    messages: list[str] = []
    if separable.min_abs_eig < _SINGULAR * largest / max(len(axis) for axis in operator.axes):
        raise ValueError(
            f"the collocation operator is singular: its smallest |eigenvalue| is "
            f"{separable.min_abs_eig:.1e} and its largest {largest:.1e}. Do the conditions "
            f"determine u?"
        )
    if separable.cancellation < _NEAR:
        messages.append(
            f"the operator is near-singular (a resonance): its smallest |eigenvalue| is "
            f"{separable.min_abs_eig:.1e}, where terms of opposite sign cancel to a share of "
            f"{separable.cancellation:.1e}. Errors of the data and of the grid are amplified."
        )
    if operator.unsolved:
        messages.append(
            f"GMRES has not converged: relative residual {operator.unsolved:.1e}. The "
            f"coefficients vary too much for its preconditioner; refine or rescale."
        )
    return found, messages


def off_grid_residual(
    problem: Discretisation,
    core: Conditioned | GridSolution,
    unknown: Mapping[str, Tensor] | None = None,
) -> tuple[float | None, list[str]]:
    """‖L u + N(u) - f‖ / ‖f‖ between nodes: of order one if the grid sees an alias.

    `None` where source or coefficients are arrays, known at nodes only.
    """
    pde = problem.pde
    if not all(_anywhere(v) for v in (pde.source, *pde.terms.values())):
        return None, []
    points = mesh([_off_nodes(nodes, _MAX_OFF_GRID[pde.dim - 1]) for nodes in problem.nodes])
    x = torch.stack([p.reshape(-1) for p in points], dim=1)
    source = pde.source_values(points, unknown).reshape(-1)
    found, u = torch.zeros_like(source), core.mean(x)
    scale = source.square().sum()
    for alpha, coefficient in pde.coefficients(points, unknown).items():
        a = coefficient.reshape(-1)
        term = a * core.mean(x, alpha)
        # A solution as smooth as the domain is long may have derivatives of rounding error.
        smooth = a * u / math.prod(n**o for n, o in zip(problem.lengths, alpha, strict=True))
        for size in (term, smooth):
            scale = torch.maximum(scale, size.square().sum())
        found = found + term
    if pde.nonlinearity is not None:
        found = found + nonlinear_part(pde, u)[0]
    residual = float((found - source).norm()) / (math.sqrt(float(scale)) or 1.0)
    if residual < _LARGE_RESIDUAL or problem.noisy:
        return residual, []
    return residual, [
        f"the solution does not satisfy the equation between nodes: relative residual "
        f"{residual:.1e}. The grid does not resolve the data (an alias?) or the solution is "
        f"not smooth. Refine `grid`."
    ]


def _anywhere(entry: Coefficient) -> bool:
    """Whether a coefficient is known between nodes: a number or a function."""
    value: Any = entry.times if isinstance(entry, Unknown) else entry
    return callable(value) or np.ndim(value) == 0


def _operator(
    problem: Discretisation, core: Conditioned | GridSolution, slope: Tensor
) -> GridOperator | None:
    if isinstance(core, GridSolution):
        return core.system.operator
    if problem.pde.dim > 1:
        return None
    orders = [problem.face_orders(0, upper=upper) for upper in (False, True)]
    order = max(alpha[0] for alpha in problem.coefficients)
    if 0 not in problem.periodic and sum(map(len, orders)) != order:
        return None
    # A smooth prior has no full-rank differentiation matrix: take a rough one of the domain's
    # scale, which is enough to see the low end of the spectrum.
    prior = core.prior[0]
    rough = type(prior)(
        prior.weight.new_ones(1),
        prior.weight.new_full((1,), problem.lengths[0]),
        prior.weight.new_zeros(1),
        2.5,
        prior.period,
    )
    axis = build_axis(problem.nodes[0], rough, 1e-13, *orders)
    zero = (0,)
    coefficients = dict(problem.coefficients)
    coefficients[zero] = coefficients.get(zero, torch.zeros_like(slope)) + slope
    return GridOperator([axis], coefficients)


def _off_nodes(nodes: Tensor, count: int) -> Tensor:
    """Points between nodes, unevenly placed so that no alias is hidden."""
    n = min(count, len(nodes) - 1)
    number = torch.linspace(0, len(nodes) - 2, n).round().long()
    share = 0.25 + 0.5 * torch.frac(0.61803398875 * torch.arange(1, n + 1, dtype=torch.float64))
    return nodes[number] + share * (nodes[1] - nodes[0])
