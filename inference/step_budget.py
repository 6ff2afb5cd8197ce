"""The step and friction that mix fastest within a budget of bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from inference.linear_theory import LinearStep, Prediction, predict

Array = np.ndarray

StepOf = Callable[[Array, Array, Array, Array], LinearStep]
"""`(eigenvalues, step size, friction, gradient variance) -> one step in each direction`."""

_DIRECTIONS = 32
_GRID = 24
_ZOOMS = 4
_SMALLEST = 1e-5
_SMALL_STEPS = 0.02


class Choice(NamedTuple):
    """A step size and a friction, with what they do along every direction."""

    step_size: float
    friction: float
    prediction: Prediction


def choose(
    step_of: StepOf,
    eigenvalues: Array,
    gradient_variance: Array,
    *,
    largest_step: float,
    largest_decay: float,
    bias: float,
    shares: Array | None = None,
    steps_per_epoch: float | None = None,
) -> Choice:
    """Minimise the longest autocorrelation time over all directions.

    The stationary variance may be off by `bias` in no direction, or with `shares` for no
    combination of them. A search on a grid of
    (ε, aε), refined around its best point; of steps that mix alike the smaller is taken.

    Args:
        step_of: the sampler on a quadratic.
        eigenvalues: curvatures, ascending, shape (k,).
        gradient_variance: along each eigenvector, shape (k,).
        largest_step: bound of ε.
        largest_decay: bound of aε.
        bias: largest relative error of a variance.
        shares: of every direction in the variances that count, rows that sum to one,
            (parameters, k); None: each direction's own.
        steps_per_epoch: as `predict` takes it.

    Raises:
        ValueError: if no step, however small, keeps to the budget.
    """
    values, variances = eigenvalues, gradient_variance
    if shares is None:
        some = _representatives(eigenvalues, gradient_variance)
        values, variances = eigenvalues[some], gradient_variance[some]
    low = np.log([largest_step * _SMALLEST, largest_decay * _SMALLEST])
    high = np.log([largest_step, largest_decay])
    best = np.array([np.nan, np.nan])
    lower, upper = low, high
    for _ in range(_ZOOMS):
        axes = [np.linspace(lower[i], upper[i], _GRID) for i in range(2)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        score = _score(step_of, values, variances, np.exp(grid), bias, shares, steps_per_epoch)
        score *= 1 + _SMALL_STEPS * np.exp(2 * (grid[:, 0] - high[0]))
        if not np.isfinite(score).any():
            break
        best = grid[score.argmin()]
        width = 1.5 * (upper - lower) / (_GRID - 1)
        lower, upper = np.maximum(best - width, low), np.minimum(best + width, high)
    if np.isnan(best).any():
        raise ValueError(
            f"no step size keeps the bias of every variance below `bias`={bias:g}: the "
            "minibatch gradient is too noisy. Raise `batch_size`, use control variates, or "
            "allow a larger `bias`."
        )
    step_size, decay = np.exp(best)
    friction = decay / step_size
    step = step_of(eigenvalues, step_size, friction, gradient_variance)
    prediction = predict(step, eigenvalues, gradient_variance, steps_per_epoch)
    return Choice(float(step_size), float(friction), prediction)


def _score(
    step_of: StepOf,
    eigenvalues: Array,
    gradient_variance: Array,
    grid: Array,
    bias: float,
    shares: Array | None,
    steps_per_epoch: float | None,
) -> Array:
    """Longest autocorrelation time at every (ε, aε), infinite outside the budget."""
    step_size, decay = grid[:, :1], grid[:, 1:]
    step = step_of(eigenvalues, step_size, decay / step_size, gradient_variance)
    found = predict(step, eigenvalues, gradient_variance, steps_per_epoch)
    longest = found.autocorrelation.max(-1)
    stable = np.isfinite(longest)
    inflation = np.where(stable[:, None], found.inflation, 0.0)
    error = inflation if shares is None else inflation @ shares.T
    within = stable & (np.abs(error) <= bias).all(-1)
    return np.where(within, longest, np.inf)


def _representatives(eigenvalues: Array, gradient_variance: Array) -> Array:
    """Numbers of directions that stand for all: quantiles, both ends, and the noisiest."""
    spread = np.linspace(0, len(eigenvalues) - 1, _DIRECTIONS).round().astype(int)
    return np.unique(np.append(spread, gradient_variance.argmax()))
