"""Gaussian conditioning at σ = 1, by a dense Cholesky factor.

C = K + ε W, with W = I, or diag(1/ω) under robust noise. Everything that a scale mixture needs
of the data, and of a prediction, is computed here; σ never enters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor
from torch.autograd.function import once_differentiable

from probnet.linalg import jittered_cholesky
from probnet.nngp.quadrature import DataSummary

_MATRICES = 4  # K, its factor, the gradient and a temporary


def gram(kernel: Kernel, x1: Tensor, x2: Tensor | None = None) -> Tensor:
    """The kernel's matrix as a tensor."""
    matrix: Tensor = kernel(x1, x2).to_dense()
    return matrix


def variances(kernel: Kernel, x: Tensor) -> Tensor:
    """The kernel's diagonal as a tensor `(n,)`."""
    diagonal: Any = kernel(x, diag=True)
    return diagonal if isinstance(diagonal, Tensor) else diagonal.to_dense()


def check_memory(num_rows: int, limit: float) -> None:
    """Raise `MemoryError` if the dense matrices of so many rows exceed `limit` bytes."""
    need = _MATRICES * 8 * num_rows**2
    if need > limit:
        raise MemoryError(
            f"exact inference on {num_rows} rows needs about {need / 2**30:.1f} GiB "
            f"({_MATRICES} matrices of {num_rows} x {num_rows} float64), above "
            f"`memory_limit` = {limit / 2**30:.1f} GiB. Pass `num_inducing=500` for the sparse "
            f"bound, or raise the limit."
        )


class Solution(ABC):
    """What conditioning on the data gives.

    Attributes:
        summary: count, q and ℓ of the data; q is summed over outputs and ℓ times their number.
        penalty: subtracted from the log evidence; zero unless it is a bound.
        noise_ratio: ε.
    """

    summary: DataSummary
    penalty: Tensor
    noise_ratio: Tensor

    @abstractmethod
    def marginals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean `(outputs, m)` and, at σ = 1, variance `(m,)` of f."""

    @abstractmethod
    def covariance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean `(outputs, m)` and, at σ = 1, covariance `(m, m)` of f."""


@dataclass(frozen=True, eq=False)
class DenseSolution(Solution):
    """By a Cholesky factor of C.

    Attributes:
        kernel: of the process.
        x: training inputs.
        factor: L, C = L Lᵀ.
        weights: C⁻¹y, shape `(n, outputs)`.
        y: targets `(n, outputs)`.
    """

    kernel: Kernel
    x: Tensor
    y: Tensor
    factor: Tensor
    weights: Tensor
    summary: DataSummary
    penalty: Tensor
    noise_ratio: Tensor

    @classmethod
    @torch.no_grad()
    def solve(
        cls,
        kernel: Kernel,
        x: Tensor,
        y: Tensor,
        noise_ratio: Tensor,
        precisions: Tensor | None = None,
    ) -> DenseSolution:
        """Condition on y `(n, outputs)`; `precisions` is ω `(n,)`, one if omitted."""
        noise = noise_ratio.expand(len(y)) if precisions is None else noise_ratio / precisions
        c = gram(kernel, x)
        c = torch.diagonal_scatter(c, c.diagonal() + noise)
        hint = partial(describe, kernel, noise_ratio)
        factor = jittered_cholesky(c, hint=hint, report=True)
        weights = torch.cholesky_solve(y, factor)
        summary = DataSummary(
            y.numel(), (y * weights).sum(), 2 * y.shape[1] * factor.diagonal().log().sum()
        )
        return cls(kernel, x, y, factor, weights, summary, y.new_zeros(()), noise_ratio)

    @torch.no_grad()
    def marginals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Solution.marginals`."""
        cross = gram(self.kernel, self.x, x)
        half = torch.linalg.solve_triangular(self.factor, cross, upper=False)
        variance = variances(self.kernel, x) - half.square().sum(0)
        return self.weights.T @ cross, variance.clamp_min(0)

    @torch.no_grad()
    def covariance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Solution.covariance`."""
        cross = gram(self.kernel, self.x, x)
        half = torch.linalg.solve_triangular(self.factor, cross, upper=False)
        return self.weights.T @ cross, gram(self.kernel, x) - half.T @ half

    @torch.no_grad()
    def leave_one_out(self) -> tuple[Tensor, Tensor, DataSummary]:
        """Every row predicted from all the others, in closed form.

        Returns:
            Mean `(n, outputs)` and, at σ = 1, variance `(n,)` of the observation; and the
            summaries of the data without each row, batch shape `(n,)`.
        """
        inverse_diagonal = torch.cholesky_inverse(self.factor).diagonal()
        mean = self.y - self.weights / inverse_diagonal[:, None]
        removed = (self.weights**2).sum(1) / inverse_diagonal
        outputs = self.y.shape[1]
        rest = DataSummary(
            self.summary.count - outputs,
            (self.summary.quadratic - removed).clamp_min(0),
            self.summary.log_det + outputs * inverse_diagonal.log(),
        )
        return mean, 1 / inverse_diagonal, rest


def quadratic_and_log_det(
    c: Tensor, y: Tensor, *, hint: Callable[[], str] | None = None
) -> tuple[Tensor, Tensor]:
    """Σ_c y_cᵀC⁻¹y_c and ln|C|, with closed-form gradients: C⁻¹ is formed once.

    Args:
        c: covariance `(n, n)`.
        y: `(n, outputs)`.
        hint: as for `jittered_cholesky`.
    """
    values: Any = _QuadraticLogDet.apply(c, y, hint)
    return values


class _QuadraticLogDet(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        c, y, hint = inputs
        factor = jittered_cholesky(c, hint=hint)
        weights = torch.cholesky_solve(y, factor)
        ctx.save_for_backward(factor, weights)
        return (y * weights).sum(), 2 * factor.diagonal().log().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        by_quadratic, by_log_det = grad_outputs
        factor, weights = ctx.saved_tensors
        by_c = torch.cholesky_inverse(factor).mul_(by_log_det)
        by_c.addmm_(weights * -by_quadratic, weights.T)
        return by_c, 2 * by_quadratic * weights, None


def describe(kernel: Kernel, noise_ratio: Tensor) -> str:
    """The hyper-parameters, for a message."""
    values = {
        name.removeprefix("raw_"): constraint.transform(kernel.get_parameter(name))
        for name, constraint in (
            (f"{n.removesuffix('_constraint')}", c) for n, c in kernel.named_constraints()
        )
    }
    shown = ", ".join(
        f"{name} = {[float(f'{v:.3g}') for v in value.detach().flatten()[:4]]}"
        for name, value in values.items()
    )
    return f"Its hyper-parameters: {shown}, noise_ratio = {float(noise_ratio.detach()):.3g}."
