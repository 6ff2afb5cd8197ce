"""Hyper-parameters integrated out: Laplace with Pareto-smoothed weights, or NUTS.

The proposal around the mode is a split Student's t: either side of each axis has the width that
the target has there, since features that matter little leave a long tail of small scales.

The target is the evidence with σ² integrated analytically times the priors of the
hyper-parameters.

Source: Geweke (Econometrica 1989) for the split t; Vehtari et al. (JMLR 2024) for the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

import inference
from inference.diagnostics import pareto_smoothed
from inference.errors import LinAlgError, warn
from inference.rng import Stream, generator
from probnet.nngp.objective import Maximum, Objective
from probnet.nngp.proposals import FittedT, Proposal, SplitT

_STEP = 1e-3  # of the central differences of the gradient
_LIMIT = 0.7
_NEGLIGIBLE = 1e-3  # of the largest weight: such draws are not kept
_DISTANCES = (1.0, 2.0, 4.0)
_WIDEST = 5.0


@dataclass(frozen=True, eq=False)
class HyperDraws:
    """Draws of the hyper-parameters.

    Attributes:
        vectors: shape `(draws, p)`.
        weights: normalised, shape `(draws,)`.
        diagnostics: JSON-able.
        log_evidence: ln p(y), hyper-parameters integrated out; `None` from NUTS.
        draws: of NUTS, with its statistics.
    """

    vectors: Tensor
    weights: Tensor
    diagnostics: dict[str, Any]
    log_evidence: float | None = None
    draws: inference.Draws | None = None


def laplace_draws(
    objective: Objective, mode: Maximum, *, num_draws: int, seed: int, progress: bool = True
) -> HyperDraws:
    """Importance sampling from Student's t around the mode, weights Pareto-smoothed.

    The k-hat of the weights says whether they can be trusted; above 0.7 a warning is given.
    """
    root = _covariance_root(objective, mode.vector)
    widths = _widths(objective, mode, root)
    noise = generator(seed, Stream.NOISE)
    first = SplitT(mode.vector, root, widths)
    proposals: list[Proposal] = [first]
    counts = [num_draws // 2, num_draws - num_draws // 2]
    vectors = np.empty((0, len(root)))
    values = np.empty(0)
    bar = tqdm(total=num_draws, desc="laplace", disable=None if progress else True)
    for count in counts:
        if len(values):
            log_density = first.log_density(vectors)
            proposals.append(FittedT.to(vectors, values - log_density, first))
        new = proposals[-1].draw(count, noise)
        found_values: list[float] = []
        for vector in new:
            found_values.append(_value(objective, vector))
            bar.update()
        vectors, values = np.concatenate([vectors, new]), np.append(values, found_values)
    bar.close()
    shares = np.log(np.array(counts) / num_draws)
    log_density = np.logaddexp.reduce(
        [share + p.log_density(vectors) for share, p in zip(shares, proposals, strict=True)]
    )
    alive = np.isfinite(values)
    log_weights = values[alive] - log_density[alive]
    smoothed, k = pareto_smoothed(log_weights)
    weights = np.exp(smoothed - smoothed.max())
    weights /= weights.sum()
    if not k <= _LIMIT:
        warn(
            f"PSIS k-hat is {k:.2f} > {_LIMIT}: the posterior of the hyper-parameters is far "
            "from the Laplace approximation, and its weights are noisy. method='nuts' is exact."
        )
    evidence = np.logaddexp.reduce(log_weights) - math.log(num_draws)
    found = {
        "pareto_k": float(k),
        "importance_ess": float(1 / (weights**2).sum()),
        "num_draws": int(alive.sum()),
    }
    kept = weights > _NEGLIGIBLE * weights.max()
    vectors, weights = vectors[alive][kept], weights[kept] / weights[kept].sum()
    return HyperDraws(
        torch.from_numpy(vectors),
        torch.from_numpy(weights),
        found,
        log_evidence=float(evidence),
    )


def nuts_draws(
    objective: Objective,
    mode: Maximum,
    *,
    seed: int,
    num_chains: int = 2,
    num_warmup: int = 200,
    num_samples: int = 200,
    thin: int = 1,
    progress: bool = True,
) -> HyperDraws:
    """NUTS in coordinates whitened by the curvature at the mode, started near it."""
    root = torch.from_numpy(_covariance_root(objective, mode.vector))
    center = torch.from_numpy(np.asarray(mode.vector))

    def log_density(parameters: dict[str, Tensor]) -> Tensor:
        return objective.at(center + root @ parameters["z"])

    noise = generator(seed, Stream.INIT)
    starts = 0.5 * torch.randn(num_chains, len(center), generator=noise, dtype=torch.float64)
    draws = inference.sample(
        inference.LogDensity(
            log_density=log_density, scale="sum", params={"z": torch.zeros_like(center)}
        ),
        method="nuts",
        num_chains=num_chains,
        num_warmup=num_warmup,
        num_samples=num_samples,
        thin=thin,
        seed=seed,
        init={"z": starts},
        chain_method="sequential",
        progress=progress,
        max_tree_depth=6,
    )
    z = torch.from_numpy(np.array(draws.draws["z"]))
    found: dict[str, Any] = {
        "min_ess": float(np.min(inference.diagnostics.ess(draws.draws["z"]))),
        "num_divergences": int(np.sum(draws.sample_stats["diverging"])),
    }
    if num_chains > 1:
        found["max_rhat"] = float(np.max(inference.diagnostics.rhat(draws.draws["z"])))
    vectors = (center + z @ root.T).flatten(0, 1)
    equal = torch.full((len(vectors),), 1 / len(vectors), dtype=torch.float64)
    return HyperDraws(vectors, equal, found, draws=draws)


def _covariance_root(objective: Objective, mode: NDArray[np.float64]) -> NDArray[np.float64]:
    """R with R Rᵀ the inverse of the curvature at the mode, bounded by the prior's spread."""
    size = len(mode)
    curvature = np.empty((size, size))
    for i in range(size):
        step = _STEP * np.eye(size)[i]
        ahead, behind = (
            objective.value_and_gradient(mode + sign * step, profile=False)[1]
            for sign in (1, -1)
        )
        curvature[i] = -(ahead - behind) / (2 * _STEP)
    # In units of the prior's standard deviations a curvature below one is noise or a mode at
    # a bound: no direction is less certain than a priori.
    sd = objective.hyper.prior_sd()
    values, vectors = np.linalg.eigh(sd[:, None] * (curvature + curvature.T) / 2 * sd)
    # The symmetric root stays closest to the coordinates themselves.
    return sd[:, None] * (vectors / np.sqrt(np.maximum(values, 1.0))) @ vectors.T


def _value(objective: Objective, vector: NDArray[np.float64]) -> float:
    """The target's log density, minus infinity where the covariance is singular."""
    objective.hyper.assign(torch.from_numpy(vector))
    try:
        with torch.no_grad():
            return float(objective.integrated())
    except LinAlgError:
        return -math.inf


def _widths(
    objective: Objective, mode: Maximum, root: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Width of the target on either side of every axis, in standard deviations, `(2, p)`."""
    found = np.ones((2, len(root)))
    for side, axis in np.ndindex(found.shape):
        for distance in _DISTANCES:
            step = (1 if side else -1) * distance * root[:, axis]
            drop = mode.value - _value(objective, mode.vector + step)
            width = distance / math.sqrt(2 * max(drop, 1e-3))
            found[side, axis] = max(found[side, axis], width)
    return np.clip(found, 1.0, _WIDEST)
