r"""Student-t noise around the same solver.

y_i = f_i + e_i with e_i | ω_i ~ N(0, σ²ε/ω_i), ω_i ~ Gamma(ν/2, ν/2). Under q(f, σ²)q(ω) every
factor is conjugate: given E[ω], f and σ² have the usual posterior with noise ε/E[ω_i], and

    q(ω_i) = Gamma((ν + 1)/2, (ν + r_i)/2),   r_i = E[(y_i - f_i)²/σ²]/ε,

with E[(y_i - f_i)²/σ²] = (y_i - m_i)² E[1/σ²] + V_ii. A scale prior on f does not help against
outliers in y, since all points share σ²; this does.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from gpytorch.kernels import Kernel
from scipy import special
from torch import Tensor

from inference.errors import warn
from probnet.nngp.priors import InverseGamma, ScalePrior
from probnet.nngp.quadrature import DataSummary, log_evidence, scale_nodes
from probnet.nngp.solutions import DenseSolution

_MAX_ROUNDS = 200
_TOLERANCE = 1e-8
_NOISE_NODES = 41
_TAIL = 1e-14  # probability beyond the nodes, on either side


def robust_precisions(
    kernel: Kernel, x: Tensor, y: Tensor, noise_ratio: Tensor, *, prior: ScalePrior, df: float
) -> tuple[Tensor, float]:
    """E[ω] at the fixed point, shape `(n,)`, and the evidence lower bound there.

    Args:
        kernel: of the process.
        x: inputs.
        y: targets `(n, 1)`.
        noise_ratio: ε.
        prior: of σ².
        df: ν > 0 of the noise.
    """
    precisions, change = torch.ones(len(y), dtype=y.dtype), math.inf
    for _ in range(_MAX_ROUNDS):
        solution = DenseSolution.solve(kernel, x, y, noise_ratio, precisions)
        residual = _expected_residuals(solution, precisions, prior) / noise_ratio
        updated = (df + 1) / (df + residual)
        change = float((updated - precisions).abs().max())
        precisions = updated
        if change < _TOLERANCE:
            break
    else:
        warn(
            f"the weights of robust noise still move by {change:.1e} after {_MAX_ROUNDS} "
            f"rounds."
        )
    return precisions, _lower_bound(kernel, x, y, noise_ratio, precisions, prior=prior, df=df)


def noise_kinds(df: float) -> tuple[Tensor, Tensor]:
    """Nodes 1/ω and weights for the noise of a new observation: the trapezoid rule in ln ω."""
    shape = df / 2
    ends = np.log([special.gammaincinv(shape, _TAIL), special.gammainccinv(shape, _TAIL)])
    log_node = np.linspace(ends[0], ends[1], _NOISE_NODES)
    log_weight = shape * log_node - np.exp(log_node)
    weights = np.exp(log_weight - log_weight.max())
    precision = torch.from_numpy(np.exp(log_node) / shape)
    return 1 / precision, torch.from_numpy(weights / weights.sum())


def inverse_scale_mean(prior: ScalePrior, data: DataSummary) -> Tensor:
    """E[1/σ² | y]."""
    if isinstance(prior, InverseGamma):
        return (prior.concentration + data.count / 2) / (prior.rate + data.quadratic / 2)
    nodes = scale_nodes(prior, data)
    return nodes.expectation(torch.exp(-nodes.u))


def _expected_residuals(
    solution: DenseSolution, precisions: Tensor, prior: ScalePrior
) -> Tensor:
    """E[(y - f)²/σ²], from y - m = N C⁻¹y and V = N - N C⁻¹N with N the noise matrix."""
    noise = solution.noise_ratio / precisions
    residual = noise * solution.weights[:, 0]
    inverse_diagonal = torch.cholesky_inverse(solution.factor).diagonal()
    variance = (noise - noise**2 * inverse_diagonal).clamp_min(0)
    return residual**2 * inverse_scale_mean(prior, solution.summary) + variance


def _lower_bound(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    noise_ratio: Tensor,
    precisions: Tensor,
    *,
    prior: ScalePrior,
    df: float,
) -> float:
    """Ln p(y | noise ε/E[ω]) plus what q(ω) adds: ½(E ln ω - ln E ω) - KL(q(ω) | p(ω))."""
    solution = DenseSolution.solve(kernel, x, y, noise_ratio, precisions)
    shape, prior_shape = (df + 1) / 2, df / 2
    rate = shape / precisions.numpy()
    log_mean = special.digamma(shape) - np.log(rate)
    divergence = (
        shape * np.log(rate)
        - special.gammaln(shape)
        - prior_shape * math.log(prior_shape)
        + special.gammaln(prior_shape)
        + (shape - prior_shape) * log_mean
        - (rate - prior_shape) * precisions.numpy()
    )
    gain = (log_mean - np.log(precisions.numpy())) / 2 - divergence
    return float(log_evidence(prior, solution.summary)) + float(gain.sum())
