"""What every stochastic-gradient sampler is: `init` and `step`, pure, randomness passed in.

A sampler is a frozen dataclass of its options. All arrays carry the chains first; a step reads
nothing but its arguments, so the driver may run any number of chains, in any grouping, and get
the same numbers. A step uses only what torch and JAX arrays share, so one sampler serves both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from inference._checks import check_fraction

Array = Any
"""A torch tensor or a JAX array."""

Evaluate = Callable[[Array, Any], tuple[Array, Array]]
"""`(positions (chains, dim), batch or None) -> (log densities (chains,), gradients)`."""


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

    log_density: Array
    gradient: Array


class Sampler(Protocol):
    """The interface between a sampler and the driver.

    States are NamedTuples of arrays (chains, ...), a `position` among them; a field may be
    None. All but `step` is called with torch tensors.

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

    @property
    def estimates_noise(self) -> bool:
        """Whether the gradient's variance is to be estimated at the end of the warm-up."""
        ...

    @property
    def corrects_noise(self) -> bool:
        """Whether a variance of the gradient is taken off the injected noise.

        It is that of independent minibatches, so that only those may be used then.
        """
        ...

    def correct(self, state: Any, variance: Tensor) -> Any:
        """The state that takes an estimate of the gradient's variance (chains, dim) off."""
        ...

    def init(self, position: Tensor, noise: Tensor, settings: Settings) -> Any:
        """State at `position` (chains, dim), with standard normal `noise` of its shape."""
        ...

    def coefficients(self, settings: Settings) -> Any:
        """The numbers a step multiplies with: a NamedTuple of floats.

        They are all that a schedule changes, so that a compiled step serves every step size.
        """
        ...

    def step(
        self,
        evaluate: Evaluate,
        state: Any,
        batch: Any,
        noise: Array,
        coefficients: Any,
        *,
        warmup: bool = False,
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


def take_step(
    sampler: Sampler,
    evaluate: Evaluate,
    state: Any,
    batch: Any,
    noise: Array,
    settings: Settings,
) -> tuple[Any, Info]:
    """One step of `sampler` with the numbers of `settings`."""
    coefficients = sampler.coefficients(settings)
    return sampler.step(evaluate, state, batch, noise, coefficients, warmup=settings.warmup)


def limit_kick(gradient: Array, limit: Array | float) -> Array:
    """The gradient, cut to ±`limit` in every coordinate.

    For warm-up: far from the target, where the step size may be unstable, full kicks would
    throw a chain to infinity; cut ones let it slide down.
    """
    return gradient.clip(-limit, limit)


class Corrected:
    """Samplers that take the gradient's variance, kept in the state, off their noise."""

    noise_correction: float
    gradient_variance: Tensor | float | None

    @property
    def corrects_noise(self) -> bool:
        """See `Sampler`."""
        return self.noise_correction > 0 or self.gradient_variance is not None

    @property
    def estimates_noise(self) -> bool:
        """See `Sampler`."""
        return self.noise_correction > 0

    def correct(self, state: Any, variance: Tensor) -> Any:
        """See `Sampler`."""
        return state._replace(gradient_variance=self.noise_correction * variance)


def check_correction(variance: Any, noise_correction: float) -> None:
    """Check V̂ and the share of it that is taken off the injected noise.

    Raises:
        ValueError: unless V̂ is None, or finite and >= 0, a scalar or one axis; if the share
            lies outside [0, 1]; if both are given.
    """
    check_fraction("noise_correction", noise_correction)
    if variance is None:
        return
    values = torch.as_tensor(variance)
    if values.ndim > 1 or not bool((values.isfinite() & (values >= 0)).all()):
        raise ValueError(
            "`gradient_variance` must be finite and >= 0, a scalar or one value per "
            f"coordinate; got {variance!r}."
        )
    if noise_correction:
        raise ValueError(
            "`noise_correction` estimates the gradient's variance that `gradient_variance` "
            "gives; leave one of them out."
        )


def spread(variance: Any, position: Tensor) -> Tensor | None:
    """V̂ in the shape of `position`; None stays None.

    Raises:
        ValueError: if V̂ has a length that is not the number of coordinates.
    """
    if variance is None:
        return None
    values = torch.as_tensor(variance, dtype=position.dtype, device=position.device)
    if values.ndim and values.shape != position.shape[-1:]:
        raise ValueError(
            f"`gradient_variance` must be a scalar or have {position.shape[-1]} entries, one "
            f"per coordinate; got shape {tuple(values.shape)}."
        )
    return values.expand_as(position)


def kick(
    variance: Array | float, share: Array | float, taken: Array | None, noise: Array
) -> Array:
    """Injected noise, the gradient's own noise taken off its variance.

    Args:
        variance: wanted in all, >= 0.
        share: factor of `taken`.
        taken: variance of the gradient, (chains, dim); where `share` of it exceeds `variance`
            nothing is injected. None: nothing is taken off.
        noise: standard normal, shape (chains, dim).
    """
    if taken is None:
        return variance**0.5 * noise
    return (variance - share * taken).clip(min=0.0) ** 0.5 * noise


def clip_fraction(variance: float, share: float, taken: Tensor | None, like: Tensor) -> Tensor:
    """Share of the last axis of `like` where `share` of `taken` exceeds `variance`."""
    if taken is None:
        return like.new_zeros(like.shape[:-1])
    return (share * taken > variance).to(like.dtype).expand_as(like).mean(-1)
