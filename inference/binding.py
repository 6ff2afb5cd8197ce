"""From what the user passes as a target to a `Target` with its data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from inference.log_density import LogDensity, LogDensityTarget
from inference.pyro_model import PyroTarget
from inference.targets import Target


def bind(
    target: LogDensity | Callable[..., Any],
    data: Any,
    *,
    batch_size: int | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Target:
    """The target with its data, ready to be evaluated.

    Raises:
        TypeError: if `target` is neither a `LogDensity` nor a callable model.
        ValueError: if `dtype` is not a floating-point dtype.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"`dtype` must be a floating-point dtype; got {dtype}.")
    where = torch.device(device or "cpu")
    if isinstance(target, LogDensity):
        return LogDensityTarget(target, data, batch_size=batch_size, dtype=dtype, device=where)
    if callable(target):
        return PyroTarget(target, data, batch_size=batch_size, dtype=dtype, device=where)
    raise TypeError(
        f"`target` must be a Pyro model (a callable) or an inference.LogDensity; got "
        f"{type(target).__name__}."
    )
