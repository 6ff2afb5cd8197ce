r"""Dual activations: T(k, q, q') = E[φ(u)φ(v)] for (u, v) ~ N(0, [[q, k], [k, q']]).

`pair` is T, `pair_derivative` is E[φ'(u)φ'(v)]; `second_moment` and
`derivative_second_moment` are their values at u = v, exact where the former may round.
`q1` and `q2` broadcast against `k`. At q = 0 the correlation is 0/0; it is taken as 0, where T
does not depend on it.

Source: Cho & Saul (NeurIPS 2009); Williams (Neural Computation 1998); Lee et al. (ICLR 2018).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Below this 1 - ρ² is rounding error: the inputs are taken as equal, where κ₀ is 1 and where
# its derivative, infinite, is multiplied by a dρ that vanishes faster.
_SINGULAR = 1e-14


class Dual(ABC):
    """The moments of one activation under Gaussian inputs."""

    @abstractmethod
    def pair(self, k: Tensor, q1: Tensor, q2: Tensor) -> Tensor:
        """E[φ(u)φ(v)], shape of `k`."""

    @abstractmethod
    def pair_derivative(self, k: Tensor, q1: Tensor, q2: Tensor) -> Tensor:
        """E[φ'(u)φ'(v)], shape of `k`."""

    @abstractmethod
    def second_moment(self, q: Tensor) -> Tensor:
        """E[φ(u)²], u ~ N(0, q)."""

    @abstractmethod
    def derivative_second_moment(self, q: Tensor) -> Tensor:
        """E[φ'(u)²], u ~ N(0, q)."""


@dataclass(frozen=True)
class PiecewiseLinear(Dual):
    r"""φ(u) = left·min(u, 0) + right·max(u, 0): ReLU, leaky ReLU, abs, identity.

    T = ((left - right)²/2) √(qq') κ₁(ρ) + left·right·k, with κ₁(ρ) = (√(1-ρ²) +
    ρ(π - arccos ρ))/π and derivative kernel κ₀(ρ) = 1 - arccos(ρ)/π.
    """

    left: float
    right: float

    def pair(self, k: Tensor, q1: Tensor, q2: Tensor) -> Tensor:
        """See `Dual.pair`."""
        kink, product = (self.left - self.right) ** 2 / 2, self.left * self.right
        if not kink:
            return product * k
        curved: Any = _ArcCosine1.apply(k, q1, q2, kink)
        return curved + product * k if product else curved

    def pair_derivative(self, k: Tensor, q1: Tensor, q2: Tensor) -> Tensor:
        """See `Dual.pair_derivative`."""
        kink, product = (self.left - self.right) ** 2 / 2, self.left * self.right
        if not kink:
            return torch.full_like(k, product)
        curved: Any = _ArcCosine0.apply(k, q1, q2)
        return kink * curved + product

    def second_moment(self, q: Tensor) -> Tensor:
        """See `Dual.second_moment`."""
        return (self.left**2 + self.right**2) / 2 * q

    def derivative_second_moment(self, q: Tensor) -> Tensor:
        """See `Dual.derivative_second_moment`."""
        return torch.full_like(q, (self.left**2 + self.right**2) / 2)


class Erf(Dual):
    """φ = erf(u), not erf(u/√2): T = (2/π) arcsin(2k / √((1+2q)(1+2q')))."""

    def pair(self, k: Tensor, q1: Tensor, q2: Tensor) -> Tensor:
        """See `Dual.pair`."""
        ratio = 2 * k / ((1 + 2 * q1).sqrt() * (1 + 2 * q2).sqrt())
        # Only rounding can take the ratio to 1, where arcsin has no derivative.
        eps = torch.finfo(k.dtype).eps
        return 2 / math.pi * torch.asin(ratio.clamp(-1 + eps, 1 - eps))

    def pair_derivative(self, k: Tensor, q1: Tensor, q2: Tensor) -> Tensor:
        """See `Dual.pair_derivative`."""
        size = (1 + 2 * q1).sqrt() * (1 + 2 * q2).sqrt()
        floor = torch.finfo(k.dtype).tiny
        return 4 / math.pi * ((size - 2 * k) * (size + 2 * k)).clamp_min(floor).rsqrt()

    def second_moment(self, q: Tensor) -> Tensor:
        """See `Dual.second_moment`."""
        return 2 / math.pi * torch.asin(2 * q / (1 + 2 * q))

    def derivative_second_moment(self, q: Tensor) -> Tensor:
        """See `Dual.derivative_second_moment`."""
        return 4 / math.pi * (1 + 4 * q).rsqrt()


@dataclass(frozen=True)
class Wave(Dual):
    """φ = sin or cos: T = e^{-(q+q')/2} sinh k or cosh k; each is the other's derivative."""

    odd: bool

    def pair(self, k: Tensor, q1: Tensor, q2: Tensor) -> Tensor:
        """See `Dual.pair`."""
        return self._wave(k, (q1 + q2) / 2, self.odd)

    def pair_derivative(self, k: Tensor, q1: Tensor, q2: Tensor) -> Tensor:
        """See `Dual.pair_derivative`."""
        return self._wave(k, (q1 + q2) / 2, not self.odd)

    def second_moment(self, q: Tensor) -> Tensor:
        """See `Dual.second_moment`."""
        return -torch.expm1(-2 * q) / 2 if self.odd else (1 + torch.exp(-2 * q)) / 2

    def derivative_second_moment(self, q: Tensor) -> Tensor:
        """See `Dual.derivative_second_moment`."""
        return Wave(not self.odd).second_moment(q)

    @staticmethod
    def _wave(k: Tensor, mean_q: Tensor, odd: bool) -> Tensor:
        # |k| <= (q + q')/2, so that neither exponent is above zero and nothing overflows.
        plus, minus = torch.exp(k - mean_q), torch.exp(-k - mean_q)
        return (plus - minus) / 2 if odd else (plus + minus) / 2


class _ArcCosine1(torch.autograd.Function):
    """c √(qq') κ₁(ρ), with the derivatives cκ₀ (of k) and c√(1-ρ²)/π (of √(qq')).

    Differentiating √(1-ρ²) and arccos by themselves gives ∞ - ∞ at ρ = 1.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        k, q1, q2, factor = inputs
        rho, root1, root2 = _correlation(k, q1, q2)
        slope = torch.acos(rho).mul_(-factor / math.pi).add_(factor)
        height = (1 - rho).mul_(1 + rho).sqrt_().mul_(factor / math.pi)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(slope, height, root1, root2)
        value: Tensor = rho.mul_(slope).add_(height).mul_(root1).mul_(root2)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        slope, height, root1, root2 = ctx.saved_tensors
        by_k = grad * slope if ctx.needs_input_grad[0] else None
        by_q1 = by_q2 = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            by_size = grad * height
            by_q1 = _by_variance(by_size, root1, root2)
            by_q2 = _by_variance(by_size, root2, root1)
        return by_k, by_q1, by_q2, None


class _ArcCosine0(torch.autograd.Function):
    """κ₀(ρ) = 1 - arccos(ρ)/π, with the derivative 1/(π√(1-ρ²)) cut off at ρ = ±1."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        k, q1, q2 = inputs
        rho, root1, root2 = _correlation(k, q1, q2)
        rho = torch.where((1 - rho) * (1 + rho) > _SINGULAR, rho, rho.round())
        ctx.save_for_backward(rho, root1, root2)
        return torch.acos(rho).div_(-math.pi).add_(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        rho, root1, root2 = ctx.saved_tensors
        rest = (1 - rho) * (1 + rho)
        by_rho = torch.where(rest > _SINGULAR, grad / (math.pi * rest.sqrt()), 0.0)
        size = root1 * root2
        by_size = torch.where(size > 0, by_rho / size, 0.0)  # = ∂/∂k
        by_q1 = _by_variance(-by_size * rho, root1, root2)
        by_q2 = _by_variance(-by_size * rho, root2, root1)
        return by_size, by_q1, by_q2


def _correlation(k: Tensor, q1: Tensor, q2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ρ in [-1, 1], zero where a variance is, and the standard deviations."""
    root1, root2 = q1.sqrt(), q2.sqrt()
    inverse1, inverse2 = (torch.where(r > 0, 1 / r, 0.0) for r in (root1, root2))
    return (k * inverse1).mul_(inverse2).clamp_(-1, 1), root1, root2


def _by_variance(by_size: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """Gradient by q from that by √(qq'): times √q'/(2√q), summed to the shape of q."""
    rows, columns = by_size.shape[-2:] if by_size.ndim > 1 else (0, 0)
    if own.shape[-2:] == (rows, 1) and other.shape[-2:] == (1, columns):
        total = (by_size @ other.mT).sum_to_size(own.shape)
    elif own.shape[-2:] == (1, columns) and other.shape[-2:] == (rows, 1):
        total = (other.mT @ by_size).sum_to_size(own.shape)
    else:
        total = (by_size * other).sum_to_size(own.shape)
    return torch.where(own > 0, total / (2 * own), 0.0)
