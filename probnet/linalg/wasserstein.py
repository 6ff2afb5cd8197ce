"""The 2-Wasserstein distance of Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_w2(covariance: Tensor, factor: Tensor, *, floor: float = 0.0) -> Tensor:
    r"""Squared 2-Wasserstein distance of N(0, K) and N(0, LLᵀ): tr K + tr LLᵀ - 2 tr (LᵀKL)^½.

    Where the means differ, the square of their distance is to be added.

    Source: Gelbrich (Math. Nachr. 147, 1990).

    Args:
        covariance: K, `(*batch, M, M)`; may be indefinite by rounding.
        factor: L, `(*batch, M, M)`.
        floor: of the eigenvalues of LᵀKL; above 0, the gradient is finite everywhere.

    Returns:
        Shape `(*batch,)`.
    """
    eigenvalues = torch.linalg.eigvalsh(factor.mT @ covariance @ factor)
    overlap = eigenvalues.clamp_min(floor).sqrt().sum(-1)
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    return trace + factor.square().sum((-2, -1)) - 2 * overlap
