"""Predictive distributions: mixtures over posterior draws, and Student's t.

torch's `MixtureSameFamily` keeps its components on the last axis and has no quantiles; its
`StudentT` has neither cdf nor quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from scipy import special
from torch import Tensor
from torch.distributions import Distribution, constraints

from inference._checks import check_integer
from probnet._checks import check_shape

_MAX_ROOT_STEPS = 200


class StudentT(torch.distributions.StudentT, TorchDistributionMixin):  # pyright: ignore[reportIncompatibleMethodOverride] - of expand, in Pyro too
    """Student's t with a cdf and quantiles, by SciPy: exact, on the host, without gradient."""

    def cdf(self, value: Tensor) -> Tensor:
        """P(Y <= value), of the broadcast shape of `value` and the batch."""
        z = (value - self.loc) / self.scale
        return self._by_scipy(special.stdtr, z)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile at probability `value`."""
        return self.loc + self.scale * self._by_scipy(special.stdtrit, value)

    def _by_scipy(self, function: Any, argument: Tensor) -> Tensor:
        df, values = (t.detach().cpu().numpy() for t in (self.df, argument))
        return torch.as_tensor(function(df, values), dtype=self.loc.dtype).to(self.loc.device)


class DrawsMixture(Distribution):
    """Mixture over posterior draws: p(y) = (1/S) Σ_s p_s(y), or Σ_s w_s p_s(y) with weights.

    The mixture is over the leading axes of `components`. The remaining batch axes, usually the
    points of prediction, are kept: `mean`, `variance`, `log_prob`, `cdf` and `icdf` treat each
    point by itself. `sample` picks one posterior draw per sample and uses it at all points, so
    that a sample is a coherent function whose values have the marginals given by the others.
    The joint law of all points is that of `Independent` components (event axes): `log_prob` is
    then joint, and there is no cdf.

    Args:
        components: p_s, batch shape `(*draws, *batch)`.
        num_draw_axes: how many leading axes are draws, such as 2 for (chain, draw).
        weights: of the draws, such as importance weights or those of a quadrature rule, in the
            shape of the leading axes; nonnegative, normalised here; equal if omitted.

    Raises:
        ValueError: if `components` has fewer batch axes than that, or no draw, or if the
            weights do not fit.

    Example:
        >>> draws = torch.distributions.Normal(torch.tensor([[-1.0], [3.0]]), 1.0)  # S = 2
        >>> predictive = DrawsMixture(draws)
        >>> predictive.mean.tolist(), predictive.variance.tolist()
        ([1.0], [5.0])
    """

    def __init__(
        self, components: Distribution, num_draw_axes: int = 1, *, weights: Tensor | None = None
    ) -> None:
        check_integer("num_draw_axes", num_draw_axes, 1)
        shape = components.batch_shape
        self.num_draws = math.prod(shape[:num_draw_axes])
        if len(shape) < num_draw_axes or not self.num_draws:
            raise ValueError(
                f"`components` must have {num_draw_axes} leading batch axes of posterior "
                f"draws, none of length 0; got batch shape {tuple(shape)}."
            )
        self.components = components
        self._draw_shape = tuple(shape[:num_draw_axes])
        self.log_weights = self._checked_log_weights(weights)
        super().__init__(shape[num_draw_axes:], components.event_shape, validate_args=False)

    def __repr__(self) -> str:
        kind = type(self.components).__name__
        return f"DrawsMixture({self.num_draws} x {kind}, batch_shape={tuple(self.batch_shape)})"

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """None of its own: the components have theirs."""
        return {}

    @property
    def support(self) -> constraints.Constraint | None:
        """That of the components."""
        return self.components.support

    @property
    def mean(self) -> Tensor:
        """Mean over draws of the components' means."""
        return self._average(self._flat(self.components.mean))

    @property
    def variance(self) -> Tensor:
        """Mean of the variances plus variance (divisor S) of the means, over draws."""
        means = self._flat(self.components.mean)
        between = self._average((means - self._average(means)) ** 2)
        return self._average(self._flat(self.components.variance)) + between

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density (or mass) at `value`, shape `(*sample, *batch, *event)` or one number."""
        shape = self.batch_shape + self.event_shape
        logs = self.components.log_prob(self._spread(value, shape))
        flat = self._over_draws(logs, self.batch_shape)
        if self.log_weights is None:
            return flat.logsumexp(0) - math.log(self.num_draws)
        return (flat + self._against(self.log_weights, flat)).logsumexp(0)

    def cdf(self, value: Tensor) -> Tensor:
        """P(Y <= value) at each point; `value` as for `log_prob`."""
        probabilities = self.components.cdf(self._spread(value, self.batch_shape))
        return self._average(self._over_draws(probabilities, self.batch_shape))

    @torch.no_grad()
    def icdf(self, value: Tensor) -> Tensor:
        """Quantile at probability `value`: the root of the cdf, to the accuracy of the cdf.

        It is bracketed by the smallest and the largest quantile of the components. Newton
        steps are taken, and a bisection wherever one leaves the bracket or gains too little.
        No gradient is tracked.
        """
        p = torch.as_tensor(value, dtype=self.mean.dtype, device=self.mean.device)
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(
                f"`value` must hold probabilities in [0, 1]; got values from "
                f"{float(p.min()):.4g} to {float(p.max()):.4g}."
            )
        p = p.broadcast_to(torch.broadcast_shapes(p.shape, self.batch_shape))
        quantiles = self._over_draws(
            self.components.icdf(self._spread(p, self.batch_shape)), self.batch_shape
        )
        low, high = quantiles.amin(0), quantiles.amax(0)
        unbounded = torch.isinf(low) & (low == high)  # p is 0 or 1, or rounds to it
        if unbounded.any():
            return torch.where(unbounded, low, self.icdf(torch.where(unbounded, 0.5, p)))
        x, last_move = (low + high) / 2, high - low
        eps = torch.finfo(x.dtype).eps
        for _ in range(_MAX_ROOT_STEPS):
            excess = self.cdf(x) - p
            low, high = torch.where(excess < 0, x, low), torch.where(excess < 0, high, x)
            newton = x - excess / self.log_prob(x).exp()
            trusted = (newton >= low) & (newton <= high) & ((newton - x).abs() < last_move / 2)
            moved = torch.where(trusted, newton, (low + high) / 2)
            # Once the cdf is right to its own rounding error, a further step is noise.
            moved = torch.where(excess.abs() <= 2 * eps, x, moved)
            last_move, x = (moved - x).abs(), moved
            if (last_move <= 2 * eps * x.abs()).all():
                break
        return x

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw `(*sample_shape, *batch, *event)`, one posterior draw per sample."""
        count = math.prod(sample_shape)
        if self.log_weights is None:
            picked = torch.randint(self.num_draws, (count,))
        else:
            edges = self.log_weights.exp().cumsum(0)
            uniform = torch.rand(count, dtype=edges.dtype, device=edges.device) * edges[-1]
            picked = torch.searchsorted(edges, uniform, right=True).clamp_max(
                self.num_draws - 1
            )
        # A posterior draw picked for the j-th time is served by the j-th round of samples.
        order = picked.argsort(stable=True)
        ordered = picked[order]
        rounds = torch.empty_like(picked)
        rounds[order] = torch.arange(count) - torch.searchsorted(ordered, ordered)
        num_rounds = int(rounds.max()) + 1 if count else 0
        values = self.components.sample(torch.Size((num_rounds,)))
        shape = self.batch_shape + self.event_shape
        values = values.reshape(num_rounds, self.num_draws, *shape)
        return values[rounds, picked].reshape(*sample_shape, *shape)

    def _checked_log_weights(self, weights: Tensor | None) -> Tensor | None:
        """Normalised log weights of the draws, flat."""
        if weights is None:
            return None
        check_shape("weights", weights.shape, self._draw_shape, "one weight per draw")
        flat = weights.reshape(-1)
        if not bool((flat >= 0).all()) or not 0 < float(flat.detach().sum()) < math.inf:
            raise ValueError("`weights` must be nonnegative and finite, and not all zero.")
        return (flat / flat.sum()).log()

    def _average(self, values: Tensor) -> Tensor:
        """The weighted mean over the leading axis, of draws."""
        if self.log_weights is None:
            return values.mean(0)
        return (self._against(self.log_weights.exp(), values) * values).sum(0)

    @staticmethod
    def _against(weights: Tensor, values: Tensor) -> Tensor:
        return weights.reshape(-1, *(1 for _ in values.shape[1:]))

    def _flat(self, values: Tensor) -> Tensor:
        """Join the leading axes of draws into one."""
        return values.reshape(self.num_draws, *self.batch_shape, *self.event_shape)

    def _spread(self, value: Tensor, shape: torch.Size) -> Tensor:
        """Put axes of length 1 for the draws between the sample axes and `shape`."""
        got = value.shape
        if value.ndim and got[max(value.ndim - len(shape), 0) :] != shape:
            hint = " Did you mean `.squeeze(-1)`?" if got[-1] == 1 else ""
            raise ValueError(
                f"`value` must have shape (*sample, {', '.join(map(str, shape))}), one value "
                f"per point; got {tuple(got)}.{hint}"
            )
        sample = got[: max(value.ndim - len(shape), 0)]
        return value.reshape(*sample, *(1 for _ in self._draw_shape), *got[len(sample) :])

    def _over_draws(self, values: Tensor, batch: torch.Size) -> Tensor:
        """Move the axes of draws of `(*sample, *draws, *batch)` to the front and join them."""
        num_sample = values.ndim - len(self._draw_shape) - len(batch)
        sample = values.shape[:num_sample]
        return values.reshape(*sample, self.num_draws, *batch).movedim(num_sample, 0)
