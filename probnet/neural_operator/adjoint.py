"""Derivatives of a discrete solution by its adjoint equation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

if TYPE_CHECKING:
    from probnet.neural_operator.darcy import Darcy2D


class AdjointSolve(torch.autograd.Function):
    r"""u of A(a)u = F inside, u = g on the boundary, with its derivative in a.

    For a function of u with gradient v, the adjoint λ = A(a)⁻¹v, zero on the boundary, gives
    ∂/∂a_c = -λᵀ (∂A/∂a_c) u in every cell: one more solve, whatever the number of cells.

    Source: Plessix (Geophys. J. Int. 167, 2006), section 2.
    """

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, problem: Darcy2D) -> Tensor:
        """Nodal values (B, nx + 1, ny + 1) of coefficients (B, nx, ny), on their device."""
        a = coefficients.detach().cpu()
        u = problem.lifted.repeat(len(a), 1, 1)
        if problem.is_homogeneous:
            residual = -problem.load.expand_as(u)
        else:
            residual = problem.residual(u, a)
        u[:, 1:-1, 1:-1] -= problem.solve_inside(a, residual[:, 1:-1, 1:-1])
        ctx.problem = problem
        ctx.save_for_backward(coefficients, u)
        return u.to(coefficients.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradient in the coefficients, and none in the problem."""
        coefficients, u = ctx.saved_tensors
        inner = grad_outputs[0].detach().cpu()[:, 1:-1, 1:-1]
        a = coefficients.detach().cpu().requires_grad_()
        adjoint = pad(ctx.problem.solve_inside(a.detach(), inner), (1, 1, 1, 1))
        with torch.enable_grad():
            work = (adjoint * ctx.problem.stiffness_product(u, a)).sum()
            (slope,) = torch.autograd.grad(work, a)
        return -slope.to(coefficients.device), None
