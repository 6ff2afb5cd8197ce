"""The law of new observations under a finite mixture of Gaussian processes per task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

_ROOT_STEPS = 60  # halvings of the bracket: to rounding of float64

Joint = Callable[[Tensor], Tensor]
Sampler = Callable[[int], Tensor]


class OraclePredictive(Distribution):
    """A mixture of Gaussian processes at the target inputs, with weights of each task's own.

    `log_prob` is pointwise, one number per target; with `joint=True` it is one number per task,
    the log density of all targets at once. A sample is a coherent function. At masked targets
    the mean and `log_prob` are meaningless and 0.

    Args:
        means: of the components, `(G, B, m)`.
        variances: of the components, `(G, B, m)`.
        log_weights: log probabilities of the components, `(G, B)`.
        mask: which targets are points, `(B, m)`.
        joint: from values `(B, m)` to joint log densities `(B,)`, or why there are none.
        sampler: from a number S to coherent draws `(S, B, m)`.
        shape: of the mean as the user sees it: `(B, m)` or `(m,)`, then (1,) if y has an axis
            of outputs.
        single: whether the axis B is left out there.
    """

    def __init__(
        self,
        means: Tensor,
        variances: Tensor,
        log_weights: Tensor,
        mask: Tensor,
        *,
        joint: Joint | str,
        sampler: Sampler,
        shape: torch.Size,
        single: bool,
    ) -> None:
        self._means, self._variances = means, variances
        self._log_weights, self._mask = log_weights[..., None], mask
        self._joint, self._sampler = joint, sampler
        self._shape, self._single = shape, single
        num_batch = 1 if single else 2  # what follows is the axis of outputs, if there is one
        super().__init__(shape[:num_batch], shape[num_batch:], validate_args=False)

    def __repr__(self) -> str:
        return (
            f"OraclePredictive({len(self._means)} components, "
            f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"
        )

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """None."""
        return {}

    @property
    def mean(self) -> Tensor:
        """E[y | x, context]."""
        return self._average(self._means).reshape(self._shape)

    @property
    def variance(self) -> Tensor:
        """Var[y | x, context], by the law of total variance."""
        centre = self._average(self._means)
        total = self._average(self._variances + (self._means - centre) ** 2)
        return total.reshape(self._shape)

    def log_prob(self, value: Tensor, *, joint: bool = False) -> Tensor:
        """Log density at targets.

        Args:
            value: of the shape of `mean`.
            joint: of all targets of a task at once, instead of each by itself.

        Returns:
            Shape `(B, m)`, or `(B,)` if joint; without the axis B for a single task.

        Raises:
            NotImplementedError: if no joint density is to be had.
        """
        values = value.to(self._means).broadcast_to(self._shape).reshape(self._mask.shape)
        if joint:
            if isinstance(self._joint, str):
                raise NotImplementedError(self._joint)
            logs = self._joint(values)
            return logs[0] if self._single else logs
        squares = (values - self._means) ** 2 / self._variances
        logs = -0.5 * (squares + (2 * math.pi * self._variances).log())
        mixed = (logs + self._log_weights).logsumexp(0)
        return (mixed * self._mask).reshape(self.batch_shape)

    def cdf(self, value: Tensor) -> Tensor:
        """P(y <= value) at each target, of the shape of `mean`."""
        values = value.to(self._means).broadcast_to(self._shape).reshape(self._mask.shape)
        return self._mixed_cdf(values).reshape(self._shape)

    def icdf(self, value: Tensor | float) -> Tensor:
        """The quantile at one probability in (0, 1), or one for each target."""
        p = torch.as_tensor(value, dtype=self._means.dtype, device=self._means.device)
        if not bool(((p > 0) & (p < 1)).all()):
            raise ValueError(f"`value` must hold probabilities in (0, 1); got {value}.")
        p = p.broadcast_to(self._shape).reshape(self._mask.shape)
        quantiles = self._means + self._variances.sqrt() * torch.special.ndtri(p)
        low, high = quantiles.amin(0), quantiles.amax(0)
        for _ in range(_ROOT_STEPS if len(self._means) > 1 else 0):
            middle = (low + high) / 2
            below = self._mixed_cdf(middle) < p
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).reshape(self._shape)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Coherent draws of all targets, `(*sample_shape, *shape of mean)`."""
        draws = self._sampler(math.prod(sample_shape))
        return draws.reshape(*sample_shape, *self._shape)

    def _mixed_cdf(self, values: Tensor) -> Tensor:
        return self._average(
            torch.special.ndtr((values - self._means) / self._variances.sqrt())
        )

    def _average(self, values: Tensor) -> Tensor:
        return (self._log_weights.exp() * values).sum(0)
