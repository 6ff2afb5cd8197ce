"""What is sampled: a log density on a flat unconstrained vector, with the data bound to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from inference._checks import check_integer
from inference.data import Data, Leaves
from inference.tree import Layout

Named = dict[str, Tensor]


class Target(ABC):
    """A log density with its data, as the samplers see it.

    Every method works on one chain and is safe under `torch.func.vmap`.

    Attributes:
        layout: names and shapes of the *unconstrained* parameters within a position.
        data: what the model or likelihood takes.
        num_data: N, or None where there are no rows.
        batch_size: n, or None when every step uses all the data.
        leaves: the arrays that minibatches are taken from.
        dtype: of positions.
        device: of positions.
        backend: what evaluates it, `"torch"` or `"jax"`.
    """

    layout: Layout
    data: Data
    num_data: int | None
    batch_size: int | None
    leaves: Leaves
    dtype: torch.dtype
    device: torch.device
    backend: ClassVar[str] = "torch"

    @abstractmethod
    def log_density(self, position: Tensor, leaves: Leaves | None = None) -> Tensor:
        """Unnormalised log density of a position (dim,), log-Jacobians included.

        Args:
            position: unconstrained parameters, shape (dim,).
            leaves: a minibatch; its likelihood is scaled by N/n. None: all the data.
        """

    @abstractmethod
    def constrain(self, position: Tensor) -> Named:
        """Constrained parameters, and deterministic sites, of a position (dim,)."""

    @abstractmethod
    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """Position (dim,) of constrained parameters."""

    @abstractmethod
    def log_jacobian(self, position: Tensor) -> Tensor:
        """Log absolute determinant of the Jacobian of `constrain`."""

    @abstractmethod
    def terms(self, position: Tensor) -> Named:
        """The log density's terms by name, to tell which of them is not finite."""

    @abstractmethod
    def log_likelihood(self, values: Mapping[str, Tensor], data: Any = None) -> Named:
        """Log-likelihood of every observation given constrained parameters, by name.

        `data=None` means the data the target was fitted to.
        """

    def initial_values(self) -> Named | None:
        """Constrained parameters that the user gave to start from, if any."""
        return None

    def describe(self) -> dict[str, Any]:
        """What identifies the target, JSON-able: shapes, dtype, sizes."""
        return {
            "parameters": {name: list(shape) for name, shape in self.layout.shapes.items()},
            "dtype": str(self.dtype).removeprefix("torch."),
            "num_data": self.num_data,
            "batch_size": self.batch_size,
        }


def check_batch_size(batch_size: int | None, num_data: int | None) -> int | None:
    """The minibatch size, None when it is absent or the whole of the data.

    Raises:
        ValueError: if it is below 1 or above the number of rows.
    """
    if batch_size is None:
        return None
    size = check_integer("batch_size", batch_size, 1)
    if num_data is None:
        raise ValueError("`batch_size` was given, but the target has no data rows.")
    if size > num_data:
        raise ValueError(
            f"`batch_size` must be at most the number of data, {num_data}; got {size}."
        )
    return None if size == num_data else size
