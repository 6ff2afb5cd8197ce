"""Priors of the scale σ², the factor by which the last layer's weight variance is unknown.

Each is a density H of s = σ² on (0, ∞). Every computation is in u = ln s, where the density is
H(eᵘ)eᵘ; inverse gamma and a point mass have closed forms, all others are integrated exactly by
`probnet.nngp.quadrature`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference._checks import check_choice, check_positive

_MASS_TOLERANCE = 5e-3  # half a step of the grid, for a density with a jump


@dataclass(frozen=True)
class ScalePrior(ABC):
    """A law of σ²; subclasses are frozen dataclasses of positive numbers."""

    def __post_init__(self) -> None:
        """Check the parameters."""
        for entry in fields(self):
            value = check_positive(entry.name, getattr(self, entry.name))
            object.__setattr__(self, entry.name, value)

    @abstractmethod
    def log_prob_log(self, u: Tensor) -> Tensor:
        """Log density of u = ln σ²: ln H(eᵘ) + u."""

    @property
    def center(self) -> float:
        """A value of u near the bulk of the prior, where quadrature looks for it."""
        return 0.0

    @property
    def tail_index(self) -> float:
        """The a of a tail H(s) ~ s^{-a-1}: moments of σ² below a exist; infinite if all do."""
        return math.inf

    def log_prob(self, scale: Tensor) -> Tensor:
        """Log density H of σ²."""
        return self.log_prob_log(scale.log()) - scale.log()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description, from which `scale_prior_from_dict` rebuilds the prior."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {"name": type(self).__name__, **values}


@dataclass(frozen=True)
class InverseGamma(ScalePrior):
    """σ² ~ IG(α, β), density ∝ s^{-α-1} e^{-β/s}: a Student-t process with 2α degrees.

    Args:
        concentration: α > 0.
        rate: β > 0.
    """

    concentration: float
    rate: float

    @property
    def center(self) -> float:
        """See `ScalePrior.center`."""
        return math.log(self.rate / self.concentration)

    @property
    def tail_index(self) -> float:
        """See `ScalePrior.tail_index`."""
        return self.concentration

    def log_prob_log(self, u: Tensor) -> Tensor:
        """See `ScalePrior.log_prob_log`."""
        a, b = self.concentration, self.rate
        return a * math.log(b) - math.lgamma(a) - a * u - b * torch.exp(-u)


@dataclass(frozen=True)
class BurrXII(ScalePrior):
    """H(s) = c d s^{c-1} (1 + s^c)^{-d-1}: f has tails of index 2cd.

    Args:
        c: > 0.
        d: > 0.
    """

    c: float
    d: float

    @property
    def tail_index(self) -> float:
        """See `ScalePrior.tail_index`."""
        return self.c * self.d

    def log_prob_log(self, u: Tensor) -> Tensor:
        """See `ScalePrior.log_prob_log`."""
        log_one_plus = torch.nn.functional.softplus(self.c * u)
        return math.log(self.c * self.d) + self.c * u - (self.d + 1) * log_one_plus


@dataclass(frozen=True)
class HalfCauchy(ScalePrior):
    """σ (not σ²) is half-Cauchy of this scale.

    Args:
        scale: median of σ.
    """

    scale: float = 1.0

    @property
    def center(self) -> float:
        """See `ScalePrior.center`."""
        return 2 * math.log(self.scale)

    @property
    def tail_index(self) -> float:
        """See `ScalePrior.tail_index`."""
        return 0.5

    def log_prob_log(self, u: Tensor) -> Tensor:
        """See `ScalePrior.log_prob_log`."""
        v = u - self.center
        return v / 2 - math.log(math.pi) - torch.nn.functional.softplus(v)


@dataclass(frozen=True)
class LogNormal(ScalePrior):
    """ln σ² ~ N(loc, scale²).

    Args:
        loc: any real number.
        scale: > 0.
    """

    loc: float
    scale: float

    def __post_init__(self) -> None:
        """Check the parameters."""
        object.__setattr__(self, "scale", check_positive("scale", self.scale))
        if not math.isfinite(self.loc):
            raise ValueError(f"`loc` must be finite; got {self.loc!r}.")

    @property
    def center(self) -> float:
        """See `ScalePrior.center`."""
        return self.loc

    def log_prob_log(self, u: Tensor) -> Tensor:
        """See `ScalePrior.log_prob_log`."""
        z = (u - self.loc) / self.scale
        return -(z**2) / 2 - math.log(self.scale * math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class Gamma(ScalePrior):
    """σ² ~ Gamma: H(s) ∝ s^{a-1} e^{-b s}, light tails.

    Args:
        concentration: a > 0.
        rate: b > 0.
    """

    concentration: float
    rate: float

    @property
    def center(self) -> float:
        """See `ScalePrior.center`."""
        return math.log(self.concentration / self.rate)

    def log_prob_log(self, u: Tensor) -> Tensor:
        """See `ScalePrior.log_prob_log`."""
        a, b = self.concentration, self.rate
        return a * math.log(b) - math.lgamma(a) + a * u - b * torch.exp(u)


@dataclass(frozen=True)
class PointMass(ScalePrior):
    """σ² is known: a Gaussian process.

    Args:
        value: of σ².
    """

    value: float = 1.0

    @property
    def center(self) -> float:
        """See `ScalePrior.center`."""
        return math.log(self.value)

    def log_prob_log(self, u: Tensor) -> Tensor:
        """A point mass has no density."""
        raise TypeError("a PointMass has no density; its value is `value`.")


class DensityPrior(ScalePrior):
    """σ² with a density of the user's own.

    Args:
        log_density: ln H(s) of a float64 tensor of s > 0, elementwise and normalised.

    Raises:
        ValueError: if the density does not integrate to one, or not to anything.

    Example:
        >>> half_normal = DensityPrior(lambda s: -(s**2) / 2 + 0.5 * math.log(2 / math.pi))
    """

    def __init__(self, log_density: Callable[[Tensor], Tensor]) -> None:
        object.__setattr__(self, "log_density", log_density)
        # From the smallest to the largest number that a float64 can hold.
        u = torch.linspace(-700.0, 700.0, 280_001, dtype=torch.float64)
        values = log_density(u.exp())
        if values.shape != u.shape or bool(torch.isnan(values).any()):
            raise ValueError(
                "`log_density` must return one finite number or -inf for every s > 0; got "
                f"shape {tuple(values.shape)} for {tuple(u.shape)}, or NaN."
            )
        values = values + u
        object.__setattr__(self, "_center", float(u[values.argmax()]))
        mass = float(np.trapezoid(values.exp().numpy(), u.numpy()))
        if not abs(mass - 1) < _MASS_TOLERANCE:
            raise ValueError(
                f"`log_density` must be normalised: its exponential integrates to {mass:.6g}. "
                f"Subtract {math.log(mass) if 0 < mass < math.inf else mass:.6g} from it, if "
                f"the integral exists at all."
            )

    log_density: Callable[[Tensor], Tensor]
    _center: float

    @property
    def center(self) -> float:
        """See `ScalePrior.center`."""
        return self._center

    def log_prob_log(self, u: Tensor) -> Tensor:
        """See `ScalePrior.log_prob_log`."""
        return self.log_density(u.exp()) + u

    def to_dict(self) -> dict[str, Any]:
        """A density given as a function cannot be written down."""
        raise TypeError(
            "a DensityPrior holds a function, which cannot be written to a file; named priors "
            f"are {sorted(_PRIORS)}."
        )


_PRIORS: dict[str, type[ScalePrior]] = {
    cls.__name__: cls
    for cls in (BurrXII, Gamma, HalfCauchy, InverseGamma, LogNormal, PointMass)
}


def scale_prior_from_dict(described: Mapping[str, Any]) -> ScalePrior:
    """Rebuild the prior that `ScalePrior.to_dict` described.

    Raises:
        ValueError: on a name that is not a prior of this package.
    """
    arguments = dict(described)
    name = check_choice("name", arguments.pop("name"), _PRIORS)
    return _PRIORS[name](**arguments)
