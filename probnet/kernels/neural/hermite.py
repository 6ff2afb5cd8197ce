r"""Dual of any activation, by its Hermite series.

With φ(s z) = Σ_j a_j(s) h_j(z) in normalised Hermite polynomials of z ~ N(0, 1),

    E[φ(u)φ(v)] = Σ_j a_j(√q) a_j(√q') ρʲ            (Mehler),

which costs one multiplication and addition per pair and term, against the square of the
number of nodes for a two-dimensional quadrature, and is positive semi-definite however many
terms are kept. The a_j are one-dimensional integrals, done on Gauss-Legendre panels that get
finer towards zero, where activations have their structure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from inference.errors import warn
from probnet.kernels.neural.duals import Dual

_EDGES = (*(2.0**-j for j in range(8, 1, -1)), *np.arange(0.5, 13.01, 0.5))
_NODES_PER_PANEL = 12
_TERMS = (32, 64, 128, 256, 512)
_TAIL = 1e-13  # of E[φ²]: terms beyond this are dropped
_WARN_TAIL = 1e-6


class Hermite(Dual):
    """Moments of an elementwise activation given as a torch function.

    Args:
        activation: φ; differentiable by torch where gradients are wanted.
    """

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        self._phi = activation

    def pair(self, k: Tensor, q1: Tensor, q2: Tensor) -> Tensor:
        """See `Dual.pair`."""
        return _series(self._phi, k, q1, q2)

    def pair_derivative(self, k: Tensor, q1: Tensor, q2: Tensor) -> Tensor:
        """See `Dual.pair_derivative`."""
        return _series(self._slope, k, q1, q2)

    def second_moment(self, q: Tensor) -> Tensor:
        """See `Dual.second_moment`."""
        return _second_moment(self._phi, q)

    def derivative_second_moment(self, q: Tensor) -> Tensor:
        """See `Dual.derivative_second_moment`."""
        return _second_moment(self._slope, q)

    def _slope(self, u: Tensor) -> Tensor:
        return torch.func.jvp(self._phi, (u,), (torch.ones_like(u),))[1]


def _second_moment(phi: Callable[[Tensor], Tensor], q: Tensor) -> Tensor:
    nodes, weights, _ = _quadrature(_TERMS[0])
    values = phi(_safe_sqrt(q).unsqueeze(-1) * nodes.to(q))
    return (values**2) @ weights.to(q)


def _series(phi: Callable[[Tensor], Tensor], k: Tensor, q1: Tensor, q2: Tensor) -> Tensor:
    root1, root2 = _safe_sqrt(q1), _safe_sqrt(q2)
    size = root1 * root2
    rho = torch.where(size > 0, k / torch.where(size > 0, size, 1.0), 0.0)
    nodes, weights, _ = _quadrature(_TERMS[0])
    values = [phi(root.unsqueeze(-1) * nodes.to(k)) for root in (root1, root2)]
    energies = [float(((v.detach() ** 2) @ weights.to(k)).amax()) for v in values]
    coefficients, tails = values, [math.inf, math.inf]
    for terms in _TERMS:
        basis = _quadrature(terms)[2].to(k)
        coefficients = [v @ basis for v in values]
        tails = [
            float(((v.detach() ** 2) @ weights.to(k) - (c.detach() ** 2).sum(-1)).amax())
            for v, c in zip(values, coefficients, strict=True)
        ]
        if all(t <= _TAIL * e for t, e in zip(tails, energies, strict=True)):
            break
    else:
        worst = max(t / e for t, e in zip(tails, energies, strict=True) if e)
        if worst > _WARN_TAIL:
            warn(
                f"the Hermite series of the activation still lacks {worst:.1e} of its second "
                f"moment after {_TERMS[-1]} terms: entries between nearly equal inputs are "
                f"too small by up to that share. Smaller `w_var`, or an activation with a "
                f"closed form, avoids it."
            )
    total: Any = _PowerSeries.apply(rho, *coefficients)
    return total


def _safe_sqrt(q: Tensor) -> Tensor:
    """√q with derivative 0 at q = 0."""
    positive = q > 0
    return torch.where(positive, torch.where(positive, q, 1.0).sqrt(), 0.0)


@lru_cache(maxsize=len(_TERMS))
def _quadrature(terms: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes z, weights of N(0, 1), and weights times h_j(z), shape (nodes, terms)."""
    edges = np.array([*(-e for e in reversed(_EDGES)), 0.0, *_EDGES])
    points, weights = np.polynomial.legendre.leggauss(_NODES_PER_PANEL)
    half = np.diff(edges)[:, None] / 2
    z = (edges[:-1, None] + half * (1 + points)).ravel()
    w = (half * weights).ravel()
    root = np.exp(-(z**2) / 4) / (2 * math.pi) ** 0.25  # square root of the density
    functions = [root, z * root]
    for j in range(1, terms - 1):
        functions.append(
            (z * functions[j] - math.sqrt(j) * functions[j - 1]) / math.sqrt(j + 1)
        )
    basis = (w * root)[:, None] * np.stack(functions, axis=-1)
    return torch.from_numpy(z), torch.from_numpy(w * root**2), torch.from_numpy(basis)


class _PowerSeries(torch.autograd.Function):
    """Σ_j a_j b_j ρʲ; a and b have one more axis, j, than they have in the sum.

    Keeping the powers for the usual backward pass would take one matrix per term.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        rho, a, b = inputs
        ctx.save_for_backward(rho, a, b)
        power, total = torch.ones_like(rho), torch.zeros_like(rho)
        for j in range(a.shape[-1]):
            total.addcmul_(power, a[..., j] * b[..., j])
            power.mul_(rho)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        rho, a, b = ctx.saved_tensors
        by_rho, by_a, by_b = torch.zeros_like(rho), torch.zeros_like(a), torch.zeros_like(b)
        weighted, previous = grad.clone(), torch.zeros_like(grad)  # grad ρʲ and grad ρʲ⁻¹
        for j in range(a.shape[-1]):
            a_j, b_j = a[..., j], b[..., j]
            by_a[..., j] = (weighted * b_j).sum_to_size(a_j.shape)
            by_b[..., j] = (weighted * a_j).sum_to_size(b_j.shape)
            by_rho.addcmul_(previous, j * a_j * b_j)
            previous, weighted = weighted, weighted * rho
        return by_rho, by_a, by_b
