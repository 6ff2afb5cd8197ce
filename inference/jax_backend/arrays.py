"""Between torch's tensors and JAX's arrays, and the precision that JAX computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor

from inference.tree import Layout

Array = Any
"""A JAX array, or a tracer of one."""


def precision(dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Double precision in JAX for float64, single otherwise, inside the block only.

    The user's global setting, `jax_enable_x64`, is neither read nor changed.
    """
    return jax.enable_x64(dtype == torch.float64)


def to_torch(array: Array) -> Tensor:
    """A tensor with memory of its own."""
    return torch.from_numpy(np.array(array))


def from_torch(tensor: Tensor) -> np.ndarray:
    """What a JAX function takes; shares the tensor's memory."""
    return tensor.detach().numpy()


def split(layout: Layout, position: Array) -> dict[str, Array]:
    """Named arrays of a position (dim,)."""
    found: dict[str, Array] = {}
    start = 0
    for name, shape in layout.shapes.items():
        size = shape.numel()
        found[name] = position[start : start + size].reshape(tuple(shape))
        start += size
    return found


def join(layout: Layout, arrays: dict[str, Array]) -> Array:
    """Position (dim,) of named arrays."""
    return jax.numpy.concatenate([arrays[name].reshape(-1) for name in layout.shapes])
