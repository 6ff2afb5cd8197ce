"""Predictive laws: what Gaussian conditioning at σ = 1 becomes once σ² has a posterior.

An inverse gamma prior gives Student's t in closed form, a point mass the normal law, any other
prior a finite mixture of normals over quadrature nodes, exact to 1e-11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import MultivariateStudentT
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal

from probnet.linalg import jittered_cholesky
from probnet.nngp.priors import InverseGamma, ScalePrior
from probnet.nngp.quadrature import DataSummary, scale_nodes
from probnet.predictive import DrawsMixture, StudentT

_NEGLIGIBLE = 1e-14  # weight of a node


@dataclass(frozen=True, eq=False)
class ScaleWeights:
    """p(σ² | y) in the form that makes the predictive law.

    Attributes:
        df: degrees of freedom of Student's t; `None` for the normal law.
        scales: factors of the variance, shape `(draws, nodes)`; one node for Student's t.
        weights: of draws and nodes, same shape; they sum to one.
    """

    df: float | None
    scales: Tensor
    weights: Tensor


def scale_weights(prior: ScalePrior, data: DataSummary, draw_weights: Tensor) -> ScaleWeights:
    """The posterior of σ² for every draw of the hyper-parameters.

    Args:
        prior: of σ².
        data: summaries with batch shape `(draws,)`.
        draw_weights: shape `(draws,)`, summing to one.
    """
    if isinstance(prior, InverseGamma):
        df = 2 * prior.concentration + data.count
        scales = (2 * prior.rate + data.quadratic) / df
        return ScaleWeights(df, scales[:, None], draw_weights[:, None])
    nodes = scale_nodes(prior, data)
    return ScaleWeights(None, nodes.u.exp(), nodes.log_weights.exp() * draw_weights[:, None])


def marginal_law(
    scale: ScaleWeights, mean: Tensor, variance: Tensor, spread: Tensor | None = None
) -> Distribution:
    """The law of each value by itself.

    Args:
        scale: posterior of σ², draws and nodes.
        mean: shape `(draws, *batch)`.
        variance: at σ = 1, broadcasting against `(kinds, draws, *batch)`; the leading axis has
            kinds of noise, one where noise is normal.
        spread: weights of the kinds of noise, summing to one.

    Returns:
        A distribution of batch shape `batch`.
    """
    kinds = torch.ones(1, dtype=mean.dtype) if spread is None else spread
    weights = kinds[:, None, None] * scale.weights
    scales = scale.scales.reshape(1, *scale.scales.shape, *(1 for _ in mean.shape[1:]))
    sd = (scales * variance.unsqueeze(2)).sqrt()
    full = torch.broadcast_shapes(sd.shape, (1, mean.shape[0], 1, *mean.shape[1:]))
    full = torch.Size((*weights.shape, *full[3:]))
    loc, sd = mean.unsqueeze(1).expand(full), sd.expand(full)
    if weights.numel() > 1:
        kept = weights > _NEGLIGIBLE * weights.max()
        return DrawsMixture(_law(scale.df, loc[kept], sd[kept]), weights=weights[kept])
    return _law(scale.df, loc[0, 0, 0], sd[0, 0, 0])


def joint_law(
    scale: ScaleWeights, mean: Sequence[Tensor], covariance: Sequence[Tensor], unit: Tensor
) -> Distribution:
    """The law of all points together, one σ² per draw.

    Args:
        scale: posterior of σ².
        mean: one `(*outputs, m)` per draw.
        covariance: at σ = 1, one `(m, m)` per draw.
        unit: standard deviation of each output in the user's units, `(*outputs,)`.

    Returns:
        A distribution of batch shape `outputs` and event shape `(m,)`.
    """
    factors = [jittered_cholesky(c) * unit[..., None, None] for c in covariance]
    kept = scale.weights > _NEGLIGIBLE * scale.weights.max()
    draw, node = kept.nonzero(as_tuple=True)
    loc = torch.stack([mean[i] for i in draw.tolist()])
    roots = scale.scales[draw, node].sqrt()
    tril = torch.stack(
        [root * factors[i] for i, root in zip(draw.tolist(), roots, strict=True)]
    )
    if scale.df is None:
        law: Any = MultivariateNormal(loc, scale_tril=tril, validate_args=False)
    else:
        df = torch.full(loc.shape[:-1], scale.df, dtype=loc.dtype)
        law = MultivariateStudentT(df, loc, tril, validate_args=False)
    if len(loc) > 1:
        return DrawsMixture(law, weights=scale.weights[kept])
    return _first(law)


def _law(df: float | None, loc: Tensor, sd: Tensor) -> Distribution:
    if df is None:
        return Normal(loc, sd, validate_args=False)
    return StudentT(torch.full_like(loc, df), loc, sd, validate_args=False)


def _first(law: Any) -> Distribution:
    """The law without its leading batch axis, which has one entry."""
    if isinstance(law, MultivariateNormal):
        return MultivariateNormal(law.loc[0], scale_tril=law.scale_tril[0], validate_args=False)
    return MultivariateStudentT(law.df[0], law.loc[0], law.scale_tril[0], validate_args=False)
