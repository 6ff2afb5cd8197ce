"""What every stochastic-gradient sampler is: `init` and `step`, pure, randomness passed in.

A sampler is a frozen dataclass of its options. All tensors carry the chains first; a step
reads nothing but its arguments, so the driver may run any number of chains, in any grouping,
and get the same numbers.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from inference.data import Leaves
from inference.gradients import LogDensityAndGradient


class Settings(NamedTuple):
    """What may change from step to step.

    Attributes:
        step_size: the integrator's step.
        temperature: T >= 0; scales the injected noise and the kinetic law, never the gradient.
        warmup: whether adaptation is on.
    """

    step_size: float
    temperature: float
    warmup: bool


class Info(NamedTuple):
    """What a step computed at the position it started from."""

    log_density: Tensor
    gradient: Tensor


class Sampler(Protocol):
    """The interface between a sampler and the driver.

    Attributes:
        step_exponent: power of a schedule's factor that multiplies the step size; 1 where the
            step is in gradient units, 1/2 where its square is.
    """

    step_exponent: ClassVar[float]

    @property
    def step_size(self) -> float:
        """The base step size, before any schedule."""
        ...

    @property
    def resample_every(self) -> int | None:
        """Number of steps between full redraws of the momentum; None for never."""
        ...

    def init(self, position: Tensor, noise: Tensor, settings: Settings) -> Any:
        """State at `position` (chains, dim), with standard normal `noise` of its shape."""
        ...

    def step(
        self,
        evaluate: LogDensityAndGradient,
        state: Any,
        batch: Leaves | None,
        noise: Tensor,
        settings: Settings,
    ) -> tuple[Any, Info]:
        """Advance every chain once, with standard normal `noise` (chains, dim)."""
        ...

    def refresh(self, state: Any, noise: Tensor, settings: Settings) -> Any:
        """Redraw the momentum from its stationary law."""
        ...

    def statistics(self, state: Any, settings: Settings) -> dict[str, Tensor]:
        """Per-chain figures of a state; extra leading axes pass through."""
        ...

    def variance_inflation(self, variance: Tensor, state: Any, settings: Settings) -> Tensor:
        """Relative excess variance of the draws that gradient noise of `variance` brings.

        Args:
            variance: of the gradient, per coordinate, shape (chains, dim).
            state: of the chains.
            settings: with a temperature above 0.
        """
        ...

    def stationary_kinetic_temperature(self, settings: Settings) -> float | None:
        """Where `kinetic_temperature` must lie for small steps; None without a momentum."""
        ...


def limit_kick(gradient: Tensor, limit: float) -> Tensor:
    """The gradient, cut to ±`limit` in every coordinate.

    For warm-up: far from the target, where the step size may be unstable, full kicks would
    throw a chain to infinity; cut ones let it slide down.
    """
    return gradient.clamp(min=-limit, max=limit)


def check_gradient_variance(variance: Tensor | float | None) -> None:
    """Raise `ValueError` unless V̂ is None, or finite and >= 0, a scalar or one axis."""
    if variance is None:
        return
    values = torch.as_tensor(variance)
    if values.ndim > 1 or not bool((values.isfinite() & (values >= 0)).all()):
        raise ValueError(
            "`gradient_variance` must be finite and >= 0, a scalar or one value per "
            f"coordinate; got {variance!r}."
        )


def kick(variance: float, subtract: Tensor | float | None, noise: Tensor) -> Tensor:
    """Injected noise, the gradient's own noise taken off its variance.

    Args:
        variance: wanted in all, a scalar >= 0.
        subtract: variance that the gradient noise already brings, per coordinate or scalar;
            where it exceeds `variance` nothing is injected.
        noise: standard normal, shape (chains, dim).

    Raises:
        ValueError: if `subtract` has a length that is not the number of coordinates.
    """
    if subtract is None:
        return variance**0.5 * noise
    taken = torch.as_tensor(subtract, dtype=noise.dtype, device=noise.device)
    if taken.ndim and taken.shape != noise.shape[-1:]:
        raise ValueError(
            f"`gradient_variance` must be a scalar or have {noise.shape[-1]} entries, one per "
            f"coordinate; got shape {tuple(taken.shape)}."
        )
    return (variance - taken).clamp(min=0.0).sqrt() * noise


def uncorrected(variance: Tensor, taken: Tensor | float | None) -> Tensor:
    """What of the gradient's noise is left once `taken` is accounted for."""
    if taken is None:
        return variance
    return variance - torch.as_tensor(taken, dtype=variance.dtype, device=variance.device)


def clip_fraction(variance: float, subtract: Tensor | float | None, like: Tensor) -> Tensor:
    """Share of the last axis of `like` where `subtract` exceeds `variance`."""
    if subtract is None:
        return like.new_zeros(like.shape[:-1])
    taken = torch.as_tensor(subtract, dtype=like.dtype, device=like.device)
    clipped = (taken > variance).to(like.dtype)
    return clipped.expand_as(like).mean(-1)
