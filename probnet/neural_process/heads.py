"""Laws of an observation given a decoder's outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

from inference._checks import check_choice, check_fraction, check_integer
from probnet.predictive import StudentT

_INITIAL_SCALE = 0.5
_NUM_COMPONENTS = 4
_SMALLEST_DF = 2.01  # the variance is finite above 2
_BISECTIONS = 80


class Head(ABC):
    r"""Location m and scale σ = σ_min + (1 - σ_min) softplus(s) of every output coordinate.

    Args:
        y_dim: number of output coordinates, independent given the decoder's outputs.
        min_scale: σ_min in [0, 1), in the units of y. 0.1 is the published form, whose density
            never exceeds 1 / (0.1 √(2π)); 1e-3 leaves the scale free.
    """

    numbers_per_output: int

    def __init__(self, y_dim: int, min_scale: float) -> None:
        self.y_dim, self.min_scale = y_dim, check_fraction("min_scale", min_scale)
        if self.min_scale == 1:
            raise ValueError("`min_scale` must be below 1; got 1. Rescale y instead.")

    @property
    def num_outputs(self) -> int:
        """How many numbers the decoder gives per point."""
        return self.numbers_per_output * self.y_dim

    @abstractmethod
    def law(self, outputs: Tensor) -> Any:
        """The law with batch shape `(*batch, y_dim)`, for outputs `(*batch, num_outputs)`."""

    def initial_bias(self) -> Tensor:
        """Bias of the decoder's last layer at which every scale is 0.5."""
        target = max((_INITIAL_SCALE - self.min_scale) / (1 - self.min_scale), 1e-3)
        bias = torch.zeros(self.numbers_per_output, self.y_dim)
        bias[self._scale_rows()] = float(torch.tensor(target).expm1().log())
        return bias.flatten()

    def _scale_rows(self) -> slice:
        return slice(1, 2)

    def _split(self, outputs: Tensor) -> Tensor:
        """`(numbers, *batch, y_dim)` in single precision at least."""
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return outputs.unflatten(-1, (self.numbers_per_output, self.y_dim)).movedim(-2, 0)

    def _scale(self, s: Tensor) -> Tensor:
        return self.min_scale + (1 - self.min_scale) * F.softplus(s)


class GaussianHead(Head):
    """N(m, σ²)."""

    numbers_per_output = 2

    def law(self, outputs: Tensor) -> Normal:
        """See `Head.law`."""
        loc, s = self._split(outputs)
        return Normal(loc, self._scale(s), validate_args=False)


class StudentTHead(Head):
    """Student's t with location m, scale σ and 2.01 + softplus(.) degrees of freedom."""

    numbers_per_output = 3

    def law(self, outputs: Tensor) -> StudentT:
        """See `Head.law`."""
        loc, s, df = self._split(outputs)
        return StudentT(_SMALLEST_DF + F.softplus(df), loc, self._scale(s), validate_args=False)


class MixtureHead(Head):
    """Mixture of four Gaussians, each coordinate by itself."""

    numbers_per_output = 3 * _NUM_COMPONENTS

    def law(self, outputs: Tensor) -> GaussianMixture:
        """See `Head.law`."""
        loc, s, logits = (part.movedim(0, -1) for part in self._split(outputs).chunk(3))
        weights = Categorical(logits=logits, validate_args=False)
        normal = Normal(loc, self._scale(s), validate_args=False)
        return GaussianMixture(weights, normal, validate_args=False)

    def initial_bias(self) -> Tensor:
        """See `Head.initial_bias`; the locations start apart, for their gradients to differ."""
        bias = super().initial_bias().unflatten(0, (-1, self.y_dim))
        bias[:_NUM_COMPONENTS] = torch.linspace(-0.5, 0.5, _NUM_COMPONENTS)[:, None]
        return bias.flatten()

    def _scale_rows(self) -> slice:
        return slice(_NUM_COMPONENTS, 2 * _NUM_COMPONENTS)


class GaussianMixture(MixtureSameFamily):
    """Mixture of normals with quantiles, by bisection."""

    @torch.no_grad()
    def icdf(self, value: Tensor) -> Tensor:
        """The quantile at probability `value`, of the broadcast shape of it and the batch."""
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        p = value.to(self.mean.dtype).expand(shape)
        normal: Any = self.component_distribution
        quantiles = normal.icdf(p.unsqueeze(-1))
        low, high = quantiles.amin(-1), quantiles.amax(-1)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            below = self.cdf(middle) < p
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


HEADS: dict[str, type[GaussianHead] | type[StudentTHead] | type[MixtureHead]] = {
    "gaussian": GaussianHead,
    "mixture": MixtureHead,
    "student_t": StudentTHead,
}


def make_head(likelihood: str, y_dim: int, min_scale: float) -> Head:
    """The head of a name in `HEADS`."""
    name = check_choice("likelihood", likelihood, HEADS)
    return HEADS[name](check_integer("y_dim", y_dim, 1), min_scale)


def location(law: Any) -> Tensor:
    """Centre m of a head's law: where its noise is centred."""
    return law.loc if isinstance(law, (Normal, StudentT)) else law.mean


def scaled(law: Any, centre: Tensor, factor: float) -> Any:
    """A head's law moved to another centre, its noise being multiplied by a factor.

    Args:
        law: with centre m, see `location`.
        centre: the new one, of the shape of m.
        factor: > 0.
    """
    if isinstance(law, Normal):
        return Normal(centre, factor * law.scale, validate_args=False)
    if isinstance(law, StudentT):
        return StudentT(law.df, centre, factor * law.scale, validate_args=False)
    normal = law.component_distribution
    offset = factor * (normal.loc - law.mean.unsqueeze(-1))
    parts = Normal(centre.unsqueeze(-1) + offset, factor * normal.scale, validate_args=False)
    return GaussianMixture(law.mixture_distribution, parts, validate_args=False)


def transformed(law: Any, move: Callable[[Tensor], Tensor]) -> Distribution:
    """A head's law with every parameter tensor passed through `move`, such as `t.double()`."""
    if isinstance(law, Normal):
        return Normal(move(law.loc), move(law.scale), validate_args=False)
    if isinstance(law, StudentT):
        return StudentT(move(law.df), move(law.loc), move(law.scale), validate_args=False)
    logits, normal = law.mixture_distribution.logits, law.component_distribution
    parts = Normal(move(normal.loc), move(normal.scale), validate_args=False)
    weights = Categorical(logits=move(logits), validate_args=False)
    return GaussianMixture(weights, parts, validate_args=False)
