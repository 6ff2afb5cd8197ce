"""Covariance functions of the task generators, with parameters per task.

Plain functions rather than GPyTorch kernels: every task has a lengthscale, an amplitude and a
period of its own, on leading axes that broadcast. The periodic one divides by ℓ², where
GPyTorch's `PeriodicKernel` divides by ℓ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor


def distances(x1: Tensor, x2: Tensor) -> Tensor:
    """Euclidean distances `(*batch, n, m)` of rows `(*batch, n, d)` and `(*batch, m, d)`."""
    if x1.shape[-1] == 1:
        return (x1 - x2.mT).abs()
    return torch.cdist(x1, x2, compute_mode="donot_use_mm_for_euclid_dist")


def rbf(distance: Tensor, lengthscale: Tensor, period: Tensor | None = None) -> Tensor:
    """Correlation exp(-½ (Δ/ℓ)²)."""
    del period
    return torch.exp(-0.5 * (distance / lengthscale) ** 2)


def matern(distance: Tensor, lengthscale: Tensor, period: Tensor | None = None) -> Tensor:
    """Correlation of smoothness 5/2: (1 + √5 r + 5r²/3) exp(-√5 r), r = Δ/ℓ."""
    del period
    r = math.sqrt(5) * distance / lengthscale
    return (1 + r + r * r / 3) * torch.exp(-r)


def periodic(distance: Tensor, lengthscale: Tensor, period: Tensor | None = None) -> Tensor:
    """Correlation exp(-2 sin²(π Δ/p)/ℓ²)."""
    if period is None:
        raise ValueError("`period` must be given for the periodic kernel.")
    return torch.exp(-2 * (torch.sin(math.pi * distance / period) / lengthscale) ** 2)


CORRELATIONS: Mapping[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = (
    MappingProxyType({"rbf": rbf, "matern": matern, "periodic": periodic, "t_noise": rbf})
)
"""Correlations by the kernel's name, as functions of (distance, lengthscale, period)."""
