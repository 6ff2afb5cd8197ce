"""Are predictive probabilities observed as often as they say? For real-valued targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from inference.rng import Stream, generator
from probnet._checks import Values, check_levels, check_shape
from probnet.metrics._inputs import axis_number, draws_last, finite

_LEVELS = (0.5, 0.8, 0.95)
_DECILES = tuple(j / 10 for j in range(1, 10))


def pit(
    y: Values, forecast: Distribution | Values, *, draw_axis: int = 0, seed: int | None = None
) -> NDArray[np.float64]:
    """Probability integral transform F(y); uniform on (0, 1) if the forecast is calibrated.

    Of S draws, r of them below y and t equal to it, it is (r + u (t + 1)) / (S + 1).

    Args:
        y: the truth, any shape.
        forecast: a distribution with a `cdf` and the batch shape of y, or draws of y.
        draw_axis: where the draws lie, if these were given.
        seed: for draws, u is uniform, so that the PIT of a calibrated forecast is exactly
            uniform, counts and other ties included. `None` takes u = 1/2. A distribution
            needs neither.

    Returns:
        Values in [0, 1], the shape of y.

    Raises:
        ValueError: if the shapes do not match.
        TypeError: if the distribution has no `cdf`.
    """
    truth = finite("y", y)
    if isinstance(forecast, Distribution):
        _check_batch(forecast, truth.shape)
        return _call(forecast, forecast.cdf, torch.from_numpy(truth))
    draws = draws_last("forecast", forecast, draw_axis, truth)
    below = (draws < truth[..., None]).sum(-1)
    ties = (draws == truth[..., None]).sum(-1)
    u = 0.5
    if seed is not None:
        stream = generator(seed, Stream.PREDICTIVE)
        u = torch.rand(truth.shape, generator=stream, dtype=torch.float64).numpy()
    return (below + u * (ties + 1)) / (draws.shape[-1] + 1)


def central_interval(
    forecast: Distribution | Values, level: float, *, draw_axis: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper end of the interval that leaves (1 - level) / 2 on each side.

    Args:
        forecast: a distribution with an `icdf`, or draws, whose quantiles are interpolated
            linearly.
        level: probability inside, in (0, 1).
        draw_axis: where the draws lie, if these were given.

    Raises:
        TypeError: if the distribution has no `icdf`.
    """
    (checked,) = check_levels("level", [level])
    tails = (1 - checked) / 2, (1 + checked) / 2
    if isinstance(forecast, Distribution):
        probabilities = (torch.tensor(p, dtype=torch.float64) for p in tails)
        lower, upper = (_call(forecast, forecast.icdf, p) for p in probabilities)
    else:
        draws = finite("forecast", forecast)
        axis = axis_number("draw_axis", draw_axis, draws.ndim)
        lower, upper = np.quantile(draws, tails, axis=axis)
    return lower, upper


def interval_coverage(
    y: Values,
    forecast: Distribution | Values,
    levels: Sequence[float] = _LEVELS,
    *,
    draw_axis: int = 0,
) -> NDArray[np.float64]:
    """Share of the truth inside its central interval, for each level.

    Args:
        y: the truth, any shape.
        forecast: as for `central_interval`, of the shape of y.
        levels: each in (0, 1).
        draw_axis: where the draws lie, if these were given.

    Returns:
        One share per level; equal to the levels, up to sampling error, if calibrated.
    """
    truth = finite("y", y)
    if isinstance(forecast, Distribution):
        _check_batch(forecast, truth.shape)
    else:
        forecast, draw_axis = draws_last("forecast", forecast, draw_axis, truth), -1
    shares: list[float] = []
    for level in levels:
        lower, upper = central_interval(forecast, level, draw_axis=draw_axis)
        shares.append(float(np.mean((lower <= truth) & (truth <= upper))))
    return np.array(shares)


def interval_width(
    forecast: Distribution | Values, levels: Sequence[float] = _LEVELS, *, draw_axis: int = 0
) -> NDArray[np.float64]:
    """Mean width of the central intervals, one per level, in the units of y (sharpness)."""
    widths: list[float] = []
    for level in levels:
        lower, upper = central_interval(forecast, level, draw_axis=draw_axis)
        widths.append(float(np.mean(upper - lower)))
    return np.array(widths)


def calibration_curve(
    pit_values: Values, levels: Sequence[float] = _DECILES
) -> NDArray[np.float64]:
    """Share of cases whose predictive CDF at the truth is at most p, for each level p.

    Args:
        pit_values: result of `pit`, in [0, 1].
        levels: each in (0, 1).

    Returns:
        One share per level; equal to the levels, up to sampling error, if calibrated.
    """
    values = finite("pit_values", pit_values)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"`pit_values` must lie in [0, 1]; got values from {values.min():.4g} to "
            f"{values.max():.4g}. Pass the result of `pit`, not the targets."
        )
    return np.array([float(np.mean(values <= p)) for p in check_levels("levels", levels)])


def regression_calibration_error(pit_values: Values) -> float:
    """Sum over the deciles of (p - share of cases with predictive CDF at most p)².

    Source: Kuleshov, Fenner & Ermon (ICML 2018), with equal weights.

    Args:
        pit_values: result of `pit`, in [0, 1].
    """
    return float(np.sum((np.array(_DECILES) - calibration_curve(pit_values)) ** 2))


def _check_batch(forecast: Distribution, shape: tuple[int, ...]) -> None:
    if forecast.event_shape:
        raise ValueError(
            f"`forecast` must be the law of each value by itself; got a joint law of events "
            f"of shape {tuple(forecast.event_shape)}."
        )
    check_shape("y", shape, tuple(forecast.batch_shape), "the batch shape of `forecast`")


def _call(
    forecast: Distribution, method: Callable[[Tensor], Tensor], argument: Tensor
) -> NDArray[np.float64]:
    """Evaluate a cdf or icdf in float64 on the distribution's own device."""
    try:
        with torch.no_grad():
            return method(argument.to(_device(forecast))).cpu().to(torch.float64).numpy()
    except NotImplementedError as error:
        raise TypeError(
            f"`forecast` is a {type(forecast).__name__}, which has no `{method.__name__}`. "
            f"Pass draws instead: `forecast.sample((1000,))`."
        ) from error


def _device(forecast: Distribution) -> torch.device:
    try:
        return forecast.mean.device
    except NotImplementedError:  # a transformed distribution; torch evaluates it where it is
        return torch.device("cpu")
