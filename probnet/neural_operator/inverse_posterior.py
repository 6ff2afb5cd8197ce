"""The posterior of an input given noisy values of the solution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from inference import Draws
from inference._checks import check_choice, check_finite, check_fraction
from inference.export import build_datatree
from inference.rng import Stream, generator
from probnet._archive import PosteriorState
from probnet._checks import Values, check_levels, check_matrix
from probnet.neural_operator.observations import Observations
from probnet.neural_operator.problem import Problem
from probnet.neural_operator.storage import problem_from_dict, problem_to_dict
from probnet.posterior import Posterior
from probnet.predictive import DrawsMixture

if TYPE_CHECKING:
    import xarray

_LOG_2PI = math.log(2 * math.pi)
_LATENT_SD = 1e-6  # of the law that stands for a value that is known, relative to the noise


def log_likelihood_at(
    observations: Observations,
    predicted: Tensor,
    error_mean: Tensor | None = None,
    error_covariance: Tensor | None = None,
) -> Tensor:
    """Log N(y_i; u_i + μ_i, σ² + Σ_ii) of every sensor, shape (draws, num_sensors).

    Args:
        observations: y and σ.
        predicted: u at the sensors, shape (draws, num_sensors).
        error_mean: μ_e; none by default.
        error_covariance: Σ_e, of which the diagonal is used; none by default.
    """
    variance = torch.full_like(observations.y, observations.noise_sd**2)
    if error_covariance is not None:
        variance = variance + error_covariance.diagonal()
    residual = observations.y - predicted
    if error_mean is not None:
        residual = residual - error_mean
    return -(residual.square() / variance + variance.log() + _LOG_2PI) / 2


@dataclass(frozen=True, eq=False, repr=False)
class InversePosterior(Posterior, family="operator_inversion"):
    """Draws of the input a and the solution u, from `invert` or `reference_posterior`.

    Attributes:
        draws: `a` `(chain, draw, *grid)` on the input grid, `u` (chain, draw, node) at nodes
            of the mesh, `z` (chain, draw, latent) where there is a network; groups `prior` and
            `log_likelihood`; statistics, `log_weight` among them after reweighting.
        observations: y, sensors and noise.
        problem: the PDE.
        method: how inference was done.
        diagnostics: R-hat, effective sample sizes, k-hat, numbers of exact solves, and `law`,
            which distribution the draws have.
        error_mean: μ_e of the model error at the sensors, zero without one.
        error_covariance: Σ_e, zero without one.
    """

    draws: Draws
    observations: Observations
    problem: Problem
    method: str
    diagnostics: Mapping[str, Any]
    error_mean: Tensor
    error_covariance: Tensor

    @property
    def weights(self) -> Tensor | None:
        """Normalised importance weights (chain, draw) of the draws; `None` if all are equal."""
        if not self.diagnostics.get("reweighted"):
            return None
        log_weight = np.asarray(self.draws.sample_stats["log_weight"])
        weights = np.exp(log_weight - log_weight.max())
        return torch.from_numpy(weights / weights.sum())

    def predict(
        self, x: Values, *, observation: bool = True, joint: bool = False
    ) -> Distribution:
        """The law of the solution at points, a mixture over draws.

        Args:
            x: points of the domain, `(n, num_dims)`.
            observation: of a new measurement, with noise; `False`: of u itself.
            joint: one density for all points together; within a draw noise is independent.
        """
        u = self.solutions(x)
        sd = self.observations.noise_sd
        law: Distribution = Normal(
            u, sd if observation else _LATENT_SD * sd, validate_args=False
        )
        return DrawsMixture(
            Independent(law, 1) if joint else law, num_draw_axes=2, weights=self.weights
        )

    def solutions(self, x: Values) -> Tensor:
        """The solution of every draw at points `(n, num_dims)`, shape `(chain, draw, n)`."""
        points = check_finite("x", check_matrix("x", x, self.problem.num_dims))
        observe = self.problem.observation_operator(points)
        u = torch.from_numpy(np.array(self.draws.draws["u"]))
        flat = u.reshape(-1, *self.problem.solution_shape).double()
        return observe(flat).reshape(*u.shape[:2], len(points))

    @property
    def input_mean(self) -> Tensor:
        """Posterior mean of a on the input grid."""
        return self._average(torch.from_numpy(np.array(self.draws.draws["a"])).double())

    def probability_above(self, threshold: float) -> Tensor:
        """P(a > threshold | y) on the input grid; for two phases, P(a = high) from between."""
        a = torch.from_numpy(np.array(self.draws.draws["a"]))
        return self._average((a > threshold).double())

    def quantiles(self, name: str, levels: Sequence[float]) -> Tensor:
        """Quantiles of `"a"` on the input grid or `"u"` at the nodes, `(level, *shape)`.

        Args:
            name: of the variable.
            levels: probabilities in (0, 1).
        """
        check_choice("name", name, ("a", "u"))
        probabilities = torch.tensor(check_levels("levels", levels), dtype=torch.float64)
        values = torch.from_numpy(np.array(self.draws.draws[name])).double()
        shape = values.shape[2:]
        flat = values.reshape(-1, shape.numel())
        weights = self.weights
        if weights is None:
            found = torch.quantile(flat, probabilities, dim=0)
        else:
            ordered, order = flat.sort(0)
            mass = weights.reshape(-1)[order].cumsum(0).T.contiguous()
            wanted = probabilities.expand(len(mass), -1).contiguous()
            index = torch.searchsorted(mass, wanted).clamp_max(len(flat) - 1)
            found = ordered.gather(0, index.T)
        return found.reshape(-1, *shape)

    def interval(self, name: str, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Central interval of `"a"` or `"u"`, lower and upper end.

        Args:
            name: of the variable.
            level: its probability, in (0, 1).
        """
        tail = (1 - check_fraction("level", level, closed=False)) / 2
        lower, upper = self.quantiles(name, [tail, 1 - tail])
        return lower, upper

    def to_datatree(self) -> xarray.DataTree:
        """The posterior in the ArviZ schema.

        `posterior` (z, a, u), `prior` (the same), `posterior_predictive` and `prior_predictive`
        (y), `log_likelihood` (y, and `y_exact` where the solver was asked), `sample_stats`,
        `observed_data`, `constant_data` (sensors, nodes, noise, model error).
        """
        observations, problem = self.observations, self.problem
        prior = {
            name: np.asarray(values) for name, values in self.draws.groups["prior"].items()
        }
        predictive = {
            "posterior_predictive": self.draws.draws["u"],
            "prior_predictive": prior["u"],
        }
        stream = generator(0, Stream.PREDICTIVE)
        observe = problem.observation_operator(observations.sensors)
        groups: dict[str, Any] = {
            "posterior": dict(self.draws.draws),
            "prior": prior,
            "log_likelihood": dict(self.draws.groups["log_likelihood"]),
            "sample_stats": dict(self.draws.sample_stats),
            "observed_data": {"y": observations.y.numpy()},
            "constant_data": {
                "sensors": observations.sensors.numpy(),
                "nodes": problem.nodes.numpy(),
                "noise_sd": np.array(observations.noise_sd),
                "model_error_mean": self.error_mean.numpy(),
                "model_error_cov": self.error_covariance.numpy(),
            },
        }
        for name, u in predictive.items():
            values = torch.from_numpy(np.array(u)).double()
            at_sensors = observe(values.reshape(-1, *problem.solution_shape))
            noise = torch.randn(at_sensors.shape, generator=stream, dtype=torch.float64)
            y = at_sensors + observations.noise_sd * noise
            groups[name] = {"y": y.reshape(*values.shape[:2], -1).numpy()}
        grid = [f"input_axis_{i}" for i in range(self.draws.draws["a"].ndim - 2)]
        dims = {
            "z": ["latent"],
            "a": grid,
            "u": ["node"],
            "y": ["sensor"],
            "y_exact": ["sensor"],
            "sensors": ["sensor", "axis"],
            "nodes": ["node", "axis"],
            "model_error_mean": ["sensor"],
            "model_error_cov": ["sensor", "other_sensor"],
        }
        attrs = {
            **self.draws.attrs,
            "family": self.family,
            "method": self.method,
            "prior_draws": "independent",
            "law": self.diagnostics["law"],
        }
        return build_datatree(groups, coords=self.draws.coords, dims=dims, attrs=attrs)

    def state(self) -> PosteriorState:
        """See `Posterior.state`."""
        return PosteriorState(
            method=self.method,
            diagnostics=self.diagnostics,
            config={
                "problem": problem_to_dict(self.problem),
                "noise_sd": self.observations.noise_sd,
            },
            tensors={
                "y": self.observations.y,
                "sensors": self.observations.sensors,
                "error_mean": self.error_mean,
                "error_covariance": self.error_covariance,
            },
            draws=self.draws,
        )

    @classmethod
    def from_state(cls, state: PosteriorState) -> InversePosterior:
        """See `Posterior.from_state`."""
        if state.draws is None:
            raise ValueError(f"a posterior of the family {cls.family!r} must have draws.")
        tensors = state.tensors
        return cls(
            draws=state.draws,
            observations=Observations(
                tensors["y"], tensors["sensors"], float(state.config["noise_sd"])
            ),
            problem=problem_from_dict(state.config["problem"]),
            method=state.method,
            diagnostics=state.diagnostics,
            error_mean=tensors["error_mean"],
            error_covariance=tensors["error_covariance"],
        )

    def _average(self, values: Tensor) -> Tensor:
        """Weighted mean over chains and draws."""
        weights = self.weights
        if weights is None:
            return values.mean((0, 1))
        return torch.tensordot(weights, values, dims=2)
