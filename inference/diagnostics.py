"""Convergence figures of arrays of draws, computed by whichever ArviZ is installed."""
# pyright: basic
# ArviZ is only partly typed.

from __future__ import annotations

import numpy as np

_NO_TAIL = 1e-6  # below this the largest log weights differ by rounding


def ess(values: np.ndarray) -> np.ndarray:
    """Bulk effective sample size of draws `(chain, draw, *shape)`, shape `shape`."""
    return _per_scalar(values, "ess")


def rhat(values: np.ndarray) -> np.ndarray:
    """Rank-normalised split R-hat of draws `(chain, draw, *shape)`, shape `shape`."""
    return _per_scalar(values, "rhat")


def pareto_k(log_weights: np.ndarray) -> float:
    """PSIS k-hat of importance log weights (count,); 0 where the largest are all equal.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry (JMLR 2024).
    """
    return pareto_smoothed(log_weights)[1]


def pareto_smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed importance log weights (count,), normalised, and their PSIS k-hat.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry (JMLR 2024).
    """
    if not np.isfinite(log_weights).all():
        return log_weights, float("inf")
    normalised = log_weights - np.logaddexp.reduce(log_weights)
    length = int(min(0.2 * len(log_weights), 3 * len(log_weights) ** 0.5)) + 1
    if np.ptp(np.sort(log_weights)[-length:]) < _NO_TAIL:
        return normalised, 0.0
    if _major() >= 1:
        from arviz_stats.base.array import array_stats

        smoothed, k = array_stats.psislw(-log_weights)
    else:
        import arviz

        smoothed, k = arviz.psislw(log_weights)
    return np.asarray(smoothed), float(k)


def _per_scalar(values: np.ndarray, name: str) -> np.ndarray:
    shape = values.shape[2:]
    columns = values.reshape(*values.shape[:2], -1)
    if _major() >= 1:
        from arviz_stats.base.array import array_stats

        function = getattr(array_stats, name)
        found = function(columns, chain_axis=0, draw_axis=1)
        return np.asarray(found).reshape(shape)
    import arviz

    function = getattr(arviz, name)
    return np.array(
        [float(function(columns[..., i])) for i in range(columns.shape[-1])]
    ).reshape(shape)


def _major() -> int:
    import arviz

    return int(arviz.__version__.split(".")[0])
