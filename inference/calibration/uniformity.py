"""Whether ranks are uniform: two tests, coverage of intervals, and bands for a plot."""
# pyright: basic
# SciPy is only partly typed.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

TESTS = ("chi2", "ks")
LEVELS = (0.5, 0.8, 0.9, 0.95)

_BINS = 20
_MIN_EXPECTED = 5  # ranks per bin, below which chi-squared is no law of the statistic
_SIMULATIONS = 4000


def uniformity_p_values(ranks: np.ndarray, num_samples: int) -> np.ndarray:
    """p-values of χ² on 20 bins and of Kolmogorov and Smirnov, shape (2, *shape).

    Fewer bins are taken where 20 would expect under five ranks each. The KS distance is taken
    on the grid of possible ranks; there the continuous law is an upper bound, never anti-
    conservative.

    Args:
        ranks: integers in 0, ..., num_samples, shape (replication, *shape).
        num_samples: number of draws among which the truth was ranked.
    """
    count, shape, points = len(ranks), ranks.shape[1:], num_samples + 1
    columns = ranks.reshape(count, -1)
    width = columns.shape[1]
    own = columns + points * np.arange(width)
    frequency = np.bincount(own.ravel(), minlength=points * width).reshape(width, points)
    bins = max(2, min(_BINS, points, count // _MIN_EXPECTED))
    edges = -(-np.arange(bins) * points // bins)
    observed = np.add.reduceat(frequency, edges, axis=1)
    expected = np.diff(np.append(edges, points)) * count / points
    grid = np.arange(1, points + 1) / points
    distance = np.abs(np.cumsum(frequency, axis=1) / count - grid).max(1)
    chi2 = stats.chisquare(observed, expected[None], axis=1).pvalue
    return np.stack([chi2, stats.kstwo.sf(distance, count)]).reshape(len(TESTS), *shape)


def central_coverage(
    ranks: np.ndarray, num_samples: int, levels: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Share of truths inside central intervals, shape (level, *shape).

    A truth of rank r lies anywhere in [r, r + 1]/(num_samples + 1) of the posterior's
    distribution function; the part of that inside the interval counts, so that a calibrated
    sampler covers exactly its level in expectation, whatever the number of draws.
    """
    low = ranks / (num_samples + 1)
    high = (ranks + 1) / (num_samples + 1)
    shares = [
        np.clip(np.minimum(high, (1 + p) / 2) - np.maximum(low, (1 - p) / 2), 0, None)
        for p in levels
    ]
    return np.stack(shares).mean(1) * (num_samples + 1)


def ecdf_bands(
    num_replications: int, num_samples: int, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grid, lower and upper band that hold the whole ECDF of uniform ranks with `level`.

    Pointwise binomial intervals, widened until the share `level` of simulated uniform ranks
    stays inside everywhere. Source: Säilynoja, Bürkner & Vehtari (Statistics and Computing
    2022), section 2.2.

    Args:
        num_replications: number of ranks.
        num_samples: ranks go from 0 to this.
        level: probability that the ECDF of uniform ranks lies between the bands everywhere.
    """
    points = num_samples + 1
    grid = np.arange(1, points) / points
    generator = np.random.default_rng(0)
    frequency = generator.multinomial(
        num_replications, np.full(points, 1 / points), size=_SIMULATIONS
    )
    counts = np.cumsum(frequency, axis=1)[:, :-1]
    law = stats.binom(num_replications, grid)
    below = law.cdf(np.arange(num_replications + 1)[:, None])
    columns = np.arange(points - 1)
    lower = below[counts, columns]
    upper = 1 - np.where(counts > 0, below[counts - 1, columns], 0.0)
    gamma = np.quantile(2 * np.minimum(lower, upper).min(1), 1 - level)
    return (
        grid,
        law.ppf(gamma / 2) / num_replications,
        law.ppf(1 - gamma / 2) / num_replications,
    )
