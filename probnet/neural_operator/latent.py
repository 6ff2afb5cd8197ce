"""The posterior of the latent vector through the network, in whitened coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from inference.rng import Stream, generator
from probnet.neural_operator.model_error import SensorError
from probnet.neural_operator.observations import Observations

_STARTS = 16
_NEWTON_STEPS = 60
_FIRST_DAMPING, _MAX_DAMPING = 1.0, 1e8
_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class LatentTarget:
    r"""log p(w | y) = -|w|²/2 - |R (y - μ_e - û(w))|²/2 + const, RᵀR = (σ²I + Σ_e)⁻¹.

    w is the base of the flow prior, z = flow(w), so that its prior is N(0, I).

    Attributes:
        predict: û at the sensors, of base vectors (batch, dim); differentiable, float64.
        target: y - μ_e, shape (num_sensors,).
        whitener: R, shape (num_sensors, num_sensors).
        dim: of w.
    """

    predict: Callable[[Tensor], Tensor]
    target: Tensor
    whitener: Tensor
    dim: int

    def residual(self, base: Tensor) -> Tensor:
        """R (y - μ_e - û), shape (batch, num_sensors)."""
        return (self.target - self.predict(base)) @ self.whitener.T

    def log_likelihood(self, base: Tensor) -> Tensor:
        """-|R (y - μ_e - û)|²/2, shape (batch,)."""
        return -self.residual(base).square().sum(-1) / 2

    def log_density(self, base: Tensor) -> Tensor:
        """Log posterior without constants, shape (batch,)."""
        return self.log_likelihood(base) - base.square().sum(-1) / 2


def latent_target(
    predict: Callable[[Tensor], Tensor],
    observations: Observations,
    error: SensorError | None,
    dim: int,
) -> LatentTarget:
    """The target, with the model error in the likelihood where its law is given."""
    y = observations.y
    covariance = observations.noise_sd**2 * torch.eye(len(y), dtype=y.dtype)
    if error is not None:
        covariance, y = covariance + error.covariance, y - error.mean
    factor = torch.linalg.cholesky(covariance)
    eye = torch.eye(len(y), dtype=y.dtype)
    return LatentTarget(
        predict, y, torch.linalg.solve_triangular(factor, eye, upper=False), dim
    )


class Modes(NamedTuple):
    """Local maxima of a posterior with their Gaussian approximations.

    Attributes:
        positions: shape (modes, dim).
        factors: Cholesky factors of the inverse of I + JᵀJ there, shape (modes, dim, dim).
        log_weights: Laplace's log evidence of each, normalised, shape (modes,).
    """

    positions: Tensor
    factors: Tensor
    log_weights: Tensor

    @property
    def best(self) -> int:
        """The mode of the largest weight."""
        return int(self.log_weights.argmax())


def find_modes(target: LatentTarget, *, seed: int, num_starts: int = _STARTS) -> Modes:
    """Levenberg and Marquardt's method from draws of the prior, all at once.

    Source: Nocedal & Wright, "Numerical Optimization" (2006), section 10.3.

    Args:
        target: the posterior.
        seed: of the starting points.
        num_starts: how many.
    """
    stream = generator(seed, Stream.INIT)
    base = torch.randn(num_starts, target.dim, generator=stream, dtype=target.target.dtype)
    damping = base.new_full((num_starts,), _FIRST_DAMPING)
    residual, jacobian = _linearise(target, base)
    value = _objective(base, residual)
    eye = torch.eye(target.dim, dtype=base.dtype)
    for _ in range(_NEWTON_STEPS):
        curvature = eye + jacobian.mT @ jacobian
        gradient = base + (jacobian.mT @ residual[..., None])[..., 0]
        # The damping is of the prior's scale: at 0 the step is Gauss and Newton's.
        step = torch.linalg.solve(curvature + damping[:, None, None] * eye, gradient)
        proposal = base - step
        new_residual, new_jacobian = _linearise(target, proposal)
        new_value = _objective(proposal, new_residual)
        better = new_value < value
        gain = torch.where(better, value - new_value, 0.0)
        column = better[:, None]
        base = torch.where(column, proposal, base)
        residual = torch.where(column, new_residual, residual)
        jacobian = torch.where(column[..., None], new_jacobian, jacobian)
        value = torch.where(better, new_value, value)
        damping = torch.where(better, damping / 5, damping * 4).clamp_max(_MAX_DAMPING)
        settled = (better & (gain < _TOLERANCE)) | (damping >= _MAX_DAMPING)
        if bool(settled.all()):
            break
    curvature = eye + jacobian.mT @ jacobian
    log_weights = -value - torch.logdet(curvature) / 2
    factors = torch.linalg.cholesky(torch.linalg.inv(curvature))
    return Modes(base, factors, log_weights.log_softmax(0))


def _linearise(target: LatentTarget, base: Tensor) -> tuple[Tensor, Tensor]:
    """Whitened residuals (batch, n) and their Jacobians (batch, n, dim)."""

    def one(w: Tensor) -> tuple[Tensor, Tensor]:
        found = target.residual(w[None])[0]
        return found, found

    jacobian, residual = torch.func.vmap(torch.func.jacrev(one, has_aux=True))(base.detach())
    return residual.detach(), jacobian.detach()


def _objective(base: Tensor, residual: Tensor) -> Tensor:
    value = (base.square().sum(-1) + residual.square().sum(-1)) / 2
    return value.nan_to_num(torch.inf)


@dataclass(frozen=True, eq=False)
class Whitened:
    """The target in v with w = centre + factor v, in which a mode has the covariance I.

    Attributes:
        target: in w.
        centre: shape (dim,).
        factor: lower triangular, shape (dim, dim).
    """

    target: LatentTarget
    centre: Tensor
    factor: Tensor

    def base(self, v: Tensor) -> Tensor:
        """Base vectors of coordinates (..., dim)."""
        return self.centre + v @ self.factor.T

    def coordinates(self, base: Tensor) -> Tensor:
        """Coordinates of base vectors (batch, dim)."""
        difference = (base - self.centre).T
        return torch.linalg.solve_triangular(self.factor, difference, upper=False).T

    def log_density(self, v: Tensor) -> Tensor:
        """Log posterior of coordinates (batch, dim) without constants, shape (batch,)."""
        return self.target.log_density(self.base(v))

    def wider(self, scale: float) -> Whitened:
        """The same with the factor scaled."""
        return replace(self, factor=scale * self.factor)


def whiten(target: LatentTarget, modes: Modes) -> Whitened:
    """Coordinates of the heaviest mode."""
    return Whitened(target, modes.positions[modes.best], modes.factors[modes.best])


def starting_points(modes: Modes, num_chains: int, *, seed: int) -> Tensor:
    """Base vectors (num_chains, dim) from the mixture of the modes' Gaussian approximations."""
    points: list[Tensor] = []
    for chain in range(num_chains):
        stream = generator(seed, Stream.TUNING, chain)
        index = int(torch.multinomial(modes.log_weights.exp(), 1, generator=stream))
        noise = torch.randn(modes.positions.shape[1], generator=stream, dtype=torch.float64)
        points.append(modes.positions[index] + modes.factors[index] @ noise)
    return torch.stack(points)
