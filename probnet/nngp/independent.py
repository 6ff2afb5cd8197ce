r"""Noise with a variance of its own: y = f + e, f | σ² ~ GP(0, σ²k), e ~ N(0, τ²).

With K = QΛQᵀ and z = Qᵀy every pair (σ², τ²) costs O(n):

    ln p(y | σ², τ²) = -½ Σ_i [ln(σ²λ_i + τ²) + z_i²/(σ²λ_i + τ²)] + const.

Both are integrated by the trapezoid rule on a grid of (ln σ², ln τ²) whose ends are where the
integrand has fallen to e⁻⁴⁰ of its maximum: any pair of priors is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor
from torch.distributions import Distribution, Normal

from inference.errors import warn
from inference.export import build_datatree
from inference.rng import Stream, generator
from probnet._archive import PosteriorState
from probnet._checks import Values
from probnet.nngp.data import GPData
from probnet.nngp.kernel_files import kernel_from_dict, kernel_to_dict
from probnet.nngp.priors import PointMass, ScalePrior, scale_prior_from_dict
from probnet.nngp.scale_law import NodeLaw
from probnet.nngp.solutions import gram, variances
from probnet.posterior import Posterior
from probnet.predictive import DrawsMixture

if TYPE_CHECKING:
    import xarray

_FALL = 40.0
_ZOOM_NODES, _MAX_ZOOMS = 41, 12
_NODES = (33, 65, 129, 193)
_TOLERANCE = 1e-8
_NEGLIGIBLE = 1e-12
_CHUNK = 4_000_000
_NUM_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class _Grid:
    """Nodes of (ln σ², ln τ²), their log weights `(nodes, nodes)`, and ln p(y)."""

    log_scale: Tensor
    log_noise: Tensor
    log_weights: Tensor
    log_evidence: float


@dataclass(frozen=True, eq=False, repr=False)
class IndependentNoisePosterior(Posterior, family="nngp.independent_noise"):
    """p(f, σ², τ² | y) at fixed kernel parameters.

    Attributes:
        kernel: of the process at σ = 1.
        scale_prior: of σ².
        noise_prior: of τ².
        data: what was observed.
    """

    kernel: Kernel
    scale_prior: ScalePrior
    noise_prior: ScalePrior
    data: GPData
    method: str
    diagnostics: Mapping[str, Any]

    @property
    def log_evidence(self) -> float:
        """Ln p(y), σ² and τ² integrated out, in the user's units."""
        return self._grid.log_evidence + self.data.log_jacobian()

    @property
    def scale_posterior(self) -> NodeLaw:
        """p(σ² | y) on the grid."""
        weights = self._grid.log_weights.exp().sum(1)
        return NodeLaw(self._grid.log_scale.exp(), weights / weights.sum())

    @property
    def noise_posterior(self) -> NodeLaw:
        """p(τ² | y) on the grid; τ² is in the process's units squared."""
        weights = self._grid.log_weights.exp().sum(0)
        return NodeLaw(self._grid.log_noise.exp(), weights / weights.sum())

    def predict(
        self, x: Values, *, observation: bool = True, joint: bool = False
    ) -> Distribution:
        """The predictive law: a mixture of normals over the grid.

        Raises:
            ValueError: if a joint law is asked for, which this posterior does not offer.
        """
        if joint:
            raise ValueError(
                "`joint=True`: independent noise has no joint law here; noise='joint' has one."
            )
        z = self.data.inputs(self.kernel, x)
        weights, scale, noise = self._nodes
        cross = gram(self.kernel, z, self.data.x).detach() @ self._vectors
        shrink = scale[:, None] * self._values + noise[:, None]  # σ²λ + τ², (nodes, n)
        projected = self._vectors.T @ self.data.y
        coefficients = scale[:, None, None] * projected.T / shrink[:, None]  # (nodes, C, n)
        mean = coefficients @ cross.T
        removed = (scale[:, None] ** 2 / shrink) @ (cross**2).T
        variance = scale[:, None] * variances(self.kernel, z).detach() - removed
        variance = variance.clamp_min(0) + noise[:, None] * observation
        loc, spread = self.data.mean_to_user(mean), self.data.variance_to_user(variance)
        law = Normal(loc, spread.sqrt().expand_as(loc), validate_args=False)
        return DrawsMixture(law, weights=weights)

    def to_datatree(self) -> xarray.DataTree:
        """Draws of σ² and τ² from the grid, and the data."""
        weights, scale, noise = self._nodes
        stream = generator(0, Stream.PREDICTIVE)
        picked = torch.multinomial(weights, _NUM_DRAWS, replacement=True, generator=stream)
        groups = {
            "posterior": {
                "scale": scale[picked].numpy()[None],
                "noise_var": noise[picked].numpy()[None],
            },
            "observed_data": {"y": self.data.y.numpy()},
            "constant_data": {"x": self.data.x.numpy()},
        }
        attrs: dict[str, Any] = {"method": self.method, "draws": "independent"}
        attrs["diagnostics"] = dict(self.diagnostics)
        dims = {"y": ["row", "output"], "x": ["row", "feature"]}
        return build_datatree(groups, coords={}, dims=dims, attrs=attrs)

    def state(self) -> PosteriorState:
        """See `Posterior.state`."""
        config = {
            "kernel": kernel_to_dict(self.kernel),
            "scale_prior": self.scale_prior.to_dict(),
            "noise_prior": self.noise_prior.to_dict(),
            "data": self.data.config(),
        }
        tensors = {"x": self.data.x, "y": self.data.y}
        return PosteriorState(self.method, self.diagnostics, config, tensors)

    @classmethod
    def from_state(cls, state: PosteriorState) -> IndependentNoisePosterior:
        """See `Posterior.from_state`."""
        return cls(
            kernel=kernel_from_dict(state.config["kernel"]),
            scale_prior=scale_prior_from_dict(state.config["scale_prior"]),
            noise_prior=scale_prior_from_dict(state.config["noise_prior"]),
            data=GPData.from_config(state.config["data"], state.tensors),
            method=state.method,
            diagnostics=state.diagnostics,
        )

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(gram(self.kernel, self.data.x).detach())
        return values.clamp_min(0), vectors

    @property
    def _values(self) -> Tensor:
        return self._eigen[0]

    @property
    def _vectors(self) -> Tensor:
        return self._eigen[1]

    @cached_property
    def _grid(self) -> _Grid:
        energy = (self._vectors.T @ self.data.y).square().sum(1)
        outputs = self.data.y.shape[1]

        def log_joint(log_scale: Tensor, log_noise: Tensor) -> Tensor:
            total = _log_likelihood(self._values, energy, outputs, log_scale, log_noise)
            total = total + _log_prior(self.scale_prior, log_scale)[:, None]
            return total + _log_prior(self.noise_prior, log_noise)

        size = float(energy.sum()) / self.data.y.numel()
        around = math.log(size) if size > 0 else 0.0
        return _integrate(log_joint, self.scale_prior, self.noise_prior, around)

    @property
    def _nodes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, σ² and τ² of the nodes that matter, each flat."""
        weights = self._grid.log_weights.exp()
        kept = weights > _NEGLIGIBLE * weights.max()
        i, j = kept.nonzero(as_tuple=True)
        return weights[kept], self._grid.log_scale[i].exp(), self._grid.log_noise[j].exp()


def _log_likelihood(
    values: Tensor, energy: Tensor, outputs: int, log_scale: Tensor, log_noise: Tensor
) -> Tensor:
    """Ln p(y | σ², τ²) on the product grid, a few rows at a time."""
    rows: list[Tensor] = []
    step = max(1, _CHUNK // (len(log_noise) * len(values)))
    for some in log_scale.split(step):
        total = some.exp()[:, None, None] * values + log_noise.exp()[:, None]
        rows.append(-(outputs * total.log() + energy / total).sum(-1) / 2)
    return torch.cat(rows) - outputs * len(values) / 2 * math.log(2 * math.pi)


def _log_prior(prior: ScalePrior, u: Tensor) -> Tensor:
    return torch.zeros_like(u) if isinstance(prior, PointMass) else prior.log_prob_log(u)


def _integrate(log_joint: Any, scale: ScalePrior, noise: ScalePrior, around: float) -> _Grid:
    """Zoom to where the integrand matters, then the trapezoid rule with doubled nodes."""
    boxes = [
        (prior.center, prior.center)
        if isinstance(prior, PointMass)
        else (min(around, prior.center) - 40.0, max(around, prior.center) + 40.0)
        for prior in (scale, noise)
    ]
    for _ in range(_MAX_ZOOMS):
        axes = [_axis(box, _ZOOM_NODES) for box in boxes]
        logs = log_joint(*axes)
        inside = logs > logs.max() - _FALL
        smaller = [_around(axis, inside.any(1 - d)) for d, axis in enumerate(axes)]
        settled = all(
            b[1] - b[0] >= 0.8 * (a[1] - a[0]) for a, b in zip(boxes, smaller, strict=True)
        )
        boxes = smaller
        if settled:
            break
    grid = _trapezoid(log_joint, boxes, _NODES[0])
    for count in _NODES[1:]:
        previous, grid = grid, _trapezoid(log_joint, boxes, count)
        change = abs(grid.log_evidence - previous.log_evidence)
        if change < _TOLERANCE:
            return grid
    warn(
        f"the integral over the scale and the noise has not converged to {_TOLERANCE} at "
        f"{_NODES[-1]} x {_NODES[-1]} nodes."
    )
    return grid


def _trapezoid(log_joint: Any, boxes: list[tuple[float, float]], count: int) -> _Grid:
    axes = [_axis(box, count) for box in boxes]
    logs: Tensor = log_joint(*axes)
    for low, high in boxes:
        logs = logs + (math.log((high - low) / (count - 1)) if high > low else 0.0)
    evidence = float(logs.logsumexp((0, 1)))
    return _Grid(axes[0], axes[1], logs - evidence, evidence)


def _axis(box: tuple[float, float], count: int) -> Tensor:
    return torch.linspace(*box, count if box[1] > box[0] else 1, dtype=torch.float64)


def _around(axis: Tensor, inside: Tensor) -> tuple[float, float]:
    """The interval one node wider than those that are inside."""
    hit = inside.nonzero()
    low, high = int(hit[0]), int(hit[-1])
    return float(axis[max(low - 1, 0)]), float(axis[min(high + 1, len(axis) - 1)])
