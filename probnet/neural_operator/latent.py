"""Posteriors of latent vectors through the network, of one problem or many at once.

û is linear in the features of the points, û(ξ; w) = ⟨T(ξ), C(w)⟩ + t(ξ), so that everything
that depends on the sensors and the noise is one matrix, made beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from inference.rng import Stream, generator
from probnet.neural_operator.model_error import SensorError
from probnet.neural_operator.observations import Observations

Coefficients = Callable[[Tensor], Tensor]
"""Base vectors (batch, dim) to coefficients C (batch, num_features); differentiable."""

_STARTS = 16
_NEWTON_STEPS = 60
_FIRST_DAMPING, _MAX_DAMPING = 1.0, 1e8
_TOLERANCE = 1e-6


class Readout(NamedTuple):
    """How coefficients become values at points: ⟨T, C⟩ + t.

    Attributes:
        features: T, shape (num_points, num_features).
        offset: t, shape (num_points,).
    """

    features: Tensor
    offset: Tensor

    def __call__(self, coefficients: Tensor) -> Tensor:
        """Values (batch, num_points) of coefficients (batch, num_features)."""
        return coefficients @ self.features.T + self.offset


@dataclass(frozen=True, eq=False)
class LatentTarget:
    r"""log p(w | y) = -|w|²/2 - |R (y - μ_e - û(w))|²/2 + const, RᵀR = (σ²I + Σ_e)⁻¹.

    w is the base of the flow prior, z = flow(w), so that its prior is N(0, I). A batch of base
    vectors is ordered by problem: all of the first problem, then all of the second.

    Attributes:
        coefficients: C of base vectors.
        features: RT of every problem, shape (problem, num_sensors, num_features).
        target: R (y - μ_e - t) of every problem, shape (problem, num_sensors).
        dim: of w.
    """

    coefficients: Coefficients
    features: Tensor
    target: Tensor
    dim: int

    @property
    def num_problems(self) -> int:
        """How many posteriors there are."""
        return len(self.target)

    def residual(self, base: Tensor) -> Tensor:
        """R (y - μ_e - û), shape (batch, num_sensors)."""
        values = self.coefficients(base).unflatten(0, (self.num_problems, -1))
        return (self.target[:, None] - values @ self.features.mT).flatten(0, 1)

    def log_likelihood(self, base: Tensor) -> Tensor:
        """-|R (y - μ_e - û)|²/2, shape (batch,)."""
        return -self.residual(base).square().sum(-1) / 2

    def log_density(self, base: Tensor) -> Tensor:
        """Log posterior without constants, shape (batch,)."""
        return self.log_likelihood(base) - base.square().sum(-1) / 2

    def linearise(self, base: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals (batch, num_sensors), Jacobians (batch, num_sensors, dim); forward mode."""
        batch, dim = base.shape
        directions = torch.eye(dim, dtype=base.dtype).repeat(batch, 1)
        points = base.repeat_interleave(dim, 0)
        slopes = torch.func.jvp(self.coefficients, (points,), (directions,))[1]
        by_problem = slopes.detach().unflatten(0, (self.num_problems, -1))
        jacobian = -(by_problem @ self.features.mT).flatten(0, 1)
        with torch.no_grad():
            residual = self.residual(base)
        return residual, jacobian.unflatten(0, (batch, dim)).mT


def latent_target(
    coefficients: Coefficients,
    readouts: Sequence[Readout],
    observations: Sequence[Observations],
    errors: Sequence[SensorError | None],
    dim: int,
) -> LatentTarget:
    """The posteriors of several problems with the same number of sensors.

    Args:
        coefficients: C of base vectors.
        readouts: at each problem's sensors.
        observations: of each problem.
        errors: law of the model error at each problem's sensors; `None` leaves it out.
        dim: of w.
    """
    features: list[Tensor] = []
    targets: list[Tensor] = []
    for readout, data, error in zip(readouts, observations, errors, strict=True):
        target = data.y - readout.offset
        covariance = data.noise_sd**2 * torch.eye(len(target), dtype=target.dtype)
        if error is not None:
            covariance, target = covariance + error.covariance, target - error.mean
        factor = torch.linalg.cholesky(covariance)
        joined = torch.cat([readout.features, target[:, None]], 1)
        whitened = torch.linalg.solve_triangular(factor, joined, upper=False)
        features.append(whitened[:, :-1])
        targets.append(whitened[:, -1])
    return LatentTarget(coefficients, torch.stack(features), torch.stack(targets), dim)


class Modes(NamedTuple):
    """Local maxima of every problem's posterior with their Gaussian approximations.

    Attributes:
        positions: shape (problem, start, dim).
        factors: Cholesky factors of (I + JᵀJ)⁻¹ there, shape (problem, start, dim, dim).
        log_weights: Laplace's log evidence of each, normalised, shape (problem, start).
    """

    positions: Tensor
    factors: Tensor
    log_weights: Tensor


