"""`SpectralGPSolver`: an equation and its conditions in, a posterior over u out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference._checks import check_choice, check_integer, check_nonnegative
from probnet.gp_pde.checks import SolverWarning
from probnet.gp_pde.discretisation import discretise
from probnet.gp_pde.fit import Fit
from probnet.gp_pde.posterior import SpectralGPPosterior
from probnet.kernels.spectral import SMOOTHNESSES
from probnet.pde import PDE, Condition, Observations

METHODS = ("evidence", "spectrum", "nuts", "adam")
_DEFAULT_GRID = (400, 200, 48)
_DEFAULT_NOISY_GRID = (400, 40, 12)  # exact conditioning costs the cube of the nodes


@dataclass(frozen=True)
class SpectralGPSolver:
    """Gaussian-process solver of linear and semilinear equations on boxes.

    In one dimension, and wherever data have noise or u is observed, the process is conditioned
    exactly on all rows. On grids in two and three dimensions with exact data the solution is
    that of the hard-constraint limit, one Sylvester solve. `posterior.diagnostics["estimator"]`
    says which: `"exact conditioning"` or `"grid"`.

    Args:
        grid: nodes per axis, one number for all axes or a sequence; 400, 200 and 48 per axis in
            one, two and three dimensions by default; 40 and 12 in two and three where data
            have noise.
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
        >>> boundary = Dirichlet(lambda x: torch.sin(20 * x))
        >>> posterior = SpectralGPSolver(grid=64).fit(pde, boundary)
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
                f"`smoothness` must be 'auto' or one of {SMOOTHNESSES}; got "
                f"{self.smoothness!r}."
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
        noisy = not pde.unknowns and _noisy(pde, conditions, observations)
        grid = self.grid_shape(pde.dim, noisy=noisy)
        if pde.unknowns:
            from probnet.gp_pde.inverse import fit_unknowns

            if method != "nuts":
                raise ValueError(
                    f"`method` must be 'nuts' for an equation with the unknowns "
                    f"{sorted(pde.unknowns)}; got {method!r}."
                )
            found = fit_unknowns(
                lambda problem: Fit(self, problem, method, seed), pde, conditions, observations,
                grid=grid, seed=seed, progress=progress, **options,
            )  # fmt: skip
        else:
            problem = discretise(pde, conditions, grid, observations)
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

    def grid_shape(self, dim: int, *, noisy: bool = False) -> tuple[int, ...]:
        """Nodes per axis for an equation in `dim` dimensions."""
        default = _DEFAULT_NOISY_GRID if noisy else _DEFAULT_GRID
        grid = default[dim - 1] if self.grid is None else self.grid
        shape = (grid,) * dim if isinstance(grid, int) else tuple(grid)
        return tuple(check_integer(f"grid[{j}]", n, 1) for j, n in enumerate(shape))


def _noisy(
    pde: PDE,
    conditions: Condition | Sequence[Condition],
    observations: Observations | None,
) -> bool:
    given = [conditions] if isinstance(conditions, Condition) else list(conditions)
    noises = [pde.source_noise_sd, *(getattr(entry, "noise_sd", 0.0) for entry in given)]
    return observations is not None or any(noise > 0 for noise in noises)


def _refuse_options(method: str, options: dict[str, Any]) -> None:
    if options:
        raise TypeError(f"method {method!r} takes no option; got {sorted(options)}.")
