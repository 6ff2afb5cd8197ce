"""Stochastic gradient Nosé–Hoover thermostat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from inference._checks import check_integer, check_positive
from inference.samplers.base import (
    Array,
    Corrected,
    Evaluate,
    Info,
    Settings,
    check_correction,
    clip_fraction,
    kick,
    limit_kick,
    spread,
)

_KICK_LIMIT = 2.0


class SGNHTState(NamedTuple):
    """Where every chain is; the thermostat has shape (chains, 1), the others (chains, dim)."""

    position: Array
    momentum: Array
    thermostat: Array
    gradient_variance: Array | None = None


class SGNHTCoefficients(NamedTuple):
    """Numbers of one step: ε, T, the noise's variance, the share of V̂, the limit of a kick."""

    step_size: float
    temperature: float
    noise: float
    share: float
    limit: float


@dataclass(frozen=True)
class SGNHT(Corrected):
    r"""SGHMC whose friction ξ follows the kinetic temperature.

    It absorbs isotropic gradient noise::

        p ← p + εg − εξp + N(0, 2aεT − ε²V̂);  θ ← θ + εp;  ξ ← ξ + ε(pᵀp/d − T)

    In warm-up a kick εg is cut to ±2 a coordinate.

    Source: Ding et al. (NeurIPS 2014).

    Args:
        step_size: ε > 0.
        friction: a > 0, per unit of time; also the thermostat's start.
        gradient_variance: V̂ >= 0, scalar or (dim,), taken off the injected noise; or None.
        noise_correction: share in [0, 1] of V̂ to take off where V̂ is to be estimated, from
            pairs of minibatches during the second half of the warm-up, and then held.
            A correction holds for independent minibatches: with one their rows are drawn with
            replacement.
        resample_every: redraw the momentum every so many steps; None: never.
    """

    step_size: float = 0.01
    friction: float = 1.0
    gradient_variance: Tensor | float | None = None
    noise_correction: float = 0.0
    resample_every: int | None = None
    step_exponent: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_correction(self.gradient_variance, self.noise_correction)
        check_positive("friction", self.friction)
        if self.resample_every is not None:
            check_integer("resample_every", self.resample_every, 1)

    def init(self, position: Tensor, noise: Tensor, settings: Settings) -> SGNHTState:
        """Start at `position`, p ~ N(0, T), ξ = a."""
        thermostat = torch.full_like(position[:, :1], self.friction)
        variance = spread(self.gradient_variance, position)
        return SGNHTState(position, settings.temperature**0.5 * noise, thermostat, variance)

    def coefficients(self, settings: Settings) -> SGNHTCoefficients:
        """See `Sampler`."""
        epsilon = settings.step_size
        return SGNHTCoefficients(
            step_size=epsilon,
            temperature=settings.temperature,
            noise=2 * self.friction * epsilon * settings.temperature,
            share=epsilon**2,
            limit=_KICK_LIMIT / epsilon,
        )

    def step(
        self,
        evaluate: Evaluate,
        state: SGNHTState,
        batch: Any,
        noise: Array,
        coefficients: SGNHTCoefficients,
        *,
        warmup: bool = False,
    ) -> tuple[SGNHTState, Info]:
        """Advance every chain once."""
        value, raw = evaluate(state.position, batch)
        c, variance = coefficients, state.gradient_variance
        gradient = limit_kick(raw, c.limit) if warmup else raw
        injected = kick(c.noise, c.share, variance, noise)
        momentum = (1 - c.step_size * state.thermostat) * state.momentum + injected
        momentum = momentum + c.step_size * gradient
        position = state.position + c.step_size * momentum
        excess = (momentum * momentum).mean(-1)[:, None] - c.temperature
        thermostat = state.thermostat + c.step_size * excess
        return SGNHTState(position, momentum, thermostat, variance), Info(value, raw)

    def refresh(self, state: SGNHTState, noise: Tensor, settings: Settings) -> SGNHTState:
        """Redraw the momentum half a move back, where position and momentum are independent."""
        momentum = settings.temperature**0.5 * noise
        half_move = (momentum - state.momentum) * (settings.step_size / 2)
        return state._replace(position=state.position + half_move, momentum=momentum)

    def statistics(self, state: SGNHTState, settings: Settings) -> dict[str, Tensor]:
        """Kinetic temperature, thermostat, share of coordinates with clipped noise."""
        c, taken = self.coefficients(settings), state.gradient_variance
        return {
            "kinetic_temperature": state.momentum.square().mean(-1),
            "thermostat": state.thermostat.squeeze(-1),
            "noise_clip_fraction": clip_fraction(c.noise, c.share, taken, state.position),
        }

    def variance_inflation(
        self, variance: Tensor, state: SGNHTState, settings: Settings
    ) -> Tensor:
        """What the thermostat leaves: ε(V − mean V)/(2aT); it absorbs the isotropic part."""
        del state
        left = variance - variance.mean(-1, keepdim=True)
        return settings.step_size * left / (2 * self.friction * settings.temperature)

    def stationary_kinetic_temperature(self, settings: Settings) -> float:
        """T: the thermostat holds it there."""
        return settings.temperature