def find_modes(target: LatentTarget, *, seed: int, num_starts: int = _STARTS) -> Modes:
    """Levenberg and Marquardt's method from draws of the prior, all at once.

    Source: Nocedal & Wright, "Numerical Optimization" (2006), section 10.3.

    Args:
        target: the posteriors.
        seed: of the starting points, which are the same for every problem.
        num_starts: how many for each.
    """
    start = torch.randn(
        num_starts,
        target.dim,
        generator=generator(seed, Stream.INIT),
        dtype=target.target.dtype,
    )
    base = start.repeat(target.num_problems, 1)
    damping = base.new_full((len(base),), _FIRST_DAMPING)
    eye = torch.eye(target.dim, dtype=base.dtype)
    residual, jacobian = target.linearise(base)
    value = _objective(base, residual)
    for _ in range(_NEWTON_STEPS):
        curvature = eye + jacobian.mT @ jacobian
        gradient = base + (jacobian.mT @ residual[..., None])[..., 0]
        proposal = base - torch.linalg.solve(curvature + damping[:, None, None] * eye, gradient)
        new_residual, new_jacobian = target.linearise(proposal)
        new_value = _objective(proposal, new_residual)
        better = new_value < value
        gain = (value - new_value).clamp_min(0.0)
        base = torch.where(better[:, None], proposal, base)
        residual = torch.where(better[:, None], new_residual, residual)
        jacobian = torch.where(better[:, None, None], new_jacobian, jacobian)
        value = torch.where(better, new_value, value)
        damping = torch.where(better, damping / 5, damping * 4).clamp_max(_MAX_DAMPING)
        if bool(((better & (gain < _TOLERANCE)) | (damping >= _MAX_DAMPING)).all()):
            break
    curvature = eye + jacobian.mT @ jacobian
    factors = torch.linalg.cholesky(torch.linalg.inv(curvature))
    shape = (target.num_problems, num_starts)
    log_evidence = (-value - torch.logdet(curvature) / 2).reshape(shape)
    return Modes(
        base.unflatten(0, shape), factors.unflatten(0, shape), log_evidence.log_softmax(-1)
    )


def _objective(base: Tensor, residual: Tensor) -> Tensor:
    value = (base.square().sum(-1) + residual.square().sum(-1)) / 2
    return value.nan_to_num(torch.inf)


@dataclass(frozen=True, eq=False)
class Whitened:
    """The posteriors in v with w = centre + factor v, in which a mode has the covariance I.

    Batches are ordered by problem, as in `LatentTarget`.

    Attributes:
        target: in w.
        centre: shape (problem, dim).
        factor: lower triangular, shape (problem, dim, dim).
    """

    target: LatentTarget
    centre: Tensor
    factor: Tensor

    def base(self, v: Tensor) -> Tensor:
        """Base vectors w (batch, dim) of coordinates (batch, dim)."""
        grouped = v.unflatten(0, (len(self.centre), -1))
        return (self.centre[:, None] + grouped @ self.factor.mT).flatten(0, 1)

    def coordinates(self, base: Tensor) -> Tensor:
        """Coordinates v (batch, dim) of base vectors (batch, dim)."""
        grouped = base.unflatten(0, (len(self.centre), -1)) - self.centre[:, None]
        solved = torch.linalg.solve_triangular(self.factor, grouped.mT, upper=False)
        return solved.mT.flatten(0, 1)

    def log_density(self, v: Tensor) -> Tensor:
        """Log posterior of coordinates (batch, dim) without constants, shape (batch,)."""
        return self.target.log_density(self.base(v))


def whiten(target: LatentTarget, modes: Modes) -> Whitened:
    """Coordinates of every problem's heaviest mode."""
    best = modes.log_weights.argmax(-1)
    each = torch.arange(len(best))
    return Whitened(target, modes.positions[each, best], modes.factors[each, best])


def starting_points(modes: Modes, num_chains: int, *, seed: int) -> Tensor:
    """Draws of the mixture of the modes' Gaussian approximations, one for every chain.

    Returns:
        Base vectors (problem * num_chains, dim), ordered by problem.
    """
    num_problems, _, dim = modes.positions.shape
    each = torch.arange(num_problems)
    points: list[Tensor] = []
    for chain in range(num_chains):
        stream = generator(seed, Stream.TUNING, chain)
        picked = torch.multinomial(modes.log_weights.exp(), 1, generator=stream)[:, 0]
        noise = torch.randn(num_problems, dim, 1, generator=stream, dtype=torch.float64)
        spread = (modes.factors[each, picked] @ noise)[..., 0]
        points.append(modes.positions[each, picked] + spread)
    return torch.stack(points, 1).flatten(0, 1)
