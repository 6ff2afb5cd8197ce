"""A `LogDensity` of JAX arrays as a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import torch
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.constraints import Constraint
from torch import Tensor

from inference.backends import to_numpy
from inference.data import Data
from inference.jax_backend.arrays import Array, from_torch, join, precision, split
from inference.jax_backend.bridge import JaxFunction
from inference.jax_backend.target import Arrays, JaxTarget, NamedArrays
from inference.log_density import LogDensity, check_outputs
from inference.targets import Named, check_batch_size
from inference.tree import Layout, flatten_names, nest_names


class JaxLogDensityTarget(JaxTarget):
    """A `LogDensity` with data, in flat unconstrained coordinates; see `LogDensityTarget`."""

    def __init__(
        self, spec: LogDensity, data: Any, *, batch_size: int | None, dtype: torch.dtype | None
    ) -> None:
        self._spec = spec
        dtypes = [p.dtype for p in spec.params.values()]
        self.dtype = dtype or max(dtypes, key=lambda d: torch.finfo(d).bits)
        self.device = torch.device("cpu")
        self.data = Data(host(data), dtype=self.dtype)
        self._takes_data = data is not None
        self.num_data = spec.num_data
        self.leaves = self.data.leaves
        if spec.log_lik is not None or batch_size is not None:
            if not self._takes_data:
                raise ValueError("`data` is needed: the target has a likelihood of rows.")
            self.num_data = self.data.check_rows(spec.num_data)
        self.batch_size = check_batch_size(batch_size, self.num_data)
        self._transforms: dict[str, Any] = {
            name: biject_to(spec.constraints.get(name, constraints.real))
            for name in spec.params
        }
        self.layout = Layout(
            {
                n: torch.Size(self._transforms[n].inverse_shape(tuple(p.shape)))
                for n, p in spec.params.items()
            }
        )
        self._build()
        with precision(self.dtype):
            zero = jnp.zeros(self.layout.dim)
            found = jax.eval_shape(self._terms_of_rows, self.constants, zero)
        check_outputs({name: value.shape for name, value in found.items()}, self.num_data)
        self._likelihood: tuple[Any, JaxFunction | None] = (None, None)

    def log_density_of(self, constants: Arrays, position: Array, *leaves: Array) -> Array:
        """See `JaxTarget`."""
        values, log_jacobian = self._values(position)
        parts = self._parts(values, leaves or constants)
        if "log_density" in parts:
            scale = self.num_data if self._spec.scale == "mean" else None
            total = parts["log_density"]
            return (total if scale is None else scale * total) + log_jacobian
        total = parts["log_prior"] + log_jacobian
        if "log_lik" not in parts:
            return total
        log_lik = parts["log_lik"].sum()
        factor = cast(int, self.num_data) / (
            leaves[0].shape[0] if leaves else self.num_data or 1
        )
        return total + (log_lik if factor == 1 else factor * log_lik)

    def initial_values(self) -> Named:
        """See `Target.initial_values`: those of the `LogDensity`."""
        return {n: p.to(self.dtype) for n, p in self._spec.params.items()}

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """See `Target.unconstrain`."""
        return super().unconstrain(flatten_names(values))

    def log_likelihood(self, values: Mapping[str, Tensor], data: Any = None) -> Named:
        """See `Target.log_likelihood`."""
        if self._spec.log_lik is None:
            raise ValueError("this LogDensity has no `log_lik`, so no log-likelihood of rows.")
        known, function = self._likelihood
        if function is None or known is not data:
            function = self._likelihood_of(data)
            self._likelihood = data, function
        return function(*(values[name] for name in self._spec.params))

    def _likelihood_of(self, data: Any) -> JaxFunction:
        rows = self.data if data is None else Data(host(data), dtype=self.dtype)

        def log_lik(constants: Arrays, *values: Array) -> NamedArrays:
            params = nest_names(dict(zip(self._spec.params, values, strict=True)))
            assert self._spec.log_lik is not None
            return {"log_lik": cast(Any, self._spec.log_lik)(params, rows.rebuild(constants))}

        return JaxFunction(log_lik, tuple(map(from_torch, rows.leaves)), self.dtype)

    def constrained(self, constants: Arrays, position: Array) -> NamedArrays:
        """See `JaxTarget`."""
        return self._values(position)[0]

    def unconstrained(self, constants: Arrays, *values: Array) -> NamedArrays:
        """See `JaxTarget`."""
        pairs = zip(self._transforms.items(), values, strict=True)
        free = {name: transform.inv(value) for (name, transform), value in pairs}
        return {"position": join(self.layout, free)}

    def log_jacobian_of(self, constants: Arrays, position: Array) -> NamedArrays:
        """See `JaxTarget`."""
        return {"log_jacobian": self._values(position)[1]}

    def terms_of(self, constants: Arrays, position: Array) -> NamedArrays:
        """See `JaxTarget`."""
        parts = self._terms_of_rows(constants, position)
        return {name: jnp.sum(value) for name, value in parts.items()}

    def _terms_of_rows(self, constants: Arrays, position: Array) -> NamedArrays:
        return self._parts(self._values(position)[0], constants)

    def _values(self, position: Array) -> tuple[NamedArrays, Array]:
        log_jacobian = jnp.zeros((), position.dtype)
        values: NamedArrays = {}
        for name, free in split(self.layout, position).items():
            transform = self._transforms[name]
            values[name] = transform(free)
            if name in self._spec.constraints:
                log_jacobian += transform.log_abs_det_jacobian(free, values[name]).sum()
        return values, log_jacobian

    def _parts(self, values: NamedArrays, arrays: Arrays) -> NamedArrays:
        """What the user's functions return, by their names."""
        spec: Any = self._spec
        params, rows = nest_names(values), self.data.rebuild(arrays)
        if spec.log_joint is not None:
            arguments = (params, rows) if self._takes_data else (params,)
            return {"log_density": jnp.asarray(spec.log_joint(*arguments))}
        parts: NamedArrays = {}
        if spec.log_prior is not None:
            parts["log_prior"] = jnp.asarray(spec.log_prior(params))
        if spec.log_lik is not None:
            parts["log_lik"] = jnp.asarray(spec.log_lik(params, rows))
        return parts


def host(data: Any) -> Any:
    """The user's data with NumPy's arrays in place of JAX's."""
    if isinstance(data, Mapping):
        return {key: to_numpy(value) for key, value in data.items()}
    if isinstance(data, (tuple, list)):
        return tuple(map(to_numpy, data))
    return to_numpy(data)


def check_constraint(name: str, constraint: Any, parameter: Tensor) -> None:
    """Raise unless there is a bijection from the reals onto `constraint`, of that shape."""
    if not isinstance(constraint, Constraint):
        raise TypeError(
            f"`constraints[{name!r}]` of JAX parameters must be a NumPyro constraint, such as "
            f"numpyro.distributions.constraints.positive; got {constraint!r}."
        )
    try:
        biject_to(constraint).inverse_shape(tuple(parameter.shape))
    except NotImplementedError as error:
        raise TypeError(
            f"`constraints[{name!r}]` must be a constraint on real numbers, such as "
            f"constraints.positive; got {constraint!r}."
        ) from error
    except (ValueError, AssertionError) as error:
        raise ValueError(
            f"parameter `{name}` of shape {tuple(parameter.shape)} cannot lie in "
            f"{constraint!r}: {error}."
        ) from error
