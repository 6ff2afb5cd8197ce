"""Values of what users give as a number, an array or a function, with errors that say whose."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from inference._checks import check_finite
from probnet._checks import Values, as_tensor, check_shape

Function: TypeAlias = Values | Callable[..., Any]
"""A number, an array with one value per point, or a function of one array per axis."""


def values_at(name: str, function: Function, points: Sequence[Tensor]) -> Tensor:
    """Values at points, float64, of the points' shape.

    Args:
        name: of the argument, for messages.
        function: a number; an array of the points' shape; or a function of the coordinates.
        points: coordinates of the points, one tensor per axis, all of one shape.

    Raises:
        ValueError: on an array of another shape, NaN or infinity.
        TypeError: if the function fails on torch tensors and on NumPy arrays.

    Warns:
        UserWarning: on values in less than double precision.
    """
    shape = points[0].shape
    found = _call(name, function, points) if callable(function) else function
    warn_of_single_precision(name, found)
    values = as_tensor(name, found)
    if values.ndim == 0:
        values = values.expand(shape)
    if callable(function):
        # A function of one coordinate alone may return that coordinate's shape.
        try:
            values = values.expand(shape)
        except RuntimeError:
            check_shape(f"{name}(...)", values.shape, shape, "one value per point")
    check_shape(name, values.shape, shape, "one value per node of the grid")
    return check_finite(name, values.contiguous())


def warn_of_single_precision(name: str, values: Any) -> None:
    """Warn of rounding that derivatives of high order and small errors make matter."""
    dtype = str(getattr(values, "dtype", "")).removeprefix("torch.")
    if dtype in {"float16", "bfloat16", "float32"}:
        warnings.warn(
            f"`{name}` holds {dtype} values, whose rounding limits the accuracy of the "
            f"solution; compute them in float64.",
            UserWarning,
            stacklevel=3,
        )


def _call(name: str, function: Callable[..., Any], points: Sequence[Tensor]) -> Any:
    try:
        with warnings.catch_warnings():
            # NumPy's functions take tensors, under protest.
            warnings.filterwarnings("ignore", ".*__array_wrap__", DeprecationWarning)
            return function(*points)
    except TypeError as torch_error:  # NumPy code, or a wrong number of arguments
        try:
            return np.asarray(function(*(p.detach().numpy() for p in points)))
        except TypeError as numpy_error:
            raise TypeError(
                f"`{name}` must be a function of {len(points)} arrays, one per axis; called "
                f"with torch tensors it raised: {torch_error}; with NumPy arrays: {numpy_error}"
            ) from torch_error


def mesh(axes: Sequence[Tensor]) -> list[Tensor]:
    """Coordinates of every node of a tensor grid, one tensor of the grid's shape per axis."""
    return [c.contiguous() for c in torch.meshgrid(*axes, indexing="ij")]
