"""Likelihoods of classes and counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from inference._checks import check_integer
from probnet._checks import Values
from probnet.likelihoods.base import Likelihood, Parameter


@dataclass(frozen=True, eq=False)
class Bernoulli(Likelihood):
    """y in {0, 1} with log odds f."""

    def predictive(
        self, f: Tensor, *, num_draw_axes: int = 1, **parameters: Tensor | float
    ) -> Distribution:
        """The law of y averaged over draws: again Bernoulli, with the mean probability."""
        mixture = super().predictive(f, num_draw_axes=num_draw_axes, **parameters)
        return dist.Bernoulli(mixture.mean, validate_args=False)

    def _law(self, f: Tensor, **values: Any) -> Distribution:
        return dist.Bernoulli(logits=f, validate_args=False)

    def _allowed(self, y: Tensor) -> tuple[Tensor, str]:
        return (y == 0) | (y == 1), "0 or 1"


@dataclass(frozen=True, eq=False)
class Categorical(Likelihood):
    """y in {0, ..., C - 1} with probabilities softmax(f); f has a last axis of C logits.

    Args:
        num_classes: C, at least 2.
    """

    num_classes: int

    def __post_init__(self) -> None:
        """Check the number of classes."""
        check_integer("num_classes", self.num_classes, 2)

    @property
    def num_outputs(self) -> int:
        """Latent values per target: one logit per class."""
        return self.num_classes

    def check_targets(self, y: Values) -> Tensor:
        """Return class numbers as int64, or raise unless all are whole and in 0..C-1."""
        return super().check_targets(y).long()

    def predictive(
        self, f: Tensor, *, num_draw_axes: int = 1, **parameters: Tensor | float
    ) -> Distribution:
        """The law of y averaged over draws: again categorical, with the mean probabilities."""
        self._check_names(parameters)
        self._target_shape(f)
        probabilities = f.softmax(-1).flatten(0, num_draw_axes - 1).mean(0)
        return dist.Categorical(probabilities, validate_args=False)

    def _law(self, f: Tensor, **values: Any) -> Distribution:
        return dist.Categorical(logits=f, validate_args=False)

    def _allowed(self, y: Tensor) -> tuple[Tensor, str]:
        whole = (y == y.floor()) & (y >= 0) & (y < self.num_classes)
        return whole, f"whole class numbers 0..{self.num_classes - 1}"


@dataclass(frozen=True, eq=False)
class Poisson(Likelihood):
    """y in {0, 1, 2, ...} with mean exp(f)."""

    def _law(self, f: Tensor, **values: Any) -> Distribution:
        return dist.Poisson(f.exp(), validate_args=False)

    def _allowed(self, y: Tensor) -> tuple[Tensor, str]:
        return _is_count(y), "counts 0, 1, 2, ..."


def _weak_gamma() -> Distribution:
    concentration, rate = torch.tensor([2.0, 0.1], dtype=torch.float64)
    return dist.Gamma(concentration, rate)


@dataclass(frozen=True, eq=False)
class NegativeBinomial(Likelihood):
    """y in {0, 1, 2, ...} with mean μ = exp(f) and variance μ + μ² / concentration.

    Args:
        concentration: a number or a prior; Gamma(2, 0.1), of mean 20, if omitted. The limit of
            large values is the Poisson law.
    """

    parameter_names: ClassVar[tuple[str, ...]] = ("concentration",)

    concentration: Parameter = field(default_factory=_weak_gamma)

    def _law(self, f: Tensor, **values: Any) -> Distribution:
        r = torch.as_tensor(values["concentration"], dtype=f.dtype, device=f.device)
        return dist.NegativeBinomial(r, logits=f - r.log(), validate_args=False)

    def _allowed(self, y: Tensor) -> tuple[Tensor, str]:
        return _is_count(y), "counts 0, 1, 2, ..."


def _is_count(y: Tensor) -> Tensor:
    return (y == y.floor()) & (y >= 0)
