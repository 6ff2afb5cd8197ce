"""Stochastic gradient Hamiltonian Monte Carlo with unit mass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from inference._checks import check_choice, check_integer, check_positive
from inference.data import Leaves
from inference.gradients import LogDensityAndGradient
from inference.samplers.base import (
    Info,
    Settings,
    check_gradient_variance,
    clip_fraction,
    kick,
    limit_kick,
    uncorrected,
)

INTEGRATORS = ("baoa", "symplectic")

_KICK_LIMIT = 2.0


class SGHMCState(NamedTuple):
    """Where every chain is, each of shape (chains, dim)."""

    position: Tensor
    momentum: Tensor


@dataclass(frozen=True)
class SGHMC:
    r"""Underdamped Langevin dynamics with noisy gradients.

    `integrator="baoa"`, with μ = exp(−aε) and g = ∇log p::

        p ← p + εg;  θ ← θ + (ε/2)p;  p ← μp + N(0, (1−μ²)T − ε²((1+μ)/2)²V̂);  θ ← θ + (ε/2)p

    On a quadratic target its position variance is exact at every stable step, ε²λ < 4.

    `integrator="symplectic"`, the published form with v = εp, η = ε², α = aε::

        p ← (1−aε)p + εg + N(0, 2aεT − ε²V̂);  θ ← θ + εp

    There the variance is 1 / (1 − h/(2(2−aε))) times the truth, h = ε²λ.

    In warm-up a kick εg is cut to ±2 a coordinate, more than a settled chain often feels.

    Source: Chen, Fox & Guestrin (ICML 2014); Leimkuhler & Matthews (2015) for BAOA. The factor
    ((1+μ)/2)² is ours: a kick moves θ by (1+μ)/2 times what an equal injection of noise does.

    Args:
        step_size: ε > 0.
        friction: a > 0, per unit of time.
        integrator: `"baoa"` or `"symplectic"`.
        gradient_variance: V̂ >= 0, scalar or (dim,): the gradient noise's variance, taken off
            the injected noise; clipped at zero noise. None: nothing is taken off.
        resample_every: redraw the momentum every so many steps; None: never.

    Raises:
        ValueError: on options outside their range; aε must not exceed 1 in the symplectic form.
    """

    step_size: float = 0.01
    friction: float = 1.0
    integrator: str = "baoa"
    gradient_variance: Tensor | float | None = None
    resample_every: int | None = None
    step_exponent: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_gradient_variance(self.gradient_variance)
        check_positive("friction", self.friction)
        check_choice("integrator", self.integrator, INTEGRATORS)
        if self.resample_every is not None:
            check_integer("resample_every", self.resample_every, 1)
        if self.integrator == "symplectic" and self.friction * self.step_size > 1:
            raise ValueError(
                f"`friction` times `step_size` must be at most 1 with integrator='symplectic'; "
                f"got {self.friction * self.step_size:g}."
            )

    def init(self, position: Tensor, noise: Tensor, settings: Settings) -> SGHMCState:
        """Start at `position` with a momentum from N(0, T)."""
        return SGHMCState(position, settings.temperature**0.5 * noise)

    def step(
        self,
        evaluate: LogDensityAndGradient,
        state: SGHMCState,
        batch: Leaves | None,
        noise: Tensor,
        settings: Settings,
    ) -> tuple[SGHMCState, Info]:
        """Advance every chain once; one gradient, taken at the state's position."""
        value, raw = evaluate(state.position, batch)
        epsilon = settings.step_size
        gradient = limit_kick(raw, _KICK_LIMIT / epsilon) if settings.warmup else raw
        injected = kick(*self._noise(settings), noise)
        momentum = state.momentum
        if self.integrator == "baoa":
            momentum = momentum.add(gradient, alpha=epsilon)
            position = state.position.add(momentum, alpha=epsilon / 2)
            momentum = injected.add(momentum, alpha=math.exp(-self.friction * epsilon))
            position = position.add(momentum, alpha=epsilon / 2)
        else:
            momentum = injected.add(momentum, alpha=1 - self.friction * epsilon)
            momentum = momentum.add(gradient, alpha=epsilon)
            position = state.position.add(momentum, alpha=epsilon)
        return SGHMCState(position, momentum), Info(value, raw)

    def refresh(self, state: SGHMCState, noise: Tensor, settings: Settings) -> SGHMCState:
        """Redraw the momentum half a move back, where position and momentum are independent."""
        momentum = self.stationary_kinetic_temperature(settings) ** 0.5 * noise
        half_move = (momentum - state.momentum) * (settings.step_size / 2)
        return SGHMCState(state.position + half_move, momentum)

    def statistics(self, state: SGHMCState, settings: Settings) -> dict[str, Tensor]:
        """Kinetic temperature pᵀp/d and the share of coordinates with clipped noise."""
        injected, subtract = self._noise(settings)
        return {
            "kinetic_temperature": state.momentum.square().mean(-1),
            "noise_clip_fraction": clip_fraction(injected, subtract, state.position),
        }

    def variance_inflation(
        self, variance: Tensor, state: SGHMCState, settings: Settings
    ) -> Tensor:
        """ε²(V − V̂)(1+μ) / (4(1−μ)T), μ = exp(−aε), or 1 − aε in the symplectic form."""
        del state
        decay = self.friction * settings.step_size
        mu = math.exp(-decay) if self.integrator == "baoa" else 1 - decay
        left = uncorrected(variance, self.gradient_variance)
        return settings.step_size**2 * left * (1 + mu) / (4 * (1 - mu) * settings.temperature)

    def stationary_kinetic_temperature(self, settings: Settings) -> float:
        """T for BAOA, 2T/(2−aε) for the symplectic form."""
        if self.integrator == "baoa":
            return settings.temperature
        return 2 * settings.temperature / (2 - self.friction * settings.step_size)

    def _noise(self, settings: Settings) -> tuple[float, Tensor | float | None]:
        """Variance to inject and, if known, what the gradient's noise already brings."""
        epsilon, temperature = settings.step_size, settings.temperature
        if self.integrator == "baoa":
            mu = math.exp(-self.friction * epsilon)
            injected, share = -math.expm1(-2 * self.friction * epsilon), ((1 + mu) / 2) ** 2
        else:
            injected, share = 2 * self.friction * epsilon, 1.0
        if self.gradient_variance is None:
            return injected * temperature, None
        return injected * temperature, epsilon**2 * share * self.gradient_variance
