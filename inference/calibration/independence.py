"""How many independent draws the draws of one data set count for."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from inference.errors import warn

_BATCHES = 4  # that a lone chain is cut into
_MIN_BATCH = 3  # fewer could not count for less than half their number


def effective_samples(draws: np.ndarray) -> np.ndarray:
    """Mean effective sample size of a data set's draws, all chains together.

    σ²/Var(mean of a chain), both pooled over all data sets, which makes it exact for chains
    however short; a lone chain is cut into four. Draws are replaced by their ranks within a
    data set, so that heavy tails do no harm.

    Args:
        draws: shape (replication, chain, draw, *shape).

    Returns:
        Shape `shape`; NaN where a lone chain has under twelve draws.
    """
    count, chains, length = draws.shape[:3]
    shape = draws.shape[3:]
    flat = draws.reshape(count, chains * length, *shape)
    ranks = flat.argsort(1).argsort(1).reshape(draws.shape)
    size = length
    if chains == 1:
        size = length // _BATCHES
        if size < _MIN_BATCH:
            return np.full(shape, np.nan)
        ranks = ranks[:, 0, : size * _BATCHES].reshape(count, _BATCHES, size, *shape)
    of_means = ranks.mean(2).var(1, ddof=1).mean(0)
    of_draws = ranks.var(2).mean((0, 1)) + of_means
    return chains * length * of_draws / (of_means * size)


def check_independence(draws: Mapping[str, np.ndarray], thin: int) -> None:
    """Warn if some parameter's draws count for less than half their number."""
    found = {name: float(np.min(effective_samples(a))) for name, a in draws.items()}
    slowest = min(found, key=lambda name: found[name])
    chains, length = draws[slowest].shape[1:3]
    total, lowest = chains * length, found[slowest]
    if lowest < total / 2:
        warn(
            f"the {total} draws of {slowest!r} count for {lowest:.0f} independent ones, so "
            "ranks are not uniform even if the sampler is exact. Raise `thin` to about "
            f"{thin * math.ceil(total / max(lowest, 1))}."
        )
