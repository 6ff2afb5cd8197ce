"""Arrays that were drawn: read from users' functions, checked, drawn many at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.data import to_tensor
from inference.targets import Named
from inference.tree import flatten_names


def read_values(
    owner: str, params: Mapping[str, Any], shapes: Mapping[str, torch.Size], num: int
) -> Named:
    """Flat parameters in order; raise unless they are finite and have `num` in front."""
    if not isinstance(params, Mapping):
        raise TypeError(
            f"`{owner}` must return a dict of arrays by name; got {type(params).__name__}."
        )
    given = {name: to_tensor(value) for name, value in flatten_names(params).items()}
    wanted = {name: (num, *shape) for name, shape in shapes.items()}
    got = {name: tuple(value.shape) for name, value in given.items()}
    if got != wanted:
        raise ValueError(f"`{owner}` must return arrays of shapes {wanted}; got {got}.")
    return {name: check_drawn(f"`{owner}`", given[name]) for name in wanted}


def check_drawn(owner: str, values: Tensor) -> Tensor:
    """Return `values`, or raise `ValueError` unless all are finite."""
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(
            f"{owner} gives {bad} of {values.numel()} values that are not finite. Correct it, "
            "or give it lighter tails."
        )
    return values


def cast(owner: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    """`values` in the type of the data; raise if whole numbers cannot hold them."""
    found = values.to(dtype)
    if not dtype.is_floating_point and bool((found.to(values.dtype) != values).any()):
        raise ValueError(
            f"{owner} draws real numbers, but its data have dtype {dtype}, which would cut "
            "them off. Give floating-point data."
        )
    return found


def each(function: Callable[[Any], Named], values: Named) -> Named:
    """`function`, which draws random numbers, of every entry of the leading axis.

    All at once where torch's samplers can, else one by one.
    """
    count = len(next(iter(values.values())))
    with torch.no_grad():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of slow or resizing kernels
                return torch.func.vmap(function, randomness="different")(values)
        except RuntimeError as error:
            if not any(word in str(error) for word in ("vmap", "functorch", "batching rule")):
                raise
        drawn = [function({n: v[i] for n, v in values.items()}) for i in range(count)]
    return {name: torch.stack([d[name] for d in drawn]) for name in drawn[0]}


def to_arrays(values: Named) -> dict[str, np.ndarray]:
    """NumPy arrays of named tensors."""
    return {name: value.numpy(force=True) for name, value in values.items()}
