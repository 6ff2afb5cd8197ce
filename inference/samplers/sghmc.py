"""Stochastic gradient Hamiltonian Monte Carlo with unit mass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from inference._checks import check_choice, check_integer, check_positive
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

INTEGRATORS = ("baoa", "symplectic")

_KICK_LIMIT = 2.0


class SGHMCState(NamedTuple):
    """Where every chain is, each of shape (chains, dim); V̂ may be None."""

    position: Array
    momentum: Array
    gradient_variance: Array | None = None


class SGHMCCoefficients(NamedTuple):
    """Numbers of one step: ε, μ or 1 − aε, the noise's variance, the share of V̂, the limit."""

    step_size: float
    decay: float
    noise: float
    share: float
    limit: float


@dataclass(frozen=True)
class SGHMC(Corrected):
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
        noise_correction: share in [0, 1] of V̂ to take off where V̂ is to be estimated, from
            pairs of minibatches during the second half of the warm-up, and then held.
            A correction holds for independent minibatches: with one their rows are drawn with
            replacement.
        resample_every: redraw the momentum every so many steps; None: never.

    Raises:
        ValueError: on options outside their range; aε must not exceed 1 in the symplectic form.
    """

    step_size: float = 0.01
    friction: float = 1.0
    integrator: str = "baoa"
    gradient_variance: Tensor | float | None = None
    noise_correction: float = 0.0
    resample_every: int | None = None
    step_exponent: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_correction(self.gradient_variance, self.noise_correction)
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
        variance = spread(self.gradient_variance, position)
        return SGHMCState(position, settings.temperature**0.5 * noise, variance)

    def coefficients(self, settings: Settings) -> SGHMCCoefficients:
        """See `Sampler`."""
        epsilon = settings.step_size
        friction = self.friction * epsilon
        if self.integrator == "baoa":
            decay, injected = math.exp(-friction), -math.expm1(-2 * friction)
            share = ((1 + decay) / 2) ** 2
        else:
            decay, injected, share = 1 - friction, 2 * friction, 1.0
        return SGHMCCoefficients(
            step_size=epsilon,
            decay=decay,
            noise=injected * settings.temperature,
            share=epsilon**2 * share,
            limit=_KICK_LIMIT / epsilon,
        )

    def step(
        self,
        evaluate: Evaluate,
        state: SGHMCState,
        batch: Any,
        noise: Array,
        coefficients: SGHMCCoefficients,
        *,
        warmup: bool = False,
    ) -> tuple[SGHMCState, Info]:
        """Advance every chain once; one gradient, taken at the state's position."""
        value, raw = evaluate(state.position, batch)
        c, variance = coefficients, state.gradient_variance
        gradient = limit_kick(raw, c.limit) if warmup else raw
        injected = kick(c.noise, c.share, variance, noise)
        if self.integrator == "baoa":
            kicked = state.momentum + c.step_size * gradient
            momentum = c.decay * kicked + injected
            position = state.position + (kicked + momentum) * (c.step_size / 2)
        else:
            momentum = c.decay * state.momentum + injected + c.step_size * gradient
            position = state.position + c.step_size * momentum
        return SGHMCState(position, momentum, variance), Info(value, raw)

    def refresh(self, state: SGHMCState, noise: Tensor, settings: Settings) -> SGHMCState:
        """Redraw the momentum half a move back, where position and momentum are independent."""
        momentum = self.stationary_kinetic_temperature(settings) ** 0.5 * noise
        half_move = (momentum - state.momentum) * (settings.step_size / 2)
        return state._replace(position=state.position + half_move, momentum=momentum)

    def statistics(self, state: SGHMCState, settings: Settings) -> dict[str, Tensor]:
        """Kinetic temperature pᵀp/d and the share of coordinates with clipped noise."""
        c = self.coefficients(settings)
        return {
            "kinetic_temperature": state.momentum.square().mean(-1),
            "noise_clip_fraction": clip_fraction(
                c.noise, c.share, state.gradient_variance, state.position
            ),
        }

    def variance_inflation(
        self, variance: Tensor, state: SGHMCState, settings: Settings
    ) -> Tensor:
        """ε²(V − V̂)(1+μ) / (4(1−μ)T), μ = exp(−aε), or 1 − aε in the symplectic form."""
        mu, taken = self.coefficients(settings).decay, state.gradient_variance
        left = variance if taken is None else variance - taken
        return settings.step_size**2 * left * (1 + mu) / (4 * (1 - mu) * settings.temperature)

    def stationary_kinetic_temperature(self, settings: Settings) -> float:
        """T for BAOA, 2T/(2−aε) for the symplectic form."""
        if self.integrator == "baoa":
            return settings.temperature
        return 2 * settings.temperature / (2 - self.friction * settings.step_size)
