"""`SpectralGPSolver`: an equation and its conditions in, a posterior over u out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference._checks import check_choice, check_integer, check_nonnegative
from probnet.gp_pde import selection
from probnet.gp_pde.checks import operator_findings, off_grid_residual
from probnet.gp_pde.dense import Conditioned
from probnet.gp_pde.discretisation import Discretisation, check_square, discretise
from probnet.gp_pde.engines import DenseEngine, GridEngine
from probnet.gp_pde.newton import NewtonResult, newton, solve_linear
from probnet.gp_pde.posterior import Solution, SpectralGPPosterior
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.system import grid_system
from probnet.kernels.spectral import SMOOTHNESSES
from probnet.pde import PDE, Condition, Observations
from probnet.pde.problem import nonlinear_part

METHODS = ("evidence", "spectrum", "nuts", "adam")
_DEFAULT_GRID = (400, 200, 48)
_LINE_NUGGET, _GRID_NUGGET = 1e-11, 1e-13
_LINE_SMOOTHNESSES = SMOOTHNESSES[:-1]
_FINE, _WIDE = 100, 1e-5  # nodes, and relative standard deviation of the prior model


class SolverWarning(UserWarning):
    """Something about a solution that makes it less trustworthy."""


@dataclass(frozen=True)
class SpectralGPSolver:
    """Gaussian-process solver of linear and semilinear equations on boxes.

    In one dimension, and wherever data have noise or u is observed, the process is conditioned
    exactly on all rows. On grids in two and three dimensions with exact data the solution is that
    of the hard-constraint limit, one Sylvester solve. `posterior.diagnostics["estimator"]` says
    which: `"exact conditioning"` or `"grid"`.

    Args:
        grid: nodes per axis, one number for all axes or a sequence; 400, 200 and 48 per axis in
            one, two and three dimensions by default.
        smoothness: ν of the prior: 2.5, 3.5, 4.5 or infinity (Gaussian mixture); `"auto"` lets
            the evidence choose.
        max_components: frequencies per axis beside the smooth component; by default 6 in one
            dimension and 4 in more.
        nugget: ε, relative to prior variances; 1e-11 for exact conditioning and 1e-13 on grids
            by default. It is raised tenfold, with a warning, where a factorisation fails.
        max_iter: of L-BFGS.
        max_newton: linear solves of a semilinear equation.
        calibrated: scale standard deviations by innovations; `False` reports those of the
            prior model as they are.

    Raises:
        ValueError: on an argument out of range.

    Example:
        >>> import torch
        >>> from probnet.pde import PDE, Dirichlet
        >>> pde = PDE.linear([(0, 1)], {(2,): 1.0}, source=lambda x: -400 * torch.sin(20 * x))
        >>> posterior = SpectralGPSolver(grid=64).fit(pde, Dirichlet(lambda x: torch.sin(20 * x)))
        >>> x = torch.tensor([[0.3]])
        >>> bool((posterior.mean(x) - torch.sin(20 * x[:, 0])).abs() < 1e-6)
        True
    """

    grid: int | Sequence[int] | None = None
    smoothness: float | str = "auto"
    max_components: int | None = None
    nugget: float | None = None
    max_iter: int = 40
    max_newton: int = 20
    calibrated: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.smoothness != "auto" and self.smoothness not in SMOOTHNESSES:
            raise ValueError(
                f"`smoothness` must be 'auto' or one of {SMOOTHNESSES}; got {self.smoothness!r}."
            )
        if self.nugget is not None:
            check_nonnegative("nugget", self.nugget)
        if self.max_components is not None:
            check_integer("max_components", self.max_components, 0)
        check_integer("max_iter", self.max_iter, 0)
        check_integer("max_newton", self.max_newton, 1)

    def fit(
        self,
        pde: PDE,
        conditions: Condition | Sequence[Condition],
        *,
        observations: Observations | None = None,
        method: str = "evidence",
        seed: int = 0,
        progress: bool = True,
        **options: Any,
    ) -> SpectralGPPosterior:
        """Solve an equation.

        Args:
            pde: the equation.
            conditions: on the faces of its domain, one or several.
            observations: noisy values of u inside.
            method: `"evidence"`: frequencies from the data, the rest by the marginal
                likelihood; `"spectrum"`: frequencies from the data alone; `"nuts"`: sampled,
                the `Unknown`s of the equation if it has any, else the hyper-parameters (one
                dimension); `"adam"`: the published objective and optimiser, for comparison.
            seed: of everything random.
            progress: show a progress bar on a terminal.
            **options: of `"nuts"`, passed to `inference.sample`; of `"adam"`, see
                `probnet.gp_pde.reference`.

        Returns:
            A new posterior.

        Raises:
            ValueError: on what cannot be solved, see `probnet.gp_pde.discretisation`.
            TypeError: on an option that the method does not take.

        Warns:
            SolverWarning: on too few nodes per period, a near-singular operator, a raised
                nugget, a solution that does not satisfy the equation between nodes, or an
                iteration that has not converged.
        """
        check_choice("method", method, METHODS)
        check_integer("seed", seed, 0)
        if method == "adam":
            from probnet.gp_pde.reference import fit_adam

            return fit_adam(self, pde, conditions, progress=progress, **options)
        if pde.unknowns:
            from probnet.gp_pde.inverse import fit_unknowns

            if method != "nuts":
                raise ValueError(
                    f"`method` must be 'nuts' for an equation with the unknowns "
                    f"{sorted(pde.unknowns)}; got {method!r}."
                )
            found = fit_unknowns(
                lambda problem: Fit(self, problem, method, seed), pde, conditions, observations,
                grid=self.grid_shape(pde.dim), seed=seed, progress=progress, **options,
            )  # fmt: skip
        else:
            problem = discretise(pde, conditions, self.grid_shape(pde.dim), observations)
            fit = Fit(self, problem, method, seed)
            if method == "nuts":
                from probnet.gp_pde.hyper import sample_hyperparameters

                found = sample_hyperparameters(fit, seed=seed, progress=progress, **options)
            else:
                _refuse_options(method, options)
                found = fit.posterior()
        for message in found.diagnostics["warnings"]:
            warnings.warn(message, SolverWarning, stacklevel=2)
        return found

    def grid_shape(self, dim: int) -> tuple[int, ...]:
        """Nodes per axis for an equation in `dim` dimensions."""
        grid = _DEFAULT_GRID[dim - 1] if self.grid is None else self.grid
        shape = (grid,) * dim if isinstance(grid, int) else tuple(grid)
        return tuple(check_integer(f"grid[{j}]", n, 1) for j, n in enumerate(shape))


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
            prior = selection.fixed_prior(self.problem, self.starts, nu)
            return self._with_amplitude(prior, slope, right)
        smoothnesses = self._smoothnesses()
        if self.problem.pde.dim == 1 and self.exact:
            chosen = self._choose_on_line(slope, right)
        elif self.exact:
            chosen = selection.select_dense(
                self.problem, self.starts, slope, right,
                smoothnesses=smoothnesses, nugget=self.nugget,
            )  # fmt: skip
        else:
            chosen = selection.select_grid(
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
        """With the settings of its error bars."""
        return Solution(
            result.solution, self.problem.source.numel(), self.settings.calibrated, self.seed
        )

    def findings(self, result: NewtonResult, nll: float) -> dict[str, Any]:
        """Diagnostics, JSON-able, with the warnings that follow from them."""
        core = result.solution
        fewest, messages = selection.points_per_period(self.problem, self.peaks)
        nugget = core.factor.nugget if isinstance(core, Conditioned) else max(
            axis.factor.nugget for axis in core.system.axes
        )
        if nugget > self.nugget:
            messages.append(
                f"the nugget was raised from {self.nugget:.0e} to {nugget:.0e} to factorise the "
                f"prior covariance: the solution may be less accurate than usual."
            )
        operator, more = operator_findings(self.problem, core, result.slope)
        between, much = off_grid_residual(self.problem, core)
        messages += more + much
        if not result.converged:
            messages.append(
                f"Newton's iteration has not converged: relative residual {result.residual:.1e} "
                f"after {result.num_steps} steps. Raise `max_newton` or refine `grid`."
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
        """ν = 5/2, whose error bars are best calibrated, unless they are wide on a fine grid."""
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
        smooth = AxisPrior(
            start.weight[:1], start.lengthscale[:1], start.frequency[:1], start.smoothness,
            start.period,
        )  # fmt: skip
        return [start, smooth] if len(start.weight) > 1 else [start]

    def _smoothnesses(self) -> tuple[float, ...]:
        if self.settings.smoothness != "auto":
            return (float(self.settings.smoothness),)
        return _LINE_SMOOTHNESSES if self.exact else SMOOTHNESSES

    def _with_amplitude(
        self, prior: tuple[AxisPrior, ...], slope: Tensor, right: Tensor
    ) -> tuple[tuple[AxisPrior, ...], float]:
        chosen = selection.with_amplitude(
            self.problem, prior, slope, right, exact=self.exact, nugget=self.nugget
        )
        return chosen.prior, chosen.nll


def _smoothness(core: Any) -> float | str:
    prior = core.prior if isinstance(core, Conditioned) else core.system.prior
    return prior[0].smoothness if math.isfinite(prior[0].smoothness) else "inf"


def _refuse_options(method: str, options: dict[str, Any]) -> None:
    if options:
        raise TypeError(f"method {method!r} takes no option; got {sorted(options)}.")
