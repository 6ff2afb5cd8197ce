"""How far a process's functions are from those of the exact posterior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inference.rng import Stream, generator
from probnet.linalg import gaussian_w2

NUM_POINTS = 50
NUM_FUNCTIONS = 200


@torch.no_grad()
def function_distances(
    posterior: Any, exact: Any, x: Tensor, *, seed: int
) -> dict[str, Tensor]:
    r"""Gaussian 2-Wasserstein distances to the exact posterior of f at points, for every task.

    W₂² = ‖m - m̂‖² + tr(S + Ŝ - 2(S^½ Ŝ S^½)^½) of means and covariances, divided by the number
    of points, so that W₂ is an error per point in the units of y.

    Args:
        posterior: of a process that draws functions, conditioned on B tasks.
        exact: of an oracle, conditioned on the same tasks.
        x: points `(m, 1)`.
        seed: of the functions.

    Returns:
        `function_w2`, of 200 functions of the process, and `function_w2_exact`, of as many
        of the Gaussian with the exact moments: what a perfect process would have. Shape
        `(B,)` each.
    """
    found = posterior.sample_functions(x, NUM_FUNCTIONS, seed=seed)[..., 0].double()
    mean, covariance = exact.moments(x.expand(found.shape[1], *x.shape))
    values, vectors = torch.linalg.eigh(covariance)
    factor = vectors * values.clamp_min(0).sqrt()[..., None, :]
    stream = generator(seed, Stream.PREDICTIVE, 2, device=x.device)
    noise = torch.randn(found.shape, generator=stream, dtype=torch.float64, device=x.device)
    truth = mean + (factor @ noise[..., None])[..., 0]

    def distance(functions: Tensor) -> Tensor:
        own_mean, own = _moments(functions)
        squared = (own_mean - mean).square().sum(-1) + gaussian_w2(own, factor)
        return (squared.clamp_min(0) / len(x)).sqrt()

    return {"function_w2": distance(found), "function_w2_exact": distance(truth)}


def _moments(functions: Tensor) -> tuple[Tensor, Tensor]:
    """Means (B, m) and covariances (B, m, m) of functions (S, B, m)."""
    mean = functions.mean(0)
    centred = (functions - mean).transpose(0, 1)
    return mean, centred.mT @ centred / (len(functions) - 1)
