"""Scale-adapted stochastic gradient Hamiltonian Monte Carlo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from inference._checks import check_choice, check_fraction, check_integer, check_positive
from inference.samplers.base import Array, Evaluate, Info, Settings
from inference.samplers.sghmc import INTEGRATORS

_PUBLISHED_FLOOR = 1e-16


class AdaptiveState(NamedTuple):
    """Where every chain is, each of shape (chains, dim).

    Attributes:
        position: θ.
        momentum: v = the last move for the symplectic form, p with unit mass for BAOA.
        window: τ, the length of the averages.
        gradient_mean: ḡ, running mean of the potential's gradient.
        gradient_square: V̂, running raw second moment of it.
    """

    position: Array
    momentum: Array
    window: Array
    gradient_mean: Array
    gradient_square: Array


class AdaptiveCoefficients(NamedTuple):
    """Numbers of one step: ε, and the temperature T."""

    step_size: float
    temperature: float


@dataclass(frozen=True)
class AdaptiveSGHMC:
    r"""SGHMC whose mass per coordinate is learnt from the gradients during warm-up.

    In warm-up, all from the old values, with g the gradient of the full potential::

        r = 1/(τ+1);  τ ← τ + 1 − τḡ²/(V̂+δ);  ḡ ← ḡ + r(g−ḡ);  V̂ ← V̂ + r(g²−V̂)

    Always, with m = 1/(√V̂+δ) and κ the noise correction::

        v ← v − ε²mg − αv + N(0, max(2ε²αmT − κε⁴, 0));  θ ← θ + v

    For a quadratic of curvature λ and gradient-noise variance V the stationary variance is::

        λ Var(θ) = [1 + ε⁴(V/V̂ − κ)/(2ηα)] / (1 − ηλ/(2(2−α))),  η = ε²m

    `integrator="baoa"` takes BAOA steps of size ε_i = εV̂_i^(−1/4) and μ = 1−α instead.

    Source: Springenberg, Klein, Falkner & Hutter (NeurIPS 2016); the published update takes
    κ = 1, which removes needed noise wherever V̂ is not pure minibatch noise.

    Args:
        step_size: ε > 0.
        momentum_decay: α in (0, 1).
        noise_correction: κ in [0, 1]; above 0, minibatches are independent of each other.
        integrator: `"symplectic"` or `"baoa"`.
        reference: the published update: κ = 1, δ = 1e-16, and a floor of 1e-16 under the
            noise's variance.
        resample_every: redraw the momentum every so many steps; None: never.

    Raises:
        ValueError: on options outside their range, or `reference` with another integrator.
    """

    step_size: float = 0.01
    momentum_decay: float = 0.05
    noise_correction: float = 0.0
    integrator: str = "symplectic"
    reference: bool = False
    resample_every: int | None = None
    step_exponent: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_fraction("momentum_decay", self.momentum_decay, closed=False)
        check_fraction("noise_correction", self.noise_correction)
        check_choice("integrator", self.integrator, INTEGRATORS)
        if self.resample_every is not None:
            check_integer("resample_every", self.resample_every, 1)
        if self.reference and self.integrator != "symplectic":
            raise ValueError("`reference` is the published update, integrator='symplectic'.")

    def init(self, position: Tensor, noise: Tensor, settings: Settings) -> AdaptiveState:
        """Start at `position` with τ = ḡ = V̂ = 1; v = 0, or p ~ N(0, T) for BAOA."""
        ones = torch.ones_like(position)
        still = torch.zeros_like(position)
        moving = settings.temperature**0.5 * noise
        momentum = moving if self.integrator == "baoa" else still
        return AdaptiveState(position, momentum, ones, ones, ones)

    @property
    def corrects_noise(self) -> bool:
        """See `Sampler`."""
        return self.noise_correction > 0 or self.reference

    @property
    def estimates_noise(self) -> bool:
        """The state's V̂ is what the correction goes by."""
        return False

    def correct(self, state: AdaptiveState, variance: Tensor) -> AdaptiveState:
        """Nothing to put in place."""
        del variance
        return state

    def coefficients(self, settings: Settings) -> AdaptiveCoefficients:
        """See `Sampler`."""
        return AdaptiveCoefficients(settings.step_size, settings.temperature)

    def step(
        self,
        evaluate: Evaluate,
        state: AdaptiveState,
        batch: Any,
        noise: Array,
        coefficients: AdaptiveCoefficients,
        *,
        warmup: bool = False,
    ) -> tuple[AdaptiveState, Info]:
        """Advance every chain once; the averages move in warm-up only."""
        value, gradient = evaluate(state.position, batch)
        if warmup:
            state = self._adapt(state, gradient)
        kick = self._noise_variance(state, coefficients) ** 0.5 * noise
        decay = 1 - self.momentum_decay
        if self.integrator == "baoa":
            epsilon = coefficients.step_size * state.gradient_square**-0.25
            kicked = state.momentum + epsilon * gradient
            momentum = decay * kicked + kick
            position = state.position + 0.5 * epsilon * (kicked + momentum)
        else:
            eta = coefficients.step_size**2 * self._inverse_mass(state)
            momentum = decay * state.momentum + kick + eta * gradient
            position = state.position + momentum
        return state._replace(position=position, momentum=momentum), Info(value, gradient)

    def refresh(self, state: AdaptiveState, noise: Tensor, settings: Settings) -> AdaptiveState:
        """Redraw the momentum half a move back, where position and momentum are independent."""
        momentum = self.stationary_kinetic_temperature(settings) ** 0.5 * noise
        if self.integrator == "baoa":
            move = settings.step_size * state.gradient_square.pow(-0.25)
        else:
            momentum = settings.step_size * self._inverse_mass(state).sqrt() * momentum
            move = torch.ones_like(momentum)
        half_move = 0.5 * move * (momentum - state.momentum)
        return state._replace(position=state.position + half_move, momentum=momentum)

    def statistics(self, state: AdaptiveState, settings: Settings) -> dict[str, Tensor]:
        """Kinetic temperature pᵀM⁻¹p/d and the share of coordinates with clipped noise."""
        kinetic = state.momentum.square()
        if self.integrator == "symplectic":
            kinetic = kinetic / (settings.step_size**2 * self._inverse_mass(state))
        clipped = self._raw_noise_variance(state, self.coefficients(settings)) < 0
        return {
            "kinetic_temperature": kinetic.mean(-1),
            "noise_clip_fraction": clipped.to(kinetic.dtype).mean(-1),
        }

    def variance_inflation(
        self, variance: Tensor, state: AdaptiveState, settings: Settings
    ) -> Tensor:
        """ηV(1+μ)/(4(1−μ)T) less the correction, η = ε²m, μ = 1−α."""
        correction = 1.0 if self.reference else self.noise_correction
        left = variance - correction * state.gradient_square
        mu = 1 - self.momentum_decay
        eta = settings.step_size**2 * self._inverse_mass(state)
        return eta * left * (1 + mu) / (4 * (1 - mu) * settings.temperature)

    def stationary_kinetic_temperature(self, settings: Settings) -> float:
        """T for BAOA, 2T/(2−α) for the symplectic form."""
        if self.integrator == "baoa":
            return settings.temperature
        return 2 * settings.temperature / (2 - self.momentum_decay)

    @property
    def _delta(self) -> float:
        return 1e-16 if self.reference else 1e-10

    def _adapt(self, state: AdaptiveState, gradient: Array) -> AdaptiveState:
        window, mean, square = state.window, state.gradient_mean, state.gradient_square
        potential_gradient = -gradient
        rate = 1 / (window + 1)
        return state._replace(
            window=window + 1 - window * mean**2 / (square + self._delta),
            gradient_mean=mean + rate * (potential_gradient - mean),
            gradient_square=square + rate * (potential_gradient**2 - square),
        )

    def _inverse_mass(self, state: AdaptiveState) -> Array:
        return 1 / (state.gradient_square**0.5 + self._delta)

    def _raw_noise_variance(self, state: AdaptiveState, c: AdaptiveCoefficients) -> Array:
        alpha = self.momentum_decay
        correction = 1.0 if self.reference else self.noise_correction
        if self.integrator == "baoa":
            mu = 1 - alpha
            own = c.step_size**2 * ((1 + mu) / 2) ** 2 * state.gradient_square**0.5
            return (1 - mu**2) * c.temperature - correction * own
        wanted = 2 * c.step_size**2 * alpha * c.temperature * self._inverse_mass(state)
        return wanted - correction * c.step_size**4

    def _noise_variance(self, state: AdaptiveState, c: AdaptiveCoefficients) -> Array:
        floor = _PUBLISHED_FLOOR if self.reference else 0.0
        return self._raw_noise_variance(state, c).clip(min=floor)
