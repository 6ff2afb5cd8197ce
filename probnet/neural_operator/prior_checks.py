"""Do inputs of the prior look like the data? Statistics that a point error cannot see."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def volume_fraction(phases: Tensor) -> Tensor:
    """The share of nodes in phase 1, `(B,)`, of phases `(B, *grid)` in {0, 1}."""
    return phases.double().flatten(1).mean(-1)


def interface_length(phases: Tensor) -> Tensor:
    """Length of the phases' interface on the unit square, `(B,)`, of `(B, n1, n2)`.

    Edges between neighbours of different phases, each as long as the cell face it crosses. A
    slanted line is counted along both axes: compare such lengths only with each other.
    """
    values = phases.double()
    rows = values.diff(dim=-2).abs().sum((-2, -1)) / (phases.shape[-1] - 1)
    columns = values.diff(dim=-1).abs().sum((-2, -1)) / (phases.shape[-2] - 1)
    return rows + columns


def two_point_correlation(fields: Tensor, max_lag: int) -> Tensor:
    """Correlation of values at lags 0 to `max_lag` along the axes, averaged, `(max_lag + 1,)`.

    Args:
        fields: `(B, *grid)`; mean and variance are those of all values.
        max_lag: in nodes, below every axis' length.
    """
    values = fields.double()
    centred = values - values.mean()
    variance = centred.square().mean()
    found = [torch.ones((), dtype=torch.float64)]
    for lag in range(1, max_lag + 1):
        products: list[Tensor] = []
        for axis in range(1, fields.ndim):
            count = fields.shape[axis] - lag
            left, right = centred.narrow(axis, 0, count), centred.narrow(axis, lag, count)
            products.append((left * right).mean())
        found.append(torch.stack(products).mean() / variance)
    return torch.stack(found)


def compare_inputs(drawn: Tensor, data: Tensor, threshold: float | None) -> dict[str, float]:
    """Distances between inputs of the prior and of the data, both `(B, *grid)`.

    Args:
        drawn: of the prior.
        data: that the model was not trained on.
        threshold: between two phases; None for continuous inputs.

    Returns:
        `correlation_error`, the largest difference of the two-point correlations up to half
        the grid; means over both sets and standardised differences `z` of `volume_fraction`
        and, on two axes, `interface_length` for phases, of `mean` and `sd` of the values
        otherwise.
    """
    max_lag = min(drawn.shape[1:]) // 2
    gap = two_point_correlation(drawn, max_lag) - two_point_correlation(data, max_lag)
    found = {"correlation_error": float(gap.abs().max())}
    for name, values in _statistics(drawn, threshold).items():
        theirs = _statistics(data, threshold)[name]
        spread = (values.var() / len(values) + theirs.var() / len(theirs)).sqrt()
        difference = float(values.mean() - theirs.mean())
        found[f"{name}_prior"] = float(values.mean())
        found[f"{name}_data"] = float(theirs.mean())
        found[f"{name}_z"] = difference / max(float(spread), np.finfo(float).tiny)
    return found


def _statistics(fields: Tensor, threshold: float | None) -> dict[str, Tensor]:
    if threshold is None:
        flat = fields.double().flatten(1)
        return {"mean": flat.mean(-1), "sd": flat.std(-1)}
    phases = fields > threshold
    found = {"volume_fraction": volume_fraction(phases)}
    if fields.ndim == 3:
        found["interface_length"] = interface_length(phases)
    return found
