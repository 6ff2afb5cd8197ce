"""The posterior over u."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal

from inference import Draws
from inference._checks import check_finite, check_integer
from inference.rng import Stream, generator
from probnet._archive import PosteriorState
from probnet._checks import Values, check_matrix
from probnet.gp_pde import storage
from probnet.gp_pde.export import build_tree
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.solution import Solution
from probnet.posterior import Posterior
from probnet.predictive import DrawsMixture

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, eq=False, repr=False)
class SpectralGPPosterior(Posterior, family="gp_pde"):
    """What `SpectralGPSolver.fit` returns.

    Attributes:
        method: how hyper-parameters or unknowns were inferred.
        diagnostics: JSON-able findings; see the page on the solver.
        solutions: one, or one for each of several posterior draws of the parameters.
        noise_sd: of an observation of u; 0 if there were none.
        axis_names: names of the axes.
        nodes: of the grid, per axis.
        source: f on the grid.
        draws: posterior draws of the parameters, with `method="nuts"`.
    """

    method: str
    diagnostics: Mapping[str, Any]
    solutions: Sequence[Solution]
    noise_sd: float
    axis_names: tuple[str, ...]
    nodes: tuple[Tensor, ...]
    source: Tensor
    draws: Draws | None = None

    def predict(
        self, x: Values, *, observation: bool = True, joint: bool = False
    ) -> Distribution:
        """The law of u at points of the domain.

        Args:
            x: shape `(n, d)`.
            observation: include the noise of the observations of u, where there were any.
            joint: the law of all points together.

        Returns:
            A normal law, or the mixture of several over posterior draws of the parameters.

        Raises:
            ValueError: on points outside the domain or of another dimension.
        """
        points = self._points(x)
        noise_var = self.noise_sd**2 if observation else 0.0
        laws = [s.law(points, noise_var, joint=joint) for s in self.solutions]
        if len(laws) == 1:
            return laws[0]
        if joint:
            covariances, means = (
                torch.stack([getattr(law, name) for law in laws])
                for name in ("covariance_matrix", "mean")
            )
            return DrawsMixture(MultivariateNormal(means, covariances, validate_args=False))
        means, sds = (
            torch.stack([getattr(law, name) for law in laws]) for name in ("mean", "stddev")
        )
        return DrawsMixture(Normal(means, sds, validate_args=False))

    def mean(self, x: Values, *, observation: bool = True) -> Tensor:
        """Posterior mean of u at points `(n, d)`; cheaper than that of `predict`."""
        return self.derivative(x, (0,) * len(self.nodes))

    def sample(
        self, n: int, x: Values, *, seed: int = 0, observation: bool = False, joint: bool = True
    ) -> Tensor:
        """Draws of u at points: by default of functions, coherent and without noise.

        Args:
            n: how many.
            x: points `(m, d)`.
            seed: of the draws.
            observation: add the noise of an observation.
            joint: `False` draws every point by itself.

        Returns:
            Shape `(n, m)`.
        """
        if observation or not joint:
            return super().sample(n, x, seed=seed, observation=observation, joint=joint)
        points, count = self._points(x), len(self.solutions)
        stream = generator(check_integer("seed", seed, 0), Stream.PREDICTIVE)
        picked = torch.randint(count, (check_integer("n", n, 1),), generator=stream)
        found = torch.empty(n, len(points), dtype=torch.float64)
        for number, solution in enumerate(self.solutions):
            mine = picked == number
            if bool(mine.any()):
                found[mine] = solution.functions(int(mine.sum()), points, stream)
        return found

    def derivative(self, x: Values, order: Sequence[int] | int) -> Tensor:
        """Posterior mean of ∂^order u at points.

        Args:
            x: shape `(n, d)`.
            order: of differentiation, one per axis, such as (2, 0).

        Raises:
            ValueError: if the prior is not smooth enough for that order.
        """
        alpha = (order,) if isinstance(order, int) else tuple(int(o) for o in order)
        if len(alpha) != len(self.nodes) or min(alpha) < 0:
            raise ValueError(
                f"`order` must hold {len(self.nodes)} orders >= 0, one per axis; got {order}."
            )
        points = self._points(x)
        return torch.stack([s.core.mean(points, alpha) for s in self.solutions]).mean(0)

    def covariance(self, x: Values) -> Tensor:
        """Covariance of u at points under the prior, exact and not scaled: `(n, n)`.

        In closed form where the process was conditioned exactly. On grids by preconditioned
        conjugate gradients on one row per node, at a cost of some hundred applications of the
        operator: the predictions use prior draws instead, whose errors are those of the grid's
        own estimate. With several solutions it is their mean plus the covariance of the means.

        Args:
            x: shape `(n, d)`.

        Warns:
            SolverWarning: if conjugate gradients have not converged.
        """
        points = self._points(x)
        within = torch.stack([s.covariance(points) for s in self.solutions]).mean(0)
        means = torch.stack([s.core.mean(points) for s in self.solutions])
        centred = means - means.mean(0)
        return within + centred.mT @ centred / len(means)

    def spectrum(self) -> tuple[AxisPrior, ...]:
        """The spectral mixture of every axis: `weight`, `frequency` and `lengthscale`.

        With several solutions it is that of the first.
        """
        return self.solutions[0].prior

    @property
    def kernels(self) -> tuple[Any, ...]:
        """The GPyTorch kernel of every axis."""
        return tuple(prior.kernel() for prior in self.spectrum())

    @property
    def log_evidence(self) -> float:
        """Log marginal likelihood of source and conditions, up to a constant of the data."""
        return -float(self.diagnostics["nll"])

    @property
    def scale(self) -> float:
        """κ: what standard deviations of the prior model are multiplied by."""
        return self.solutions[0].scale

    def to_datatree(self, x: Values | None = None) -> xarray.DataTree:
        """The posterior as an xarray tree in the ArviZ schema.

        Args:
            x: points `(n, d)`; adds draws of u there, in the group `predictions`.
        """
        return build_tree(self, None if x is None else self._points(x))

    def to_arviz(self, x: Values | None = None) -> Any:
        """What the installed ArviZ works on; argument as for `to_datatree`."""
        from inference.export import to_arviz

        return to_arviz(self.to_datatree(x))

    def state(self) -> PosteriorState:
        """Everything a file needs."""
        config: dict[str, Any] = {
            "noise_sd": self.noise_sd,
            "axis_names": list(self.axis_names),
            "solutions": [],
        }
        tensors = {f"nodes.{j}": nodes for j, nodes in enumerate(self.nodes)}
        tensors["source"] = self.source
        for number, solution in enumerate(self.solutions):
            fields, arrays = storage.pack(solution.core)
            fields |= {
                "num_equation": solution.num_equation,
                "calibrated": solution.calibrated,
                "seed": solution.seed,
            }
            config["solutions"].append(fields)
            tensors |= {f"{number}.{name}": t for name, t in arrays.items()}
        return PosteriorState(self.method, self.diagnostics, config, tensors, self.draws)

    @classmethod
    def from_state(cls, state: PosteriorState) -> Self:
        """Rebuild the posterior; factorisations are made again."""
        tensors, config = state.tensors, state.config
        solutions: list[Solution] = []
        for number, fields in enumerate(config["solutions"]):
            prefix = f"{number}."
            mine = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
            core = storage.unpack(fields, mine)
            solutions.append(
                Solution(core, fields["num_equation"], fields["calibrated"], fields["seed"])
            )
        dim = len(config["axis_names"])
        return cls(
            method=state.method,
            diagnostics=state.diagnostics,
            solutions=solutions,
            noise_sd=config["noise_sd"],
            axis_names=tuple(config["axis_names"]),
            nodes=tuple(tensors[f"nodes.{j}"] for j in range(dim)),
            source=tensors["source"],
            draws=state.draws,
        )

    def _points(self, x: Values) -> Tensor:
        points = check_finite("x", check_matrix("x", x))
        dim = len(self.nodes)
        if points.shape[1] != dim:
            raise ValueError(
                f"`x` must have shape (n, {dim}), one column per axis; got "
                f"{tuple(points.shape)}."
            )
        for axis, (nodes, name) in enumerate(zip(self.nodes, self.axis_names, strict=True)):
            low, high = float(nodes[0]), float(nodes[-1])
            period = self.spectrum()[axis].period
            high = low + period if period is not None else high
            slack = 1e-9 * (high - low)
            column = points[:, axis]
            if float(column.min()) < low - slack or float(column.max()) > high + slack:
                raise ValueError(
                    f"`x` must lie in the domain, [{low:g}, {high:g}] along {name!r}; its "
                    f"values run from {float(column.min()):g} to {float(column.max()):g}. The "
                    f"equation says nothing about u outside."
                )
        return points
