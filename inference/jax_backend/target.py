"""What NumPyro models and JAX log densities have in common as targets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from torch import Tensor

from inference.data import Leaves
from inference.jax_backend.arrays import Array, from_torch, precision
from inference.jax_backend.bridge import JaxDensity, JaxFunction
from inference.targets import Named, Target

NamedArrays = dict[str, Array]
Arrays = tuple[Array, ...]


class JaxTarget(Target):
    """A target whose functions are JAX's.

    A subclass sets the attributes of `Target`, then calls `_build`. Its functions take
    `constants`, all arrays of the data, and `leaves`, a minibatch or nothing.
    """

    backend: ClassVar[str] = "jax"

    @abstractmethod
    def log_density_of(self, constants: Arrays, position: Array, *leaves: Array) -> Array:
        """As `Target.log_density`."""

    @abstractmethod
    def constrained(self, constants: Arrays, position: Array) -> NamedArrays:
        """As `Target.constrain`."""

    @abstractmethod
    def unconstrained(self, constants: Arrays, *values: Array) -> NamedArrays:
        """The position, as `position`; values in the order of the layout."""

    @abstractmethod
    def log_jacobian_of(self, constants: Arrays, position: Array) -> NamedArrays:
        """As `Target.log_jacobian`, by that name."""

    @abstractmethod
    def terms_of(self, constants: Arrays, position: Array) -> NamedArrays:
        """As `Target.terms`."""

    def _build(self) -> None:
        with precision(self.dtype):
            self.constants = tuple(jnp.asarray(from_torch(x)) for x in self.data.leaves)
            self.rows = tuple(jnp.asarray(from_torch(x)) for x in self.leaves)
        self._density = JaxDensity(self.log_density_of, self.constants, self.dtype)
        self._constrain, self._unconstrain, self._jacobian, self._named_terms = (
            JaxFunction(function, self.constants, self.dtype)
            for function in (
                self.constrained,
                self.unconstrained,
                self.log_jacobian_of,
                self.terms_of,
            )
        )

    def log_density(self, position: Tensor, leaves: Leaves | None = None) -> Tensor:
        """See `Target.log_density`."""
        return self._density(position, *(leaves or ()))

    def constrain(self, position: Tensor) -> Named:
        """See `Target.constrain`."""
        return self._constrain(position)

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """See `Target.unconstrain`."""
        return self._unconstrain(*(values[name] for name in self.layout.shapes))["position"]

    def log_jacobian(self, position: Tensor) -> Tensor:
        """See `Target.log_jacobian`."""
        return self._jacobian(position)["log_jacobian"]

    def terms(self, position: Tensor) -> Named:
        """See `Target.terms`."""
        return self._named_terms(position)

    def describe(self) -> dict[str, Any]:
        """See `Target.describe`."""
        return {**super().describe(), "backend": self.backend}

    def evaluate(self, positions: Tensor, batch: Leaves | None) -> tuple[Tensor, Tensor]:
        """Log densities (chains,) and gradients (chains, dim) of tensors, in one call."""
        leaves = batch or ()
        shared = bool(leaves) and leaves[0].shape[0] == 1 != positions.shape[0]
        rows = tuple(x[0] for x in leaves) if shared else leaves
        density = self._density.batched((None if shared else 0,) * len(rows))
        return density.value_and_gradient(positions, *rows)

    def evaluate_arrays(
        self, constants: Arrays, positions: Array, batch: Arrays | None
    ) -> tuple[Array, Array]:
        """The same in JAX, to be traced."""
        leaves = batch or ()
        shared = bool(leaves) and leaves[0].shape[0] == 1 != positions.shape[0]
        rows = tuple(x[0] for x in leaves) if shared else leaves
        axes = (None if shared else 0,) * len(rows)
        function = jax.value_and_grad(self.log_density_of, argnums=1)
        return jax.vmap(function, in_axes=(None, 0, *axes))(constants, positions, *rows)
