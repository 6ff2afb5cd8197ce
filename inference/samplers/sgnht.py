"""Stochastic gradient Nosé–Hoover thermostat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from inference._checks import check_integer, check_positive
from inference.data import Leaves
from inference.gradients import LogDensityAndGradient
from inference.samplers.base import (
    Info,
    Settings,
    check_gradient_variance,
    clip_fraction,
    kick,
    limit_kick,
)

_KICK_LIMIT = 2.0


class SGNHTState(NamedTuple):
    """Where every chain is; the thermostat has shape (chains, 1), the others (chains, dim)."""

    position: Tensor
    momentum: Tensor
    thermostat: Tensor


@dataclass(frozen=True)
class SGNHT:
    r"""SGHMC whose friction ξ follows the kinetic temperature.

    It absorbs isotropic gradient noise::

        p ← p + εg − εξp + N(0, 2aεT − ε²V̂);  θ ← θ + εp;  ξ ← ξ + ε(pᵀp/d − T)

    In warm-up a kick εg is cut to ±2 a coordinate.

    Source: Ding et al. (NeurIPS 2014).

    Args:
        step_size: ε > 0.
        friction: a > 0, per unit of time; also the thermostat's start.
        gradient_variance: V̂ >= 0, scalar or (dim,), taken off the injected noise; or None.
        resample_every: redraw the momentum every so many steps; None: never.
    """

    step_size: float = 0.01
    friction: float = 1.0
    gradient_variance: Tensor | float | None = None
    resample_every: int | None = None
    step_exponent: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_gradient_variance(self.gradient_variance)
        check_positive("friction", self.friction)
        if self.resample_every is not None:
            check_integer("resample_every", self.resample_every, 1)

    def init(self, position: Tensor, noise: Tensor, settings: Settings) -> SGNHTState:
        """Start at `position`, p ~ N(0, T), ξ = a."""
        thermostat = torch.full_like(position[:, :1], self.friction)
        return SGNHTState(position, settings.temperature**0.5 * noise, thermostat)

    def step(
        self,
        evaluate: LogDensityAndGradient,
        state: SGNHTState,
        batch: Leaves | None,
        noise: Tensor,
        settings: Settings,
    ) -> tuple[SGNHTState, Info]:
        """Advance every chain once."""
        value, raw = evaluate(state.position, batch)
        epsilon = settings.step_size
        gradient = limit_kick(raw, _KICK_LIMIT / epsilon) if settings.warmup else raw
        injected = kick(*self._noise(settings), noise)
        momentum = state.momentum.mul(1 - epsilon * state.thermostat) + injected
        momentum = momentum.add(gradient, alpha=epsilon)
        position = state.position.add(momentum, alpha=epsilon)
        excess = momentum.square().mean(-1, keepdim=True) - settings.temperature
        thermostat = state.thermostat.add(excess, alpha=epsilon)
        return SGNHTState(position, momentum, thermostat), Info(value, raw)

    def refresh(self, state: SGNHTState, noise: Tensor, settings: Settings) -> SGNHTState:
        """Redraw the momentum half a move back, where position and momentum are independent."""
        momentum = settings.temperature**0.5 * noise
        half_move = (momentum - state.momentum) * (settings.step_size / 2)
        return state._replace(position=state.position + half_move, momentum=momentum)

    def statistics(self, state: SGNHTState, settings: Settings) -> dict[str, Tensor]:
        """Kinetic temperature, thermostat, share of coordinates with clipped noise."""
        injected, subtract = self._noise(settings)
        return {
            "kinetic_temperature": state.momentum.square().mean(-1),
            "thermostat": state.thermostat.squeeze(-1),
            "noise_clip_fraction": clip_fraction(injected, subtract, state.position),
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

    def _noise(self, settings: Settings) -> tuple[float, Tensor | float | None]:
        epsilon, variance = settings.step_size, self.gradient_variance
        subtract = None if variance is None else epsilon**2 * variance
        return 2 * self.friction * epsilon * settings.temperature, subtract
