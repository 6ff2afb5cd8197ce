"""Likelihoods of input functions given the input decoder's field A."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from inference._checks import check_choice, check_finite, check_positive
from probnet._checks import Values, as_tensor

_PHASE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class InputLikelihood(ABC):
    """p(a | A), independent over the nodes of the input grid."""

    @abstractmethod
    def distribution(self, field: Tensor, temperature: float = 1.0) -> Distribution:
        """The law of `targets(a)` at every node.

        Args:
            field: A, `(B, m)`.
            temperature: of an annealed likelihood, > 0.
        """

    @abstractmethod
    def targets(self, inputs: Tensor) -> Tensor:
        """What `distribution` is a law of, from inputs of the same shape."""

    @abstractmethod
    def decode(self, field: Tensor) -> Tensor:
        """The input a that a field A stands for, of the same shape."""

    def envelope(self, points: Tensor) -> Tensor:
        """What the input decoder is multiplied by at nodes of the unit box (m, d), `(m,)`."""
        return torch.ones_like(points[:, 0])

    def log_prob(self, field: Tensor, inputs: Tensor, temperature: float = 1.0) -> Tensor:
        """Log p(a | A), summed over nodes, `(B,)`.

        Args:
            field: A, `(B, m)`.
            inputs: a, `(B, m)`.
            temperature: as for `distribution`.
        """
        law = self.distribution(field, temperature)
        return law.log_prob(self.targets(inputs)).sum(-1)

    def check(self, name: str, inputs: Tensor) -> Tensor:
        """Return the inputs, or raise if this law cannot have made them."""
        return check_finite(name, inputs)

    def compress(self, inputs: Tensor) -> Tensor:
        """Inputs as files hold them."""
        return inputs.float()

    def expand(self, stored: Tensor) -> Tensor:
        """Inputs (float64) that `compress` stored."""
        return stored.double()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description, for `input_likelihood_from_dict`."""
        return {"name": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class TwoPhase(InputLikelihood):
    r"""Media of two values: a = low + (high - low) b, b ~ Bernoulli(sigmoid(A/T)).

    In the form `"level_set"` the temperature T is annealed from 1 to 0.1 in training, and a
    latent vector stands for the medium a = low + (high - low) 1[A > 0]: coherent regions. In
    the paper's form, `"bernoulli"`, T = 1 and it stands for the mean of b, whose draws would be
    salt and pepper.

    Source: Zang & Koutsourelakis (J. Comput. Phys. 538, 2025); Iglesias, Lu & Stuart
    (Interfaces and Free Boundaries 18, 2016) for level sets.

    Args:
        low: value where b = 0, > 0.
        high: value where b = 1, > 0, not `low`.
        form: `"level_set"` or `"bernoulli"`.

    Raises:
        ValueError: on an argument out of range.
    """

    low: float
    high: float
    form: str = "level_set"

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_positive("low", self.low)
        check_positive("high", self.high)
        check_choice("form", self.form, ("level_set", "bernoulli"))
        if self.low == self.high:
            raise ValueError(f"`low` and `high` must differ; both are {self.low!r}.")

    def distribution(self, field: Tensor, temperature: float = 1.0) -> Distribution:
        """The law of b; see `InputLikelihood.distribution`."""
        scale = temperature if self.form == "level_set" else 1.0
        return dist.Bernoulli(logits=field / scale, validate_args=False)

    def targets(self, inputs: Tensor) -> Tensor:
        """The phases b = (a - low)/(high - low)."""
        return (inputs - self.low) / (self.high - self.low)

    def decode(self, field: Tensor) -> Tensor:
        """The medium of a field; see the class."""
        phase = field.sigmoid() if self.form == "bernoulli" else (field > 0).to(field)
        return self.low + (self.high - self.low) * phase

    def compress(self, inputs: Tensor) -> Tensor:
        """One byte per node: which phase."""
        return self.targets(inputs) > 0.5

    def expand(self, stored: Tensor) -> Tensor:
        """The media of stored phases."""
        return self.low + (self.high - self.low) * stored.double()

    def check(self, name: str, inputs: Tensor) -> Tensor:
        """Return the inputs, or raise unless every value is one of the two, to 1e-6."""
        check_finite(name, inputs)
        distance = torch.minimum((inputs - self.low).abs(), (inputs - self.high).abs())
        bad = distance > _PHASE_TOLERANCE
        if bad.any():
            raise ValueError(
                f"`{name}` must hold the values {self.low:g} and {self.high:g} of the phases "
                f"(to {_PHASE_TOLERANCE:g}); {int(bad.sum())} of {bad.numel()} do not (first: "
                f"{float(inputs[bad][0]):.6g}). For other media use GaussianInput."
            )
        return inputs


@dataclass(frozen=True)
class GaussianInput(InputLikelihood):
    r"""Continuous inputs: a ~ N(A, noise_sd²), or log a ~ N(A, noise_sd²) if positive.

    Source: Zang & Koutsourelakis (J. Comput. Phys. 538, 2025), section on continuous inputs.

    Args:
        noise_sd: of a, or of log a; how exactly latent vectors must describe inputs.
        positive: the input is a > 0, such as a permeability; decoded inputs are then, too.
        zero_at_ends: the input is zero on the border of its grid, such as an initial value;
            decoded inputs are then, too.

    Raises:
        ValueError: on an argument out of range.
    """

    noise_sd: float = 0.05
    positive: bool = False
    zero_at_ends: bool = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_positive("noise_sd", self.noise_sd)
        if self.positive and self.zero_at_ends:
            raise ValueError(
                "`positive` inputs cannot have `zero_at_ends`; choose one of them."
            )

    def distribution(self, field: Tensor, temperature: float = 1.0) -> Distribution:
        """The law of a or log a, whatever the temperature."""
        del temperature
        return dist.Normal(field, self.noise_sd, validate_args=False)

    def targets(self, inputs: Tensor) -> Tensor:
        """The inputs, or log a."""
        return inputs.log() if self.positive else inputs

    def decode(self, field: Tensor) -> Tensor:
        """The field, or exp A."""
        return field.exp() if self.positive else field

    def envelope(self, points: Tensor) -> Tensor:
        """Π 4s(1 - s) over the axes for inputs that vanish on the border, else 1."""
        bump = (4 * points * (1 - points)).prod(-1)
        return bump if self.zero_at_ends else torch.ones_like(bump)

    def check(self, name: str, inputs: Tensor) -> Tensor:
        """Return the inputs, or raise unless they are finite, and > 0 if they must be."""
        check_finite(name, inputs)
        if self.positive and not bool((inputs > 0).all()):
            raise ValueError(
                f"`{name}` must be > 0 everywhere; the smallest value is "
                f"{float(inputs.min()):.4g}."
            )
        return inputs


def input_likelihood_from_dict(described: Mapping[str, Any]) -> InputLikelihood:
    """The likelihood that `to_dict` described.

    Raises:
        ValueError: on a name that is not known.
    """
    known: dict[str, type[InputLikelihood]] = {
        "TwoPhase": TwoPhase,
        "GaussianInput": GaussianInput,
    }
    options = dict(described)
    name = check_choice("name", options.pop("name"), known)
    return known[name](**options)


def check_inputs(
    name: str, inputs: Values, grid: Sequence[int], likelihood: InputLikelihood
) -> tuple[Tensor, torch.Size]:
    """Inputs as float64 rows `(B, m)`, and their batch shape, or raise.

    Args:
        name: of the argument.
        inputs: shape `(*batch, *grid)`, or `(*batch, m)` with the nodes in C order.
        grid: the fitted input grid.
        likelihood: says which values are possible.

    Raises:
        ValueError: on another grid, no input, or impossible values.
    """
    values, num_nodes, axes = as_tensor(name, inputs), math.prod(grid), len(grid)
    on_grid = tuple(values.shape[-axes:]) == tuple(grid)
    if not on_grid and (not values.ndim or values.shape[-1] != num_nodes):
        raise ValueError(
            f"`{name}` must have shape (*batch, {', '.join(map(str, grid))}) or (*batch, "
            f"{num_nodes}), values at the nodes of the fitted input grid; got "
            f"{tuple(values.shape)}. Interpolate inputs given on another grid."
        )
    batch = values.shape[:-axes] if on_grid else values.shape[:-1]
    rows = values.reshape(-1, num_nodes)
    if not len(rows):
        raise ValueError(f"`{name}` must hold at least one input; got {tuple(values.shape)}.")
    return likelihood.check(name, rows), batch
