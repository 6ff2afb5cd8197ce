"""Terms of the training objectives, in nats per point, to be maximised.

ℓ_k(i) is the log density of point i under function k; arrays are `(B, K, N)`, already zero at
padded points, and every term is a mean over tasks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def marginal_term(
    log_densities: Tensor, num_points: Tensor, log_weights: Tensor | float = 0.0
) -> Tensor:
    r"""L_marg = (1/N) log (1/K) Σ_k w_k exp(Σ_i ℓ_k(i)): joint over points, a mixture.

    Args:
        log_densities: ℓ_k(i).
        num_points: N of every task, `(B,)`.
        log_weights: log w_k `(B, K)`, such as log p(z_k | context) - log q(z_k | all).
    """
    joint = log_densities.sum(-1) + log_weights
    log_mean = joint.logsumexp(1) - math.log(joint.shape[1])
    return (log_mean / num_points).mean()


def pointwise_term(log_densities: Tensor, num_points: Tensor) -> Tensor:
    """(1/(KN)) Σ_k Σ_i ℓ_k(i): the mean log density of single functions."""
    return (log_densities.sum(-1).mean(1) / num_points).mean()


def martingale_term(
    loc: Tensor, scale: Tensor, base_loc: Tensor, base_scale: Tensor, mask: Tensor
) -> Tensor:
    r"""-KL(N(μ_0, σ_0²) ‖ N(m, v)), where m and v are the moments of the mixture of functions.

    It is zero where E_k p_k(y | x) has the moments of the base prediction p_0(y | x).

    Args:
        loc: μ_k, `(B, K, N, d)`.
        scale: σ_k.
        base_loc: μ_0, `(B, 1, N, d)`.
        base_scale: σ_0.
        mask: of the points, `(B, N)`.
    """
    mean = loc.mean(1, keepdim=True)
    variance = (scale**2).mean(1, keepdim=True) + ((loc - mean) ** 2).mean(1, keepdim=True)
    ratio = base_scale**2 / variance
    kl = 0.5 * (ratio - 1 - ratio.log() + (base_loc - mean) ** 2 / variance)
    per_point = kl.sum(-1).squeeze(1)
    per_task = torch.where(mask, per_point, 0.0).sum(-1) / mask.sum(-1)
    return -per_task.mean()
