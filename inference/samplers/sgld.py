"""Stochastic gradient Langevin dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from inference._checks import check_positive
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


class SGLDState(NamedTuple):
    """Positions of the chains and V̂ or None, each of shape (chains, dim)."""

    position: Array
    gradient_variance: Array | None = None


class SGLDCoefficients(NamedTuple):
    """Numbers of one step: ε, the noise's variance, the share of V̂, the limit of a kick."""

    step_size: float
    noise: float
    share: float
    limit: float


@dataclass(frozen=True)
class SGLD(Corrected):
    r"""Langevin dynamics: θ' = θ + ε ∇log p(θ) + N(0, 2εT − ε²V̂).

    For a quadratic target of curvature λ and exact gradients the stationary variance is
    (T/λ) / (1 − ελ/2). In warm-up a kick εg is cut to ±2√ε a coordinate, more than a settled
    chain often feels.

    Source: Welling & Teh (ICML 2011).

    Args:
        step_size: ε > 0 in gradient units (half the square of an underdamped step).
        gradient_variance: V̂ >= 0, scalar or (dim,): the gradient noise's variance, taken off
            the injected noise. None: nothing is taken off.
        noise_correction: share in [0, 1] of V̂ to take off where V̂ is to be estimated, from
            pairs of minibatches during the second half of the warm-up, and then held.
            A correction holds for independent minibatches: with one their rows are drawn with
            replacement.
    """

    step_size: float = 1e-4
    gradient_variance: Tensor | float | None = None
    noise_correction: float = 0.0
    step_exponent: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_correction(self.gradient_variance, self.noise_correction)

    @property
    def resample_every(self) -> None:
        """There is no momentum to redraw."""

    def init(self, position: Tensor, noise: Tensor, settings: Settings) -> SGLDState:
        """Start at `position`; there is no momentum."""
        del noise, settings
        return SGLDState(position, spread(self.gradient_variance, position))

    def coefficients(self, settings: Settings) -> SGLDCoefficients:
        """See `Sampler`."""
        epsilon = settings.step_size
        return SGLDCoefficients(
            step_size=epsilon,
            noise=2 * epsilon * settings.temperature,
            share=epsilon**2,
            limit=_KICK_LIMIT / epsilon**0.5,
        )

    def step(
        self,
        evaluate: Evaluate,
        state: SGLDState,
        batch: Any,
        noise: Array,
        coefficients: SGLDCoefficients,
        *,
        warmup: bool = False,
    ) -> tuple[SGLDState, Info]:
        """Advance every chain once."""
        value, raw = evaluate(state.position, batch)
        c, variance = coefficients, state.gradient_variance
        gradient = limit_kick(raw, c.limit) if warmup else raw
        injected = kick(c.noise, c.share, variance, noise)
        position = state.position + c.step_size * gradient + injected
        return SGLDState(position, variance), Info(value, raw)

    def refresh(self, state: SGLDState, noise: Tensor, settings: Settings) -> SGLDState:
        """Nothing to redraw."""
        del noise, settings
        return state

    def statistics(self, state: SGLDState, settings: Settings) -> dict[str, Tensor]:
        """Share of coordinates whose injected noise was clipped at zero."""
        c, taken = self.coefficients(settings), state.gradient_variance
        return {"noise_clip_fraction": clip_fraction(c.noise, c.share, taken, state.position)}

    def variance_inflation(
        self, variance: Tensor, state: SGLDState, settings: Settings
    ) -> Tensor:
        """ε(V − V̂)/(2T)."""
        taken = state.gradient_variance
        left = variance if taken is None else variance - taken
        return settings.step_size * left / (2 * settings.temperature)

    def stationary_kinetic_temperature(self, settings: Settings) -> None:
        """Langevin dynamics without momentum has none."""
        del settings
