"""Truths, predictions and draws as matching float64 arrays."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from inference._checks import check_finite
from probnet._checks import Values, as_array, check_shape


def finite(name: str, values: Values) -> NDArray[np.float64]:
    """Return a non-empty float64 array, or raise on NaN, infinity or no entry at all."""
    array = as_array(name, values)
    if not array.size:
        raise ValueError(f"`{name}` must not be empty; got shape {array.shape}.")
    check_finite(name, torch.from_numpy(array))
    return array


def matching(name: str, values: Values, truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a finite array of the truth's shape, or raise."""
    array = finite(name, values)
    check_shape(name, array.shape, truth.shape, "that of `y`")
    return array


def truth_and(
    name: str, y: Values, prediction: Values
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `y` and a prediction of the same shape, or raise."""
    truth = finite("y", y)
    return truth, matching(name, prediction, truth)


def draws_last(
    name: str, draws: Values, draw_axis: int, truth: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return draws of the truth's shape with the axis of draws moved to the end, or raise."""
    array = finite(name, draws)
    array = np.moveaxis(array, axis_number("draw_axis", draw_axis, array.ndim), -1)
    if array.shape[:-1] != truth.shape:
        raise ValueError(
            f"`{name}` must have the shape of `y`, {truth.shape}, after its axis of draws "
            f"({draw_axis}) is taken out; got {array.shape[:-1]}. Name that axis by "
            f"`draw_axis`; chains and draws are joined by `.reshape(-1, ...)`."
        )
    return array


def axis_number(name: str, axis: int, ndim: int) -> int:
    """Return an axis counted from the front, or raise if the array has no such axis."""
    if not -ndim <= axis < ndim:
        raise ValueError(f"`{name}` must be an axis of an array of {ndim} axes; got {axis}.")
    return axis % ndim
