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
    count, shape = len(ranks), ranks.shape[1:]
    columns = ranks.reshape(count, -1)
    bins = max(2, min(_BINS, num_samples + 1, count // _MIN_EXPECTED))
    bin_of = np.arange(num_samples + 1) * bins // (num_samples + 1)
    expected = np.bincount(bin_of, minlength=bins) * count / (num_samples + 1)
    grid = np.arange(1, num_samples + 2) / (num_samples + 1)
    found = np.empty((len(TESTS), columns.shape[1]))
    for column in range(columns.shape[1]):
        frequency = np.bincount(columns[:, column], minlength=num_samples + 1)
        observed = np.bincount(bin_of, weights=frequency, minlength=bins)
        distance = np.abs(np.cumsum(frequency) / count - grid).max()
        found[:, column] = (
            stats.chisquare(observed, expected).pvalue,
            stats.kstwo.sf(distance, count),
        )
    return found.reshape(len(TESTS), *shape)


def central_coverage(
    ranks: np.ndarray, num_samples: int, levels: Sequence[float]
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
