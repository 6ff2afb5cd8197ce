"""Hamiltonian dynamics of all chains at once: mass matrix, leapfrog steps, energies."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inference.errors import warn
from inference.gradients import LogDensityAndGradient

MAX_ENERGY_ERROR = 1000.0
_linalg: Any = torch.linalg


class Point(NamedTuple):
    """Where every chain is in phase space; the leading axis is chains.

    Attributes:
        position: shape (chains, dim).
        momentum: shape (chains, dim).
        value: log density of the tempered target, shape (chains,).
        gradient: of `value`, shape (chains, dim).
    """

    position: Tensor
    momentum: Tensor
    value: Tensor
    gradient: Tensor


class Metric:
    """The mass matrix, inverse of an estimated covariance S: kinetic energy ½ pᵀSp.

    Args:
        covariance: S, shape (dim,) for a diagonal one, else (dim, dim), positive definite.
    """

    def __init__(self, covariance: Tensor) -> None:
        factor = None
        if covariance.ndim == 2:
            factor, info = _linalg.cholesky_ex(covariance)
            if int(info):
                warn(
                    "the estimated covariance is not positive definite; its diagonal alone is "
                    "used as inverse mass matrix. Warm up longer, or scale the parameters."
                )
                covariance, factor = covariance.diagonal().clone(), None
        self.covariance = covariance
        if factor is None:
            self._inverse_factor = covariance.rsqrt()
        else:
            eye = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
            self._inverse_factor = _linalg.solve_triangular(factor, eye, upper=False)

    def momentum(self, noise: Tensor) -> Tensor:
        """A momentum of law N(0, S⁻¹) from standard normal noise, both (chains, dim)."""
        r = self._inverse_factor
        return noise @ r if r.ndim == 2 else noise * r

    def whiten(self, displacement: Tensor) -> Tensor:
        """A displacement (chains, dim) in units of the estimated spread."""
        r = self._inverse_factor
        return displacement @ r.T if r.ndim == 2 else displacement * r

    def velocity(self, momentum: Tensor) -> Tensor:
        """S p, shape (chains, dim)."""
        s = self.covariance
        return momentum @ s if s.ndim == 2 else momentum * s

    def kinetic(self, momentum: Tensor) -> Tensor:
        """½ pᵀSp, shape (chains,)."""
        return (momentum * self.velocity(momentum)).sum(-1) / 2


def leapfrog(
    evaluate: LogDensityAndGradient,
    metric: Metric,
    start: Point,
    step_size: float,
    num_steps: int,
) -> tuple[Point, Tensor]:
    """Advance every chain by `num_steps` leapfrog steps, one gradient each.

    A chain that meets a non-finite log density or gradient is put back to where it started
    and stays there, so that it neither disturbs the others nor leads the model astray.

    Args:
        evaluate: log density and gradient of the tempered target.
        metric: the mass matrix.
        start: with value and gradient of its position.
        step_size: ε > 0.
        num_steps: at least 1.

    Returns:
        Where the chains end, and which of them (chains,) broke off.
    """
    position, value, gradient = start.position, start.value, start.gradient
    momentum = start.momentum + step_size / 2 * gradient
    broken = torch.zeros_like(value, dtype=torch.bool)
    any_broken = False
    for step in range(num_steps):
        position = position + step_size * metric.velocity(momentum)
        value, gradient = evaluate(position, None)
        if any_broken or not math.isfinite(float(value.sum() + gradient.sum())):
            broken = broken | ~(torch.isfinite(value) & torch.isfinite(gradient).all(-1))
            any_broken = bool(broken.any())
            position = torch.where(broken[:, None], start.position, position)
            momentum = momentum.masked_fill(broken[:, None], 0.0)
            gradient = gradient.masked_fill(broken[:, None], 0.0)
        last = step == num_steps - 1
        momentum = momentum + (step_size / 2 if last else step_size) * gradient
    return Point(position, momentum, value, gradient), broken


class Transition(NamedTuple):
    """One step of the chain: a trajectory, and whether its end is accepted.

    Attributes:
        start: where the trajectory began.
        end: where it ended, finite throughout.
        energy: at its start, shape (chains,).
        energy_error: by how much the end's energy is larger, infinite where the trajectory met
            a non-finite value, shape (chains,).
        accept_prob: min(1, exp(-energy_error)), shape (chains,).
        accepted: shape (chains,).
        step_size: ε.
        num_steps: of the leapfrog integrator.
    """

    start: Point
    end: Point
    energy: Tensor
    energy_error: Tensor
    accept_prob: Tensor
    accepted: Tensor
    step_size: float
    num_steps: int

    @property
    def diverging(self) -> Tensor:
        """Where the energy error exceeds 1000, shape (chains,)."""
        return self.energy_error > MAX_ENERGY_ERROR

    @property
    def next(self) -> Point:
        """Where every chain is afterwards."""
        pairs = zip(self.end, self.start, strict=True)
        keep = self.accepted
        return Point(
            *(torch.where(keep if a.ndim == 1 else keep[:, None], a, b) for a, b in pairs)
        )


def transition(
    evaluate: LogDensityAndGradient,
    metric: Metric,
    start: Point,
    uniform: Tensor,
    *,
    step_size: float,
    num_steps: int,
) -> Transition:
    """A trajectory of every chain and its Metropolis test, chain by chain.

    Args:
        evaluate: log density and gradient of the tempered target.
        metric: the mass matrix.
        start: with a fresh momentum.
        uniform: U(0, 1), shape (chains,).
        step_size: ε > 0.
        num_steps: at least 1.
    """
    end, broken = leapfrog(evaluate, metric, start, step_size, num_steps)
    before = metric.kinetic(start.momentum) - start.value
    change = metric.kinetic(end.momentum) - end.value - before
    change = change.masked_fill(broken | change.isnan(), torch.inf)
    accept_prob = (-change).clamp(max=0.0).exp()
    accepted = (uniform < accept_prob) & (change <= MAX_ENERGY_ERROR)
    return Transition(start, end, before, change, accept_prob, accepted, step_size, num_steps)


def tempered(evaluate: LogDensityAndGradient, temperature: float) -> LogDensityAndGradient:
    """The target to the power 1/T: log density and gradient divided by T."""
    if temperature == 1:
        return evaluate

    def cooled(positions: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        value, gradient = evaluate(positions, batch)
        return value / temperature, gradient / temperature

    return cooled
