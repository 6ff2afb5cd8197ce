"""Newton-Kantorovich for L u + N(u) = f: linear Gaussian-process problems in sequence.

At u_k the linear problem is L v + N'(u_k) v = f - N(u_k) + N'(u_k) u_k. Its fixed point is the
Gauss-Newton solution of the Gaussian-process MAP problem (Chen, Hosseini, Owhadi & Stuart,
2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from probnet.gp_pde.discretisation import Discretisation
from probnet.gp_pde.engines import Engine
from probnet.pde.problem import nonlinear_part

_RESIDUAL, _STEP, _MAX_HALVINGS = 1e-12, 1e-10, 6


@dataclass(frozen=True, eq=False)
class NewtonResult:
    """Where the iteration ended.

    Attributes:
        solution: of the last linear problem.
        slope: N'(u_k) on the grid at the last linearisation.
        right: right-hand side of the last linear problem.
        num_steps: linear solves after the start.
        residual: ‖L u + N(u) - f‖ / scale at the end, where the scale is that of L u and f.
        converged: whether the residual or the step fell below its tolerance.
    """

    solution: Any
    slope: Tensor
    right: Tensor
    num_steps: int
    residual: float
    converged: bool

    def after(self, steps: int) -> NewtonResult:
        """The same with earlier steps counted."""
        return replace(self, num_steps=self.num_steps + steps)


def solve_linear(problem: Discretisation, engine: Engine) -> NewtonResult:
    """The solution of the linear part, N frozen at its value and slope in zero."""
    zero = torch.zeros(problem.shape, dtype=torch.float64)
    value, slope = nonlinear_part(problem.pde, zero)
    right = problem.source - value
    solution = engine.solve(slope, right)
    if problem.pde.nonlinearity is None:
        excess = engine.operator(solution) - engine.at_equation(right)
        scale = float(torch.linalg.norm(engine.at_equation(right))) or 1.0
        residual = float(torch.linalg.norm(excess)) / scale
        return NewtonResult(solution, slope, right, 0, residual, converged=True)
    return NewtonResult(solution, slope, right, 0, float("nan"), converged=False)


def newton(
    problem: Discretisation, engine: Engine, start: Tensor, max_steps: int
) -> NewtonResult:
    """Iterate from values `start` on the grid.

    A step that raises the residual is halved, at most six times.

    Args:
        problem: equation and conditions.
        engine: solves the linear problems.
        start: u on the grid.
        max_steps: linear solves.
    """
    pde = problem.pde
    source = engine.at_equation(problem.source)
    u = start
    operator: Tensor | None = None  # L u at the current u, known from the first solve on
    residual, steps, converged = float("inf"), 0, False
    solution, slope, right = None, torch.zeros_like(start), problem.source
    while steps < max_steps and not converged:
        value, slope = nonlinear_part(pde, u)
        right = problem.source - value + slope * u
        solution = engine.solve(slope, right)
        steps += 1
        target, target_operator = engine.values(solution), engine.operator(solution)
        scale = float(torch.linalg.norm(source)) or float(torch.linalg.norm(target_operator))
        share, reached = 1.0, math.inf
        before, trial, trial_operator = u, target, target_operator
        for _ in range(_MAX_HALVINGS if operator is not None else 1):
            trial = before + share * (target - before)
            if operator is not None:
                trial_operator = operator + share * (target_operator - operator)
            trial_value = engine.at_equation(nonlinear_part(pde, trial)[0])
            excess = trial_operator + trial_value - source
            reached = float(torch.linalg.norm(excess)) / (scale or 1.0)
            if reached <= residual or share * reached < _RESIDUAL:
                break
            share /= 2
        size = float(torch.linalg.norm(trial)) or 1.0
        move = float(torch.linalg.norm(trial - before)) / size
        stalled = reached > 0.5 * residual and share == 1.0 and reached < 1e-6
        u, operator, residual = trial, trial_operator, reached
        converged = residual < _RESIDUAL or move < _STEP or stalled
    return NewtonResult(solution, slope, right, steps, residual, converged)
