"""One fit in progress: the prior, the solution, and what is found out about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from probnet.gp_pde import grid_selection, selection
from probnet.gp_pde.checks import off_grid_residual, operator_findings
from probnet.gp_pde.dense import Conditioned
from probnet.gp_pde.discretisation import Discretisation, check_square
from probnet.gp_pde.engines import DenseEngine, GridEngine
from probnet.gp_pde.newton import NewtonResult, newton, solve_linear
from probnet.gp_pde.posterior import SpectralGPPosterior
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.solution import Solution
from probnet.gp_pde.system import grid_system
from probnet.kernels.spectral import SMOOTHNESSES
from probnet.pde.problem import nonlinear_part

if TYPE_CHECKING:
    from probnet.gp_pde.solver import SpectralGPSolver

_LINE_NUGGET, _GRID_NUGGET = 1e-11, 1e-13
_LINE_SMOOTHNESSES = SMOOTHNESSES[:-1]
_FINE, _WIDE = 100, 1e-5  # nodes, and relative standard deviation of the prior model


class Fit:
    """One fit in progress: prior, solution and findings.

    Args:
        settings: the solver's.
        problem: on its grid.
        method: `"evidence"`, `"spectrum"` or `"nuts"`.
        seed: of prior draws.
    """

    def __init__(
        self, settings: SpectralGPSolver, problem: Discretisation, method: str, seed: int
    ) -> None:
        self.settings, self.problem, self.method, self.seed = settings, problem, method, seed
        self.exact = not problem.pde.unknowns and (problem.pde.dim == 1 or problem.noisy)
        if not self.exact:
            check_square(problem)
        default = _LINE_NUGGET if self.exact else _GRID_NUGGET
        self.nugget = default if settings.nugget is None else settings.nugget
        self.peaks = selection.find_peaks(problem, settings.max_components)
        self.starts = selection.starting_priors(problem, self.peaks)
        self.evaluations = 0

    def posterior(self) -> SpectralGPPosterior:
        """Choose the prior and solve."""
        prior, nll = self.choose_prior(*self.linear_part())
        result, prior, nll = self._solve(prior, nll)
        solution = self.as_solution(result)
        diagnostics = self.findings(result, nll)
        return self.assemble([solution], diagnostics)

    def assemble(
        self, solutions: Sequence[Solution], diagnostics: dict[str, Any], draws: Any = None
    ) -> SpectralGPPosterior:
        """The posterior from its solutions."""
        data = self.problem.observations
        return SpectralGPPosterior(
            method=self.method,
            diagnostics=diagnostics,
            solutions=solutions,
            noise_sd=0.0 if data is None else float(data.noise_sd),  # pyright: ignore[reportArgumentType] - a number here
            axis_names=self.problem.pde.axis_names,
            nodes=self.problem.nodes,
            source=self.problem.source,
            draws=draws,
        )

    def choose_prior(self, slope: Tensor, right: Tensor) -> tuple[tuple[AxisPrior, ...], float]:
        """The prior for a linear problem, and its negative log evidence."""
        if self.method == "spectrum":
            fixed = self.settings.smoothness
            nu = selection.DEFAULT_SMOOTHNESS if fixed == "auto" else float(fixed)
            prior = grid_selection.fixed_prior(self.problem, self.starts, nu)
            return self._with_amplitude(prior, slope, right)
        smoothnesses = self._smoothnesses()
        if self.problem.pde.dim == 1 and self.exact:
            chosen = self._choose_on_line(slope, right)
        elif self.exact:
            chosen = grid_selection.select_dense(
                self.problem, self.starts, slope, right,
                smoothnesses=smoothnesses, nugget=self.nugget,
            )  # fmt: skip
        else:
            chosen = grid_selection.select_grid(
                self.problem, self.starts, right, slope,
                smoothnesses=smoothnesses, nugget=self.nugget,
            )  # fmt: skip
        self.evaluations = chosen.num_evaluations
        return chosen.prior, chosen.nll

    def engine(self, prior: Sequence[AxisPrior]) -> DenseEngine | GridEngine:
        """What solves linear problems with this prior."""
        if self.exact:
            return DenseEngine(self.problem, prior, self.nugget)
        return GridEngine(grid_system(self.problem, prior, self.nugget))

    def as_solution(self, result: NewtonResult) -> Solution:
        """With the settings of its error bars; data with noise need no scale."""
        calibrated = self.settings.calibrated and not self.problem.noisy
        return Solution(result.solution, self.problem.source.numel(), calibrated, self.seed)

    def findings(
        self, result: NewtonResult, nll: float, unknown: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """Diagnostics, JSON-able, with the warnings that follow from them.

        Args:
            result: of the last solve.
            nll: of its prior.
            unknown: values of the unknowns there.
        """
        core = result.solution
        fewest, messages = selection.points_per_period(self.problem, self.peaks)
        nugget = (
            core.factor.nugget
            if isinstance(core, Conditioned)
            else max(axis.factor.nugget for axis in core.system.axes)
        )
        if nugget > self.nugget:
            messages.append(
                f"the nugget was raised from {self.nugget:.0e} to {nugget:.0e} to factorise "
                f"the prior covariance: the solution may be less accurate than usual."
            )
        operator, more = operator_findings(self.problem, core, result.slope)
        between, much = off_grid_residual(self.problem, core, unknown)
        messages += more + much
        if not result.converged:
            messages.append(
                f"Newton's iteration has not converged: relative residual "
                f"{result.residual:.1e} after {result.num_steps} steps. Raise `max_newton` or "
                "refine `grid`."
            )
        found = {
            "estimator": "exact conditioning" if self.exact else "grid",
            "nll": nll if math.isfinite(nll) else None,
            "smoothness": _smoothness(core),
            "points_per_period": fewest,
            "residual": result.residual,
            "off_grid_residual": between,
            "newton_steps": result.num_steps,
            "newton_residual": result.residual if self.problem.pde.nonlinearity else None,
            "nugget": nugget,
            "evidence_evaluations": self.evaluations,
            "warnings": messages,
        }
        return found | operator

    def linear_part(self) -> tuple[Tensor, Tensor]:
        """Slope and right-hand side of the equation linearised at zero."""
        value, slope = nonlinear_part(
            self.problem.pde, torch.zeros(self.problem.shape, dtype=torch.float64)
        )
        return slope, self.problem.source - value

    def _solve(
        self, prior: tuple[AxisPrior, ...], nll: float
    ) -> tuple[NewtonResult, tuple[AxisPrior, ...], float]:
        """The solution; in one dimension the prior is fitted again after the first step."""
        problem, engine = self.problem, self.engine(prior)
        result = solve_linear(problem, engine)
        if problem.pde.nonlinearity is None:
            return result, prior, nll
        start = engine.values(result.solution)
        steps = 0
        if problem.pde.dim == 1 and self.method == "evidence":
            first = newton(problem, engine, start, 1)
            start, steps = engine.values(first.solution), 1
            value, slope = nonlinear_part(problem.pde, start)
            rows = problem.rows(slope, problem.source - value + slope * start)
            chosen = selection.refit_line(
                rows, prior[0], problem, nugget=self.nugget, max_iter=self.settings.max_iter
            )
            prior, nll = chosen.prior, chosen.nll
            engine = self.engine(prior)
        result = newton(problem, engine, start, self.settings.max_newton)
        return result.after(steps), prior, nll

    def _choose_on_line(self, slope: Tensor, right: Tensor) -> selection.Chosen:
        """ν = 5/2, calibrated best, unless its error bars are wide on a fine grid."""
        rows = self.problem.rows(slope, right)

        def select(smoothnesses: Sequence[float]) -> selection.Chosen:
            return selection.select_line(
                rows,
                self._line_starts(),
                self.problem,
                smoothnesses=smoothnesses,
                nugget=self.nugget,
                max_iter=self.settings.max_iter,
            )

        if self.settings.smoothness != "auto":
            return select(self._smoothnesses())
        chosen = select(_LINE_SMOOTHNESSES[:1])
        if self.problem.noisy or len(self.problem.nodes[0]) < _FINE:
            return chosen
        core = Conditioned(rows, chosen.prior, self.nugget)
        x = self.problem.nodes[0][:: max(1, len(self.problem.nodes[0]) // 100), None]
        middle = x[:-1] + self.problem.spacings[0] / 2
        size = float(core.mean(middle).square().mean().sqrt())
        if float(core.variance(middle).mean().sqrt()) <= _WIDE * size:
            return chosen
        smoother = select(_LINE_SMOOTHNESSES[1:])
        return smoother if smoother.nll < chosen.nll else chosen

    def _line_starts(self) -> list[AxisPrior]:
        start = self.starts[0]
        return [start, selection.smooth_part(start)] if len(start.weight) > 1 else [start]

    def _smoothnesses(self) -> tuple[float, ...]:
        if self.settings.smoothness != "auto":
            return (float(self.settings.smoothness),)
        return _LINE_SMOOTHNESSES if self.exact else SMOOTHNESSES

    def _with_amplitude(
        self, prior: tuple[AxisPrior, ...], slope: Tensor, right: Tensor
    ) -> tuple[tuple[AxisPrior, ...], float]:
        chosen = grid_selection.with_amplitude(
            self.problem, prior, slope, right, exact=self.exact, nugget=self.nugget
        )
        return chosen.prior, chosen.nll


def _smoothness(core: Any) -> float | str:
    prior = core.prior if isinstance(core, Conditioned) else core.system.prior
    return prior[0].smoothness if math.isfinite(prior[0].smoothness) else "inf"
