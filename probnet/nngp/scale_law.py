"""The posterior of σ² as a distribution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from scipy import special
from torch import Tensor
from torch.distributions import Distribution, constraints

from probnet.nngp.priors import InverseGamma, PointMass, ScalePrior
from probnet.nngp.quadrature import DataSummary, scale_nodes

_GRID = 4097


class InverseGammaLaw(torch.distributions.InverseGamma):
    """Inverse gamma with a cdf and quantiles, by SciPy."""

    def cdf(self, value: Tensor) -> Tensor:
        """P(σ² <= value)."""
        return self._by_scipy(special.gammaincc, self.rate / value)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile at probability `value`."""
        return self.rate / self._by_scipy(special.gammainccinv, value)

    def _by_scipy(self, function: Any, argument: Tensor) -> Tensor:
        a, values = (t.detach().cpu().numpy() for t in (self.concentration, argument))
        return torch.as_tensor(function(a, values)).to(self.rate)


class NodeLaw(Distribution):
    """All mass on nodes: a known value, or the marginal of a quadrature grid.

    Args:
        values: shape `(*batch, nodes)`, increasing.
        weights: same shape; they sum to one.
    """

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """None: the arguments are made here."""
        return {}

    def __init__(self, values: Tensor, weights: Tensor) -> None:
        self._values, self._weights = values, weights
        super().__init__(values.shape[:-1], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Mean over the nodes."""
        return (self._weights * self._values).sum(-1)

    @property
    def variance(self) -> Tensor:
        """Variance over the nodes."""
        return (self._weights * (self._values - self.mean.unsqueeze(-1)) ** 2).sum(-1)

    def icdf(self, value: Tensor) -> Tensor:
        """The smallest node whose cumulative weight reaches `value`, `(*sample, *batch)`."""
        p = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        below = (self._weights.cumsum(-1) < p.unsqueeze(-1)).sum(-1, keepdim=True)
        nodes = self._values.expand(*p.shape, -1)
        return nodes.gather(-1, below.clamp_max(nodes.shape[-1] - 1)).squeeze(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw nodes, `(*sample_shape, *batch)`."""
        return self.icdf(torch.rand((*sample_shape, *self.batch_shape), dtype=torch.float64))


class QuadratureLaw(Distribution):
    """p(σ² | y) on the quadrature grid of ln σ²; moments exact, cdf and quantiles to 1e-5.

    Args:
        prior: of σ².
        data: what the data say, any batch shape.
    """

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """None: the arguments are made here."""
        return {}

    @property
    def support(self) -> constraints.Constraint:
        """Positive numbers."""
        return constraints.positive

    def __init__(self, prior: ScalePrior, data: DataSummary) -> None:
        self._prior, self._data = prior, data
        self.nodes = scale_nodes(prior, data)
        super().__init__(data.quadratic.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """E[σ² | y]; infinite where it does not exist."""
        return self._moment(1, self.nodes.u.exp())

    @property
    def variance(self) -> Tensor:
        """Var[σ² | y]; infinite where it does not exist."""
        mean = self.nodes.expectation(self.nodes.u.exp()).unsqueeze(-1)
        return self._moment(2, (self.nodes.u.exp() - mean) ** 2)

    def _moment(self, order: int, values: Tensor) -> Tensor:
        """E[values], of that order in σ²; the likelihood adds n/2 to the prior's tail index."""
        if self._prior.tail_index + self._data.count / 2 <= order:
            return torch.full_like(self.nodes.log_evidence, torch.inf)
        return self.nodes.expectation(values)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density at `value`, shape `(*sample, *batch)`."""
        u = value.log().unsqueeze(-1)
        joint = self._data.log_likelihood(u) + self._prior.log_prob_log(u)
        return joint.squeeze(-1) - self.nodes.log_evidence - value.log()

    def cdf(self, value: Tensor) -> Tensor:
        """P(σ² <= value), shape `(*sample, *batch)`."""
        u, cumulative = self._cumulative
        return _interpolate(u, cumulative, value.log().expand(*value.shape)).clamp(0, 1)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile at probability `value`, shape `(*sample, *batch)`."""
        u, cumulative = self._cumulative
        p = value.to(u).expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        return _interpolate(cumulative, u, p).exp()

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw `(*sample_shape, *batch)` by inverting the cdf."""
        shape = (*sample_shape, *self.batch_shape)
        return self.icdf(torch.rand(shape, dtype=torch.float64)).detach()

    @cached_property
    def _cumulative(self) -> tuple[Tensor, Tensor]:
        ends = self.nodes.u[..., 0], self.nodes.u[..., -1]
        steps = torch.linspace(0, 1, _GRID, dtype=torch.float64)
        u = (ends[0].unsqueeze(-1) + (ends[1] - ends[0]).unsqueeze(-1) * steps).detach()
        density = (self._data.log_likelihood(u) + self._prior.log_prob_log(u)).detach()
        density = (density - density.amax(-1, keepdim=True)).exp()
        middle = (density[..., 1:] + density[..., :-1]) / 2
        total = torch.cat([torch.zeros_like(u[..., :1]), middle.cumsum(-1)], dim=-1)
        return u, total / total[..., -1:]


def scale_law(prior: ScalePrior, data: DataSummary) -> Distribution:
    """p(σ² | y): in closed form where there is one."""
    if isinstance(prior, InverseGamma):
        concentration = torch.full_like(data.quadratic, prior.concentration + data.count / 2)
        rate = prior.rate + data.quadratic / 2
        return InverseGammaLaw(concentration, rate, validate_args=False)
    if isinstance(prior, PointMass):
        value = torch.full_like(data.quadratic, prior.value).unsqueeze(-1)
        return NodeLaw(value, torch.ones_like(value))
    return QuadratureLaw(prior, data)


def _interpolate(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Piecewise linear y(x) of each batch at `(*sample, *batch)`; x increases."""
    batch = x.shape[:-1]
    sample = at.shape[: at.ndim - len(batch)]
    points = at.reshape(-1, *batch).movedim(0, -1).contiguous()
    right = torch.searchsorted(x.contiguous(), points).clamp(1, x.shape[-1] - 1)
    x0, x1 = x.gather(-1, right - 1), x.gather(-1, right)
    y0, y1 = y.gather(-1, right - 1), y.gather(-1, right)
    width = x1 - x0
    share = torch.where(width > 0, (points - x0) / torch.where(width > 0, width, 1.0), 0.0)
    return (y0 + share.clamp(0, 1) * (y1 - y0)).movedim(-1, 0).reshape((*sample, *batch))
