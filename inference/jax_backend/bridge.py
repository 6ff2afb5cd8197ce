"""JAX functions that torch can call, batch with `vmap` and, log densities, differentiate twice.

Everything that is written for torch targets (the search for a mode, curvatures, calibration)
works on a JAX target through these.
"""
# pyright: reportIncompatibleMethodOverride=false
# torch declares the functions' arguments, which are theirs to choose, as *args.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import torch
from torch import Tensor

from inference.jax_backend.arrays import Array, from_torch, precision, to_torch

Axes = tuple[int | None, ...]


class JaxFunction:
    """A compiled function of arrays, called with tensors; it has no gradient.

    Args:
        function: `function(constants, *arrays)`, a dict of arrays.
        constants: arrays that never change, such as the data, passed and not compiled in.
        dtype: in which precision it is evaluated.
    """

    def __init__(
        self, function: Callable[..., dict[str, Array]], constants: Any, dtype: torch.dtype
    ) -> None:
        self._names: tuple[str, ...] = ()

        def traced(constants: Any, *arrays: Array) -> tuple[Array, ...]:
            found = function(constants, *arrays)
            self._names = tuple(found)
            return tuple(found.values())

        self._set(traced, constants, dtype)

    def _set(self, function: Any, constants: Any, dtype: torch.dtype) -> None:
        self._function, self._constants, self._dtype = function, constants, dtype
        self._compiled = jax.jit(function)
        self._batched: dict[Axes, JaxFunction] = {}

    def __call__(self, *tensors: Tensor) -> dict[str, Tensor]:
        """The results by name."""
        found: Any = _Call.apply(self, *tensors)
        return dict(zip(self._names, found, strict=True))

    def evaluate(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The results in order."""
        with precision(self._dtype):
            found = self._compiled(self._constants, *map(from_torch, tensors))
            return tuple(map(to_torch, found))

    def batched(self, axes: Axes) -> JaxFunction:
        """The same with a leading axis in every argument whose entry is 0."""
        if axes not in self._batched:
            function = jax.vmap(self._function, in_axes=(None, *axes))
            found = object.__new__(JaxFunction)
            found._set(function, self._constants, self._dtype)
            self._batched[axes] = found
        return self._batched[axes]


def for_tensors(function: Callable[[Any], Any]) -> Callable[[dict[str, Tensor]], Any]:
    """A JAX function of a dict of arrays as one of a dict of tensors.

    Args:
        function: returns an array or a dict of arrays.
    """
    known: dict[Any, JaxFunction] = {}

    def call(values: dict[str, Tensor]) -> Any:
        key = (tuple(values), next(iter(values.values())).dtype)
        if key not in known:

            def named(_: Any, *arrays: Array) -> dict[str, Array]:
                found = function(dict(zip(key[0], arrays, strict=True)))
                return found if isinstance(found, dict) else {"": found}

            known[key] = JaxFunction(named, (), key[1])
        found = known[key](*values.values())
        return found[""] if set(found) == {""} else found

    return call


class JaxDensity:
    """A log density with its gradient and products with its Hessian.

    Args:
        log_density: `log_density(constants, position, *leaves)`, a scalar.
        constants: arrays that never change.
        dtype: in which precision it is evaluated.
    """

    def __init__(
        self, log_density: Callable[..., Array], constants: Any, dtype: torch.dtype
    ) -> None:
        def product(constants: Any, position: Array, vector: Array, *leaves: Array) -> Array:
            gradient = jax.grad(lambda z: log_density(constants, z, *leaves))
            return jax.jvp(gradient, (position,), (vector,))[1]

        self._constants, self._dtype = constants, dtype
        self._functions = jax.value_and_grad(log_density, argnums=1), product
        self._derive()

    def _derive(self) -> None:
        self._value_and_gradient, self._product = map(jax.jit, self._functions)
        self._batched: dict[Axes, JaxDensity] = {}

    def __call__(self, position: Tensor, *leaves: Tensor) -> Tensor:
        """The log density, differentiable in the position."""
        found: Any = _Density.apply(self, position, *leaves)
        return found[0]

    def value_and_gradient(self, position: Tensor, *leaves: Tensor) -> tuple[Tensor, Tensor]:
        """Both, without a graph."""
        arrays = map(from_torch, (position, *leaves))
        with precision(self._dtype):
            value, gradient = self._value_and_gradient(self._constants, *arrays)
            return to_torch(value), to_torch(gradient)

    def product(self, position: Tensor, vector: Tensor, *leaves: Tensor) -> Tensor:
        """The Hessian times a vector."""
        arrays = map(from_torch, (position, vector, *leaves))
        with precision(self._dtype):
            return to_torch(self._product(self._constants, *arrays))

    def batched(self, axes: Axes) -> JaxDensity:
        """The same with a leading axis in positions, vectors, and leaves whose entry is 0."""
        if axes not in self._batched:
            value, product = self._functions
            found = object.__new__(JaxDensity)
            found._constants, found._dtype = self._constants, self._dtype
            found._functions = (
                jax.vmap(value, in_axes=(None, 0, *axes)),
                jax.vmap(product, in_axes=(None, 0, 0, *axes)),
            )
            found._derive()
            self._batched[axes] = found
        return self._batched[axes]


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(function: JaxFunction, *tensors: Tensor) -> Any:
        return function.evaluate(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, function: JaxFunction, *tensors: Tensor) -> Any:
        moved, axes = _lead(in_dims[1:], tensors)
        found: Any = _Call.apply(function.batched(axes), *moved)
        return found, (0,) * len(found)


class _Density(torch.autograd.Function):
    """Log density and gradient; the gradient's own derivative is a product."""

    @staticmethod
    def forward(density: JaxDensity, position: Tensor, *leaves: Tensor) -> Any:
        return density.value_and_gradient(position, *leaves)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.density = inputs[0]
        ctx.save_for_backward(*inputs[1:], output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        by_value, by_gradient = grad_outputs
        position, *leaves, gradient = ctx.saved_tensors
        total = None if by_value is None else by_value[..., None] * gradient
        if by_gradient is not None:
            bent: Any = _Product.apply(ctx.density, position, by_gradient, *leaves)
            total = bent if total is None else total + bent
        return (None, total, *[None] * len(leaves))

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, density: JaxDensity, position: Tensor, *leaves: Tensor
    ) -> Any:
        moved, axes = _lead(in_dims[2:], leaves)
        spread = _spread(info.batch_size, in_dims[1], position)
        found: Any = _Density.apply(density.batched(axes), spread, *moved)
        return found, (0, 0)


class _Product(torch.autograd.Function):
    """Hessian times vector; there is no third derivative."""

    @staticmethod
    def forward(density: JaxDensity, position: Tensor, vector: Tensor, *leaves: Tensor) -> Any:
        return density.product(position, vector, *leaves)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        density: JaxDensity,
        position: Tensor,
        vector: Tensor,
        *leaves: Tensor,
    ) -> Any:
        moved, axes = _lead(in_dims[3:], leaves)
        spread = (
            _spread(info.batch_size, dim, x)
            for dim, x in zip(in_dims[1:3], (position, vector), strict=True)
        )
        return _Product.apply(density.batched(axes), *spread, *moved), 0


def _lead(dims: Any, tensors: Any) -> tuple[list[Tensor], Axes]:
    """Batch axes moved to the front, and which tensors have one."""
    pairs = list(zip(dims, tensors, strict=True))
    moved = [x if dim is None else x.movedim(dim, 0) for dim, x in pairs]
    return moved, tuple(None if dim is None else 0 for dim, _ in pairs)


def _spread(size: int, dim: int | None, tensor: Tensor) -> Tensor:
    """The batch axis in front, made where there is none."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
