"""The published method, for comparison: objective, parametrisation and optimiser of GP-HM.

Source: Fang et al. (ICLR 2024) and the released code: Student-t mixtures with ν = 5/2, 30
components per axis, jitter 1e-6, boundary weight 200, Adam with step 1e-2, all of u and the
hyper-parameters descended on together. Two departures make a step fast and change no number:
kernels are evaluated on the lags of the uniform grid, and one Cholesky factor per axis serves
solve and determinant.

Options: `num_steps` (10 000), `frequency_bound` F (20 cycles per unit; chosen by hand in the
paper), `boundary_weight` (200), `num_components` (30), `step_size` (1e-2), `callback(step,
solution)`, called after every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from inference._checks import check_integer, check_positive
from probnet.gp_pde.discretisation import Discretisation, discretise
from probnet.gp_pde.engines import GridSolution
from probnet.gp_pde.fit import Fit
from probnet.gp_pde.newton import NewtonResult
from probnet.gp_pde.posterior import SpectralGPPosterior
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.system import GridSystem, grid_system
from probnet.linalg import mode_product
from probnet.pde import PDE, Condition
from probnet.pde.functions import mesh

if TYPE_CHECKING:
    from probnet.gp_pde.solver import SpectralGPSolver

_JITTER = 1e-6
_SMOOTHNESS = 2.5


class Objective:
    """J(U, θ, τ) of the paper, to be maximised.

    Args:
        problem: equation and Dirichlet data on all faces that have any.
        num_components: Q per axis.
        frequency_bound: F; frequencies start evenly on [0, F].
        boundary_weight: λ_b.
    """

    def __init__(
        self,
        problem: Discretisation,
        num_components: int,
        frequency_bound: float,
        boundary_weight: float,
    ) -> None:
        self.problem, self.boundary_weight = problem, boundary_weight
        dim = problem.pde.dim
        start = torch.zeros(num_components, dtype=torch.float64)
        self.log_weight = _leaves([start - math.log(num_components)] * dim)
        self.log_lengthscale = _leaves([start] * dim)
        even = torch.linspace(0, frequency_bound, num_components, dtype=torch.float64)
        self.frequency = _leaves([even] * dim)
        self.u = torch.zeros(problem.shape, dtype=torch.float64).requires_grad_()
        self.log_tau = torch.zeros(2, dtype=torch.float64).requires_grad_()
        self._index, self._values = _boundary(problem)
        lags = [torch.arange(n, dtype=torch.float64) * h for n, h in
                zip(problem.shape, problem.spacings, strict=True)]  # fmt: skip
        numbers = [torch.arange(n) for n in problem.shape]
        self._lags = lags
        self._toeplitz = [(n[:, None] - n).abs() for n in numbers]
        self._signs = [torch.sign(n[:, None] - n).to(torch.float64) for n in numbers]

    @property
    def parameters(self) -> list[Tensor]:
        """Everything that is descended on."""
        groups = [self.log_weight, self.log_lengthscale, self.frequency]
        return [self.u, self.log_tau, *(p for group in groups for p in group)]

    def priors(self) -> list[AxisPrior]:
        """The spectral priors at the current parameters."""
        return [
            AxisPrior(w.exp(), ell.exp(), mu, _SMOOTHNESS)
            for w, ell, mu in zip(
                self.log_weight, self.log_lengthscale, self.frequency, strict=True
            )
        ]

    def __call__(self) -> Tensor:
        """J."""
        u, count = self.u, self.u.numel()
        factors: list[Tensor] = []
        tables: list[Tensor] = []
        total = torch.zeros((), dtype=torch.float64)
        weighted = u
        for axis, prior in enumerate(self.priors()):
            index = self._toeplitz[axis]
            table = prior.derivatives(self._lags[axis], self.problem.pde.axis_order(axis))
            gram = table[0][index] + _JITTER * torch.eye(len(index), dtype=torch.float64)
            factor = torch.linalg.cholesky(gram)
            factors.append(factor)
            tables.append(table)
            log_det = 2 * factor.diagonal().log().sum()
            total = total - 0.5 * count / len(index) * log_det
            flat = weighted.movedim(axis, 0)
            solved = torch.cholesky_solve(flat.reshape(len(index), -1), factor)
            weighted = solved.reshape(flat.shape).movedim(0, axis)
        total = total - 0.5 * (u * weighted).sum()
        residual = self._residual(factors, tables)
        boundary = self.u[self._index] - self._values
        log_tau_b, log_tau_f = self.log_tau
        fit_b = len(boundary) * log_tau_b - log_tau_b.exp() * (boundary**2).sum()
        fit_f = count * log_tau_f - log_tau_f.exp() * (residual**2).sum()
        return total + 0.5 * self.boundary_weight * fit_b + 0.5 * fit_f

    def _residual(self, factors: list[Tensor], tables: list[Tensor]) -> Tensor:
        u, problem = self.u, self.problem
        total = -problem.source
        for alpha, coefficient in problem.coefficients.items():
            term = u
            for axis, order in enumerate(alpha):
                if order:
                    matrix = tables[axis][order][self._toeplitz[axis]]
                    if order % 2:
                        matrix = matrix * self._signs[axis]
                    flat = term.movedim(axis, 0)
                    solved = torch.cholesky_solve(flat.reshape(len(matrix), -1), factors[axis])
                    term = mode_product(
                        matrix, solved.reshape(flat.shape).movedim(0, axis), axis
                    )
            total = total + coefficient * term
        if problem.pde.nonlinearity is not None:
            total = total + problem.pde.nonlinearity(u)
        return total


def fit_adam(
    settings: SpectralGPSolver,
    pde: PDE,
    conditions: Condition | Sequence[Condition],
    *,
    progress: bool,
    num_steps: int = 10_000,
    frequency_bound: float = 20.0,
    boundary_weight: float = 200.0,
    num_components: int = 30,
    step_size: float = 1e-2,
    callback: Callable[[int, GridSolution], None] | None = None,
) -> SpectralGPPosterior:
    """Run the published method; no uncertainty is part of it, and none is calibrated."""
    check_integer("num_steps", num_steps, 1)
    check_integer("num_components", num_components, 1)
    check_positive("frequency_bound", frequency_bound)
    problem = discretise(pde, conditions, settings.grid_shape(pde.dim))
    objective = Objective(problem, num_components, frequency_bound, boundary_weight)
    optimiser = torch.optim.Adam(objective.parameters, lr=step_size)
    for step in tqdm(range(1, num_steps + 1), disable=None if progress else True):
        optimiser.zero_grad()
        loss = -objective()
        loss.backward()
        optimiser.step()
        if callback is not None:
            callback(step, _solution(objective))
    solution = _solution(objective)
    with torch.no_grad():
        residual = float(objective().detach())
    fit = Fit(settings, problem, "adam", 0)
    zero = torch.zeros_like(problem.source)
    result = NewtonResult(solution, zero, problem.source, num_steps, math.nan, converged=True)
    diagnostics: dict[str, Any] = {
        "estimator": "adam",
        "objective": residual,
        "nll": None,
        "num_steps": num_steps,
        "log_precisions": objective.log_tau.tolist(),
        "warnings": [],
    }
    return fit.assemble([replace(fit.as_solution(result), calibrated=False)], diagnostics)


def _solution(objective: Objective) -> GridSolution:
    """The current u with the paper's interpolation k(x, X) (C + 1e-6 I)⁻¹ u."""
    priors: list[AxisPrior] = []
    for prior in objective.priors():
        priors.append(
            AxisPrior(
                prior.weight.detach(),
                prior.lengthscale.detach(),
                prior.frequency.detach().clone(),
                prior.smoothness,
            )
        )
    system: GridSystem = grid_system(objective.problem, priors, _JITTER)
    return GridSolution(system, objective.u.detach().clone())


def _boundary(problem: Discretisation) -> tuple[tuple[Tensor, ...], Tensor]:
    """Index of the nodes with data, corners once per face as published; and the data."""
    rows: list[Tensor] = []
    values: list[Tensor] = []
    nodes = mesh([torch.arange(n) for n in problem.shape])
    for face in problem.faces:
        if face.data.order:
            raise ValueError("`method='adam'` takes Dirichlet data only, as published.")
        end = -1 if face.data.upper else 0
        rows.append(
            torch.stack([n.select(face.data.axis, end).reshape(-1) for n in nodes], dim=1)
        )
        values.append(face.values.reshape(-1))
    index = torch.cat(rows)
    return tuple(index.unbind(1)), torch.cat(values)


def _leaves(values: Sequence[Tensor]) -> list[Tensor]:
    return [v.clone().requires_grad_() for v in values]
