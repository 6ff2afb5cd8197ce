"""The predictive law of a neural process: a mixture over functions at every point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from probnet.predictive import DrawsMixture


class ProcessPredictive(Distribution):
    """p(y | x) = (1/K) Σ_k p_k(y | x) at every point, with the outputs of a point as event.

    `log_prob` is pointwise, one number per point; with `joint=True` it is one number per task,
    log (1/K) Σ_k Π_i p_k(y_i | x_i). `cdf` and `icdf` are those of every output coordinate by
    itself. A sample picks one function and uses it at all points.

    Args:
        laws: p_k, with independent coordinates, batch shape `(K, *batch, m, y_dim)`.
        no_joint: why there is no joint law, if there is none.
    """

    def __init__(self, laws: Any, no_joint: str | None = None) -> None:
        self.laws, self._no_joint = laws, no_joint
        self._each = DrawsMixture(laws)
        shape = self._each.batch_shape
        super().__init__(shape[:-1], shape[-1:], validate_args=False)

    def __repr__(self) -> str:
        return (
            f"ProcessPredictive({self.num_functions} x {type(self.laws).__name__}, "
            f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"
        )

    @property
    def num_functions(self) -> int:
        """K."""
        return len(self.laws.mean)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """None of its own."""
        return {}

    @property
    def mean(self) -> Tensor:
        """Mean over functions, `(*batch, m, y_dim)`."""
        return self._each.mean

    @property
    def variance(self) -> Tensor:
        """Mean of the variances plus variance of the means, over functions."""
        return self._each.variance

    def log_prob(self, value: Tensor, *, joint: bool = False) -> Tensor:
        """Log density of points.

        Args:
            value: `(*sample, *batch, m, y_dim)`.
            joint: of all points of a task at once, instead of each by itself.

        Returns:
            `(*sample, *batch, m)`, or `(*sample, *batch)` if joint.

        Raises:
            ValueError: on other shapes, and on `joint=True` where there is no joint law.
        """
        if joint and self._no_joint:
            raise ValueError(self._no_joint)
        shape = self.batch_shape + self.event_shape
        if value.shape[max(0, value.ndim - len(shape)) :] != shape:
            hint = " Did you mean `value[..., None]`?" if value.shape == shape[:-1] else ""
            raise ValueError(
                f"`value` must have shape (*sample, {', '.join(map(str, shape))}), one row per "
                f"point; got {tuple(value.shape)}.{hint}"
            )
        num_sample = value.ndim - len(shape)
        logs = self.laws.log_prob(value.unsqueeze(num_sample)).sum(-1)
        if joint:
            logs = logs.sum(-1)
        return logs.logsumexp(num_sample) - math.log(self.num_functions)

    def cdf(self, value: Tensor) -> Tensor:
        """P(Y <= value) of every coordinate of every point."""
        return self._each.cdf(value)

    def icdf(self, value: Tensor | float) -> Tensor:
        """Quantile of every coordinate of every point at probability `value`."""
        return self._each.icdf(torch.as_tensor(value, dtype=self.mean.dtype))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw `(*sample_shape, *batch, m, y_dim)`, one function per sample."""
        return self._each.sample(torch.Size(sample_shape))
