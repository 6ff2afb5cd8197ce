"""Manufactured solutions: the source that makes a chosen u the solution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probnet.pde.problem import PDE, MultiIndex


def apply_operator(
    pde: PDE,
    solution: Callable[..., Tensor],
    *points: Tensor,
    unknown: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Σ_α a_α ∂^α u + N(u) at points, derivatives by automatic differentiation.

    Args:
        pde: whose left-hand side is applied.
        solution: u, a function of one tensor per axis, in torch operations.
        *points: coordinates, one tensor per axis, of one shape.
        unknown: values of the equation's `Unknown`s.

    Returns:
        A tensor of the points' shape.
    """
    leaves = [p.detach().clone().to(torch.float64).requires_grad_() for p in points]
    with torch.enable_grad():
        u = solution(*leaves).expand(leaves[0].shape)
        total = torch.zeros_like(leaves[0])
        for index, coefficient in pde.coefficients([*points], unknown).items():
            total = total + coefficient * _derivative(u, leaves, index)
        if pde.nonlinearity is not None:
            total = total + pde.nonlinearity(u)
    return total.detach()


def manufactured(
    pde: PDE,
    solution: Callable[..., Tensor],
    unknown: Mapping[str, Tensor] | None = None,
) -> PDE:
    """The same equation with the source that `solution` solves.

    Args:
        pde: its `source` is replaced.
        solution: u, in torch operations.
        unknown: values of the equation's `Unknown`s.
    """

    def source(*points: Any) -> Tensor:
        return apply_operator(
            pde, solution, *(torch.as_tensor(p) for p in points), unknown=unknown
        )

    return replace(pde, source=source)


def _derivative(u: Tensor, leaves: list[Tensor], index: MultiIndex) -> Tensor:
    for leaf, order in zip(leaves, index, strict=True):
        for _ in range(order):
            if not u.requires_grad:
                return torch.zeros_like(leaf)
            (u,) = torch.autograd.grad(u.sum(), leaf, create_graph=True, materialize_grads=True)
    return u
