"""Stochastic gradient Langevin dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from inference._checks import check_positive
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

_KICK_LIMIT = 2.0


class SGLDState(NamedTuple):
    """Positions of the chains, shape (chains, dim)."""

    position: Tensor


@dataclass(frozen=True)
class SGLD:
    r"""Langevin dynamics: θ' = θ + ε ∇log p(θ) + N(0, 2εT − ε²V̂).

    For a quadratic target of curvature λ and exact gradients the stationary variance is
    (T/λ) / (1 − ελ/2). In warm-up a kick εg is cut to ±2√ε a coordinate, more than a settled
    chain often feels.

    Source: Welling & Teh (ICML 2011).

    Args:
        step_size: ε > 0 in gradient units (half the square of an underdamped step).
        gradient_variance: V̂ >= 0, scalar or (dim,): the gradient noise's variance, taken off
            the injected noise. None: nothing is taken off.
    """

    step_size: float = 1e-4
    gradient_variance: Tensor | float | None = None
    step_exponent: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_gradient_variance(self.gradient_variance)

    @property
    def resample_every(self) -> None:
        """There is no momentum to redraw."""

    def init(self, position: Tensor, noise: Tensor, settings: Settings) -> SGLDState:
        """Start at `position`; there is no momentum."""
        del noise, settings
        return SGLDState(position)

    def step(
        self,
        evaluate: LogDensityAndGradient,
        state: SGLDState,
        batch: Leaves | None,
        noise: Tensor,
        settings: Settings,
    ) -> tuple[SGLDState, Info]:
        """Advance every chain once."""
        value, raw = evaluate(state.position, batch)
        epsilon = settings.step_size
        gradient = limit_kick(raw, _KICK_LIMIT / epsilon**0.5) if settings.warmup else raw
        position = state.position.add(gradient, alpha=epsilon)
        state = SGLDState(position + kick(*self._noise(settings), noise))
        return state, Info(value, raw)

    def refresh(self, state: SGLDState, noise: Tensor, settings: Settings) -> SGLDState:
        """Nothing to redraw."""
        del noise, settings
        return state

    def statistics(self, state: SGLDState, settings: Settings) -> dict[str, Tensor]:
        """Share of coordinates whose injected noise was clipped at zero."""
        injected, subtract = self._noise(settings)
        return {"noise_clip_fraction": clip_fraction(injected, subtract, state.position)}

    def variance_inflation(
        self, variance: Tensor, state: SGLDState, settings: Settings
    ) -> Tensor:
        """ε(V − V̂)/(2T)."""
        del state
        left = uncorrected(variance, self.gradient_variance)
        return settings.step_size * left / (2 * settings.temperature)

    def stationary_kinetic_temperature(self, settings: Settings) -> None:
        """Langevin dynamics without momentum has none."""
        del settings

    def _noise(self, settings: Settings) -> tuple[float, Tensor | float | None]:
        variance = self.gradient_variance
        subtract = None if variance is None else settings.step_size**2 * variance
        return 2 * settings.step_size * settings.temperature, subtract
