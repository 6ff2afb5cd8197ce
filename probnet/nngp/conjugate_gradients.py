"""C⁻¹y by conjugate gradients with a pivoted-Cholesky preconditioner.

Neural kernels have fast spectral decay, so that a factor of rank 100 to 1000 takes most
iterations away. The kernel is multiplied in blocks of rows, so that memory is O(n · rank).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from gpytorch.kernels import Kernel
from linear_operator.utils.linear_cg import linear_cg
from torch import Tensor

from inference._checks import check_integer, check_positive
from probnet.linalg import jittered_cholesky
from probnet.nngp.solutions import gram
from probnet.nngp.sparse import choose_inducing

_ROWS = 1024


@dataclass(frozen=True, eq=False)
class CGSolution:
    """A solution by conjugate gradients.

    Attributes:
        weights: C⁻¹y, shape `(n, outputs)`.
        quadratic: q = yᵀC⁻¹y, summed over outputs.
        num_iterations: products with C.
    """

    weights: Tensor
    quadratic: Tensor
    num_iterations: int


@torch.no_grad()
def solve_by_cg(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    noise_ratio: Tensor,
    *,
    rank: int = 500,
    tolerance: float = 1e-8,
    max_iterations: int = 2000,
    dense: bool = True,
) -> CGSolution:
    """Solve C w = y, C = K + εI.

    Args:
        kernel: of the process.
        x: n rows.
        y: targets `(n, outputs)`.
        noise_ratio: ε.
        rank: of the preconditioner; 0 for none.
        tolerance: of the residual's norm, relative to that of y.
        max_iterations: products with C at most.
        dense: keep K in memory; otherwise it is evaluated again for every product.
    """
    check_integer("rank", rank, 0)
    check_positive("tolerance", tolerance)
    matrix = gram(kernel, x) if dense else None
    count = 0

    def product(v: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if matrix is not None:
            return matrix @ v + noise_ratio * v
        blocks = [gram(kernel, rows, x) @ v for rows in x.split(_ROWS)]
        return torch.cat(blocks) + noise_ratio * v

    weights: Tensor = linear_cg(  # pyright: ignore[reportAssignmentType]
        product,
        y,
        tolerance=tolerance,
        max_iter=max_iterations,
        max_tridiag_iter=0,
        eps=1e-30,  # its defaults stop above the tolerance in float64
        stop_updating_after=1e-20,
        preconditioner=_preconditioner(kernel, x, noise_ratio, rank) if rank else None,
    )
    return CGSolution(weights, (y * weights).sum(), count)


def _preconditioner(
    kernel: Kernel, x: Tensor, noise_ratio: Tensor, rank: int
) -> Callable[[Tensor], Tensor]:
    """Inverse of Q + εI with Q the Nyström approximation on `rank` pivots, by Woodbury."""
    inducing = choose_inducing(kernel, x, rank)
    factor = jittered_cholesky(gram(kernel, inducing))
    a = torch.linalg.solve_triangular(factor, gram(kernel, inducing, x), upper=False)
    inner = a @ a.T
    inner.diagonal().add_(noise_ratio)
    root = jittered_cholesky(inner)

    def apply(v: Tensor) -> Tensor:
        return (v - a.T @ torch.cholesky_solve(a @ v, root)) / noise_ratio

    return apply
