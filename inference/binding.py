"""From what the user passes as a target to a `Target` with its data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from inference.backends import choose_backend, load
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
    backend: str = "auto",
) -> Target:
    """The target with its data, ready to be evaluated.

    Raises:
        TypeError: if `target` is neither a `LogDensity` nor a callable model.
        ValueError: if `dtype` is not a floating-point dtype, or `device` or `backend` do not
            fit the target.
        ImportError: if JAX is needed and missing.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"`dtype` must be a floating-point dtype; got {dtype}.")
    where = torch.device(device or "cpu")
    if not (isinstance(target, LogDensity) or callable(target)):
        raise TypeError(
            "`target` must be a Pyro model (a callable), a NumPyro model or an "
            f"inference.LogDensity; got {type(target).__name__}."
        )
    if choose_backend(backend, target, data) == "jax":
        if where.type != "cpu":
            raise ValueError(
                f"`device` is torch's; got {device!r} with a JAX target, which runs on JAX's "
                "default device (jax.default_device). Leave `device` out."
            )
        module = "log_density" if isinstance(target, LogDensity) else "numpyro_model"
        kind = "JaxLogDensityTarget" if isinstance(target, LogDensity) else "NumPyroTarget"
        return getattr(load(module), kind)(target, data, batch_size=batch_size, dtype=dtype)
    if isinstance(target, LogDensity):
        return LogDensityTarget(target, data, batch_size=batch_size, dtype=dtype, device=where)
    return PyroTarget(target, data, batch_size=batch_size, dtype=dtype, device=where)
