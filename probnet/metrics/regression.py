"""Scores of real-valued predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import scoringrules
from scipy.special import logsumexp

from probnet._checks import Values, as_array, check_all_positive
from probnet.metrics._inputs import axis_number, draws_last, finite, matching, truth_and

_MAX_PAIRS = 4_000_000  # pairs of components handled at once: about 300 MB of temporaries


def rmse(y: Values, mean: Values) -> float:
    """Root mean squared error of a point prediction, in the units of y.

    Args:
        y: the truth, any shape.
        mean: the prediction, same shape.
    """
    truth, prediction = truth_and("mean", y, mean)
    return float(np.sqrt(np.mean((truth - prediction) ** 2)))


def relative_l2(y: Values, prediction: Values, *, case_axis: int | None = None) -> float:
    """Relative error ‖y - prediction‖₂ / ‖y‖₂ of a field.

    Args:
        y: the true field, any shape.
        prediction: same shape.
        case_axis: axis along which independent fields are stacked; the mean of their relative
            errors is returned. `None`: the whole array is one field.

    Raises:
        ValueError: if a true field is zero everywhere.
    """
    truth, predicted = truth_and("prediction", y, prediction)
    if case_axis is None:
        truth, predicted = truth[None], predicted[None]
    else:
        axis = axis_number("case_axis", case_axis, truth.ndim)
        truth, predicted = np.moveaxis(truth, axis, 0), np.moveaxis(predicted, axis, 0)
    size = np.linalg.norm(truth.reshape(len(truth), -1), axis=1)
    if not size.all():
        raise ValueError(
            f"`y` must not be zero everywhere, since the error is divided by its norm; field "
            f"{int((size == 0).argmax())} is. Use `rmse` there."
        )
    error = np.linalg.norm((truth - predicted).reshape(len(truth), -1), axis=1)
    return float(np.mean(error / size))


def nll_gaussian(y: Values, mean: Values, variance: Values) -> float:
    """Mean negative log density of N(mean, variance) at y, in nats per value.

    For a mixture over draws this is the score of its moment-matched Gaussian; `nll_mixture`
    is that of the mixture itself.

    Args:
        y: the truth, any shape.
        mean: predictive mean, same shape.
        variance: predictive variance with the observation noise in it, same shape; > 0.
    """
    truth, mu = truth_and("mean", y, mean)
    var = check_all_positive("variance", matching("variance", variance, truth))
    return float(np.mean(0.5 * (np.log(2 * np.pi * var) + (truth - mu) ** 2 / var)))


def nll_mixture(log_prob: Values, *, draw_axis: int | tuple[int, ...] = 0) -> float:
    """Mean negative log density of an equally weighted mixture: -mean log (1/S) Σ_s p_s(y).

    Args:
        log_prob: log p_s(y_i) under each posterior draw s; any shape with the draws along
            `draw_axis`. A value of -inf (a draw that excludes y_i) is allowed.
        draw_axis: axis of the draws, or several such as `(0, 1)` for chains and draws.

    Raises:
        ValueError: on NaN or +inf, or if no axis of cases is left.
    """
    logs = as_array("log_prob", log_prob)
    bad = np.isnan(logs) | (logs == np.inf)
    if bad.any() or not logs.size:
        raise ValueError(
            f"`log_prob` must hold log densities; {int(bad.sum())} of {logs.size} entries are "
            f"NaN or +inf."
        )
    given = draw_axis if isinstance(draw_axis, tuple) else (draw_axis,)
    axes = tuple(axis_number("draw_axis", axis, logs.ndim) for axis in given)
    num_draws = np.prod([logs.shape[axis] for axis in axes])
    return float(np.mean(np.log(num_draws) - logsumexp(logs, axis=axes)))


def crps_gaussian(y: Values, mean: Values, sd: Values) -> float:
    """Mean continuous ranked probability score of N(mean, sd²), in the units of y.

    Args:
        y: the truth, any shape.
        mean: predictive mean, same shape.
        sd: predictive standard deviation with the observation noise in it, same shape; > 0.
    """
    truth, mu = truth_and("mean", y, mean)
    sigma = check_all_positive("sd", matching("sd", sd, truth))
    return float(np.mean(scoringrules.crps_normal(truth, mu, sigma, backend="numpy")))


def crps_ensemble(y: Values, draws: Values, *, draw_axis: int = 0) -> float:
    """Mean CRPS of the empirical law of predictive draws, in the units of y.

    With S draws it exceeds that of the law they came from, on average by the mean distance
    between two draws divided by 2S.

    Args:
        y: the truth, any shape.
        draws: draws of y (noise included), the shape of y with one more axis.
        draw_axis: where that axis is.
    """
    truth = finite("y", y)
    ensemble = draws_last("draws", draws, draw_axis, truth)
    ensemble_score: Any = scoringrules.crps_ensemble  # its types hang on what else is installed
    return float(np.mean(ensemble_score(truth, ensemble, backend="numpy")))


def crps_mixture(y: Values, means: Values, sds: Values, *, draw_axis: int = 0) -> float:
    """Mean CRPS of an equally weighted mixture of normals, exact, in the units of y.

    The cost per case is quadratic in the number of draws: thin to some hundreds first, or
    score draws of the predictive law with `crps_ensemble`.

    Args:
        y: the truth, any shape.
        means: mean under each posterior draw, the shape of y with one more axis.
        sds: standard deviation under each draw (noise included), same shape; > 0.
        draw_axis: where that axis is.

    Raises:
        ValueError: beyond 2000 draws.
    """
    truth = finite("y", y)
    mu = draws_last("means", means, draw_axis, truth)
    sigma = check_all_positive("sds", draws_last("sds", sds, draw_axis, truth))
    num_draws = mu.shape[-1]
    if num_draws**2 > _MAX_PAIRS:
        raise ValueError(
            f"`means` holds {num_draws} draws, {num_draws**2:.1e} pairs per case; at most "
            f"{int(_MAX_PAIRS**0.5)} draws are allowed. Thin them, or pass draws of the "
            f"predictive law to `crps_ensemble`."
        )
    flat, mu, sigma = truth.ravel(), mu.reshape(-1, num_draws), sigma.reshape(-1, num_draws)
    weights = np.full(num_draws, 1 / num_draws)
    block = _MAX_PAIRS // num_draws**2
    total = 0.0
    for start in range(0, flat.size, block):
        rows = slice(start, start + block)
        scores = scoringrules.crps_mixnorm(
            flat[rows], mu[rows], sigma[rows], weights, backend="numpy"
        )
        total += float(np.sum(scores))
    return total / flat.size
