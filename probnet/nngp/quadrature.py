r"""The scale integrated out: evidence, posterior and expectations over σ².

Data enter through three numbers: their count n, q = yᵀC⁻¹y and ℓ = ln|C|. In u = ln σ² the
integrand is exp{-(n u + q e^{-u})/2 + ln H(eᵘ) + u}, and the trapezoid rule converges
exponentially. Its ends are where the integrand has fallen to e⁻⁴⁰ of its maximum.

Source: Lee, Yun, Yang & Lee (ICLR 2022) for the model; section 2.4 for the inverse gamma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.errors import warn
from probnet.nngp.priors import InverseGamma, PointMass, ScalePrior

_FALL = 40.0  # of the log integrand, at which it is cut off
_NODES = (33, 65, 129, 257, 513, 1025, 4097)
_TOLERANCE = 1e-11
_COARSE = 0.05  # spacing of the search for the bulk, in u
_REACH = 700.0  # ln of the largest float64


@dataclass(frozen=True, eq=False)
class DataSummary:
    """What the data say about σ².

    Attributes:
        count: n, the number of observed values.
        quadratic: q = yᵀC⁻¹y, shape `(*batch,)`.
        log_det: ℓ = ln|C|, same shape.
    """

    count: int
    quadratic: Tensor
    log_det: Tensor

    def log_likelihood(self, u: Tensor) -> Tensor:
        """Ln p(y | σ² = eᵘ) up to nothing; u has one more axis than the batch, of nodes."""
        q, log_det = self.quadratic.unsqueeze(-1), self.log_det.unsqueeze(-1)
        constant = self.count * math.log(2 * math.pi) + log_det
        return -(constant + self.count * u + q * torch.exp(-u)) / 2


@dataclass(frozen=True, eq=False)
class ScaleNodes:
    """A quadrature rule for expectations over p(σ² | y).

    Attributes:
        u: nodes ln σ², shape `(*batch, nodes)`.
        log_weights: normalised, same shape.
        log_evidence: ln p(y), shape `(*batch,)`.
    """

    u: Tensor
    log_weights: Tensor
    log_evidence: Tensor

    def expectation(self, values: Tensor) -> Tensor:
        """Σ_g w_g values_g over the last axis."""
        return (self.log_weights.exp() * values).sum(-1)


def log_evidence(prior: ScalePrior, data: DataSummary) -> Tensor:
    """Ln p(y) = ln ∫ N(y; 0, σ²C) H(dσ²), differentiable in q and ℓ; shape `(*batch,)`."""
    if isinstance(prior, InverseGamma):
        return _student_t(prior, data)
    if isinstance(prior, PointMass):
        u = torch.full((1,), prior.center, dtype=torch.float64)
        return data.log_likelihood(u.to(data.quadratic)).squeeze(-1)
    return scale_nodes(prior, data).log_evidence


def scale_nodes(prior: ScalePrior, data: DataSummary) -> ScaleNodes:
    """Nodes and weights of p(σ² | y), as few as the tolerance of 1e-11 allows.

    Raises:
        ValueError: if all data are zero and the posterior cannot be normalised for it.
    """
    if isinstance(prior, PointMass):
        u = torch.full((*data.quadratic.shape, 1), prior.center).to(data.quadratic)
        evidence = data.log_likelihood(u).squeeze(-1)
        return ScaleNodes(u, torch.zeros_like(u), evidence)
    low, high = _support(prior, data)
    nodes = _trapezoid(prior, data, low, high, _NODES[0])
    for count in _NODES[1:]:
        previous, nodes = nodes, _trapezoid(prior, data, low, high, count)
        change = (nodes.log_evidence - previous.log_evidence).detach().abs()
        if bool((change < _TOLERANCE).all()):
            return nodes
    warn(
        f"the integral over the scale has not converged to {_TOLERANCE} after {_NODES[-1]} "
        f"nodes: the density of {prior!r} is not smooth in ln σ²."
    )
    return nodes


def _trapezoid(
    prior: ScalePrior, data: DataSummary, low: Tensor, high: Tensor, count: int
) -> ScaleNodes:
    steps = torch.linspace(0, 1, count, dtype=low.dtype, device=low.device)
    u = low.unsqueeze(-1) + (high - low).unsqueeze(-1) * steps
    logs = data.log_likelihood(u) + prior.log_prob_log(u)
    total = logs.logsumexp(-1)
    evidence = total + ((high - low) / (count - 1)).log()
    return ScaleNodes(u, logs - total.unsqueeze(-1), evidence)


def _student_t(prior: InverseGamma, data: DataSummary) -> Tensor:
    """Multivariate t with ν = 2α degrees of freedom and scale matrix (β/α)C."""
    a, b, n = prior.concentration, prior.rate, data.count
    constant = math.lgamma(a + n / 2) - math.lgamma(a) - n / 2 * math.log(2 * math.pi * b)
    return constant - data.log_det / 2 - (a + n / 2) * torch.log1p(data.quadratic / (2 * b))


@torch.no_grad()
def _support(prior: ScalePrior, data: DataSummary) -> tuple[Tensor, Tensor]:
    """Where the integrand exceeds e⁻⁴⁰ of its maximum, shape `(*batch,)` each."""
    q = data.quadratic.detach()
    if data.count and bool((q <= 0).any()):
        raise ValueError(
            "`y` is zero everywhere, which no scale but zero explains: the posterior of the "
            "scale does not exist for this prior. InverseGamma has one."
        )
    detached = DataSummary(data.count, q, data.log_det.detach())
    peak = (q / data.count).log() if data.count else torch.full_like(q, prior.center)
    grid = _search_grid(prior, peak, data.count)
    logs = detached.log_likelihood(grid) + prior.log_prob_log(grid)
    logs = torch.where(torch.isnan(logs), -math.inf, logs)
    inside = logs > logs.amax(-1, keepdim=True) - _FALL
    number = torch.arange(grid.shape[-1], device=q.device)
    first = torch.where(inside, number, grid.shape[-1]).amin(-1, keepdim=True)
    last = torch.where(inside, number, -1).amax(-1, keepdim=True)
    low = grid.gather(-1, (first - 1).clamp_min(0)).squeeze(-1)
    high = grid.gather(-1, (last + 1).clamp_max(grid.shape[-1] - 1)).squeeze(-1)
    return low, high


def _search_grid(prior: ScalePrior, peak: Tensor, count: int) -> Tensor:
    """Sorted values of u: fine where likelihood or prior may be narrow, wide for tails."""
    options: dict[str, Any] = {"dtype": peak.dtype, "device": peak.device}
    wide = torch.arange(-_REACH, _REACH + 1, 1.0, **options)
    near = torch.arange(-40.0, 40.0, _COARSE, **options)
    fine = torch.linspace(-15.0, 15.0, 241, **options)
    pieces = [near, fine * math.sqrt(2 / max(count, 1))]
    around = torch.cat(pieces) + peak.unsqueeze(-1)
    own = torch.cat([near, *(fine * 10.0**-k for k in (1, 2, 3))]) + prior.center
    common = torch.cat([wide, own]).expand(*peak.shape, -1)
    return torch.cat([around, common], dim=-1).clamp(-_REACH, _REACH).sort(-1).values
