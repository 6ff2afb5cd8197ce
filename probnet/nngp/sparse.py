r"""Inducing points: a collapsed bound that holds for every scale prior.

With Q = K_XZ K_ZZ⁻¹ K_ZX, and because the noise scales with the process,

    ln p(y) ≥ ln ∫ N(y; 0, σ²(Q + εI)) H(dσ²) - tr(K - Q) / (2ε)     (m outputs: m times),

where the trace is free of σ². q and ln|Q + εI| come from Woodbury's identity in O(nM²); the
kernel is evaluated in tiles, so that memory is O(nM).

Source: Titsias (AISTATS 2009) for the Gaussian process.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from probnet.linalg import jittered_cholesky
from probnet.nngp.quadrature import DataSummary
from probnet.nngp.solutions import Solution, describe, gram, variances


class SparseTerms(NamedTuple):
    """Factors of the bound: B = I + A Aᵀ/ε with A = L⁻¹K_ZX."""

    quadratic: Tensor
    log_det: Tensor
    penalty: Tensor
    factor: Tensor
    factor_b: Tensor
    weights: Tensor


def sparse_terms(
    kernel: Kernel, x: Tensor, y: Tensor, inducing: Tensor, noise_ratio: Tensor
) -> SparseTerms:
    """q, ℓ and the trace term, differentiable in the hyper-parameters.

    Args:
        kernel: of the process.
        x: inputs, n rows.
        y: targets `(n, outputs)`.
        inducing: M rows.
        noise_ratio: ε.
    """
    hint = partial(describe, kernel, noise_ratio)
    factor = jittered_cholesky(gram(kernel, inducing), hint=hint)
    a = torch.linalg.solve_triangular(factor, gram(kernel, inducing, x), upper=False)
    eye = torch.eye(len(factor), dtype=a.dtype, device=a.device)
    factor_b = jittered_cholesky(eye + a @ a.T / noise_ratio, hint=hint)
    projected = torch.linalg.solve_triangular(factor_b, a @ y, upper=False) / noise_ratio
    n, outputs = y.shape
    log_det = 2 * factor_b.diagonal().log().sum() + n * noise_ratio.log()
    trace = variances(kernel, x).sum() - a.square().sum()
    return SparseTerms(
        y.square().sum() / noise_ratio - projected.square().sum(),
        outputs * log_det,
        outputs * trace / (2 * noise_ratio),
        factor,
        factor_b,
        projected,
    )


@dataclass(frozen=True, eq=False)
class SparseSolution(Solution):
    """Conditioning through inducing points.

    Attributes:
        kernel: of the process.
        inducing: Z, M rows.
        terms: factors of the bound.
    """

    kernel: Kernel
    inducing: Tensor
    terms: SparseTerms
    summary: DataSummary
    penalty: Tensor
    noise_ratio: Tensor

    @classmethod
    @torch.no_grad()
    def solve(
        cls, kernel: Kernel, x: Tensor, y: Tensor, noise_ratio: Tensor, inducing: Tensor
    ) -> SparseSolution:
        """Condition on y `(n, outputs)`."""
        terms = sparse_terms(kernel, x, y, inducing, noise_ratio)
        summary = DataSummary(y.numel(), terms.quadratic, terms.log_det)
        return cls(kernel, inducing, terms, summary, terms.penalty, noise_ratio)

    @torch.no_grad()
    def marginals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Solution.marginals`."""
        a, b = self._halves(x)
        variance = variances(self.kernel, x) - a.square().sum(0) + b.square().sum(0)
        return self.terms.weights.T @ b, variance.clamp_min(0)

    @torch.no_grad()
    def covariance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Solution.covariance`."""
        a, b = self._halves(x)
        return self.terms.weights.T @ b, gram(self.kernel, x) - a.T @ a + b.T @ b

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        cross = gram(self.kernel, self.inducing, x)
        a = torch.linalg.solve_triangular(self.terms.factor, cross, upper=False)
        return a, torch.linalg.solve_triangular(self.terms.factor_b, a, upper=False)


@torch.no_grad()
def choose_inducing(kernel: Kernel, x: Tensor, num_inducing: int) -> Tensor:
    """Rows of x, each the one whose variance given those before is largest; at most that many.

    This is the pivoted Cholesky factorisation. It stops early where nothing is left to explain,
    so that duplicate rows are never taken twice.
    """
    remaining = variances(kernel, x).clone()
    smallest = 1e-10 * float(remaining.max())
    rows = torch.empty(num_inducing, len(x), dtype=remaining.dtype, device=x.device)
    picked: list[int] = []
    while len(picked) < min(num_inducing, len(x)) and float(remaining.max()) > smallest:
        pivot, done = int(remaining.argmax()), rows[: len(picked)]
        row = gram(kernel, x[pivot : pivot + 1], x)[0] - done[:, pivot] @ done
        row = row / remaining[pivot].sqrt()
        rows[len(picked)] = row
        picked.append(pivot)
        remaining = (remaining - row**2).clamp_min(0)
        remaining[pivot] = 0.0
    return x[picked]
