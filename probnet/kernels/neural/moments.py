"""Second moments of a layer, carried through a network of infinite width.

For pairs of inputs `Moments` holds the covariances k, both variances q and q', and for the
tangent kernel Θ; for single inputs the variances alone. The layers are the same for both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from probnet.kernels.neural.duals import Dual


class Variances(NamedTuple):
    """Prior variances of weights and biases, each `(*batch, 1)` or `(*batch, layers)`."""

    w: Tensor
    b: Tensor
    last_w: Tensor
    last_b: Tensor

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """Weight and bias variance `(*batch,)` of a layer below the last, counted from 0."""
        return tuple(v[..., min(number, v.shape[-1] - 1)] for v in (self.w, self.b))  # pyright: ignore[reportReturnType]

    def last(self) -> tuple[Tensor, Tensor]:
        """Those of the output layer."""
        return self.last_w[..., 0], self.last_b[..., 0]


@dataclass(frozen=True)
class Moments:
    """Moments of one layer.

    Attributes:
        k: covariances, shape `(*batch, n, m, *pixels)`; or variances `(*batch, n, *pixels)`.
        q1: variances of the rows, broadcasting against k; `None` if k holds the variances.
        q2: variances of the columns.
        theta: the tangent kernel, shape of k (zero before the first layer); `None` if unwanted.
        event_dims: number of axes of k behind the batch.
    """

    k: Tensor
    q1: Tensor | None
    q2: Tensor | None
    theta: Tensor | None
    event_dims: int

    @classmethod
    def of_pairs(cls, x1: Tensor, x2: Tensor, *, tangent: bool) -> Moments:
        """x·x'/d of all pairs of rows of `(*batch, n, d)` and `(*batch, m, d)`."""
        d = x1.shape[-1]
        k = x1 @ x2.mT / d
        q1 = x1.square().sum(-1, keepdim=True) / d
        q2 = x2.square().sum(-1).unsqueeze(-2) / d
        return cls(k, q1, q2, torch.zeros_like(k) if tangent else None, 2)

    @classmethod
    def of_rows(cls, x: Tensor, *, tangent: bool) -> Moments:
        """The squared norm, divided by d, of each row."""
        q = x.square().sum(-1) / x.shape[-1]
        return cls(q, None, None, torch.zeros_like(q) if tangent else None, 1)

    @classmethod
    def of_image_pairs(cls, x1: Tensor, x2: Tensor, *, tangent: bool) -> Moments:
        """Mean over channels of x[p] x'[p], for `(*batch, n, H, W, C)`."""
        c = x1.shape[-1]
        k = torch.einsum("...rhwc,...shwc->...rshw", x1, x2) / c
        q1, q2 = (x.square().sum(-1) / c for x in (x1, x2))
        theta = torch.zeros_like(k) if tangent else None
        return cls(k, q1.unsqueeze(-3), q2.unsqueeze(-4), theta, 4)

    @classmethod
    def of_images(cls, x: Tensor, *, tangent: bool) -> Moments:
        """Mean over channels of x[p]²."""
        q = x.square().sum(-1) / x.shape[-1]
        return cls(q, None, None, torch.zeros_like(q) if tangent else None, 3)

    def affine(self, variances: tuple[Tensor, Tensor]) -> Moments:
        """A dense layer, or a convolution behind `pool`: k ← b + w k, Θ ← k + w Θ."""
        w, b = (v[(..., *(None,) * self.event_dims)] for v in variances)
        k = torch.addcmul(b, w, self.k)
        theta = None if self.theta is None else torch.addcmul(k, w, self.theta)
        q1, q2 = (None if q is None else torch.addcmul(b, w, q) for q in (self.q1, self.q2))
        return Moments(k, q1, q2, theta, self.event_dims)

    def activate(self, dual: Dual) -> Moments:
        """An activation: k ← T, Θ ← Ṫ Θ."""
        theta = self.theta
        if self.q1 is None or self.q2 is None:
            if theta is not None:
                theta = dual.derivative_second_moment(self.k) * theta
            return Moments(dual.second_moment(self.k), None, None, theta, self.event_dims)
        if theta is not None:
            theta = dual.pair_derivative(self.k, self.q1, self.q2) * theta
        k = dual.pair(self.k, self.q1, self.q2)
        q1, q2 = dual.second_moment(self.q1), dual.second_moment(self.q2)
        return Moments(k, q1, q2, theta, self.event_dims)

    def pool(self, stride: int = 1) -> Moments:
        """Mean over 3x3 windows at every `stride`-th pixel: zero outside, divided by 9."""

        def box(v: Tensor) -> Tensor:
            flat = v.reshape(-1, 1, *v.shape[-2:])
            mean = F.avg_pool2d(flat, 3, stride=stride, padding=1)
            return mean.reshape(*v.shape[:-2], *mean.shape[-2:])

        return self._map(box, self.event_dims)

    def flatten(self) -> Moments:
        """The mean over pixels: what a dense layer on flattened pixels sees."""
        return self._map(lambda v: v.mean((-2, -1)), self.event_dims - 2)

    def __add__(self, other: Moments) -> Moments:
        """The sum of two independent branches."""

        def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None or b is None else a + b

        return Moments(
            self.k + other.k,
            add(self.q1, other.q1),
            add(self.q2, other.q2),
            add(self.theta, other.theta),
            self.event_dims,
        )

    def _map(self, function: Callable[[Tensor], Tensor], event_dims: int) -> Moments:
        k, q1, q2, theta = (
            None if v is None else function(v) for v in (self.k, self.q1, self.q2, self.theta)
        )
        assert k is not None
        return Moments(k, q1, q2, theta, event_dims)
