"""Log densities given as functions of named parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform

from inference._checks import check_choice, check_integer
from inference.backends import is_jax_array, load, to_numpy
from inference.data import Data, Leaves, to_tensor
from inference.errors import LinAlgError
from inference.targets import Named, Target, check_batch_size
from inference.tree import Layout, flatten_names, nest_names


class LogDensity:
    """An unnormalised log density of named parameters.

    Either `log_prior` with `log_lik` (the N/n scaling of minibatches is done here), or
    `log_density` alone, with `scale` saying what it returns.

    Args:
        log_prior: `log_prior(params) -> scalar`, in constrained space.
        log_lik: `log_lik(params, data) -> (n,)`, one log-likelihood per row; `data` has the
            structure given to `sample`.
        params: nested dict of tensors, or of JAX arrays if the functions are JAX's; gives
            names, shapes, dtype and, with `init="params"`, the starting point.
        constraints: flat name (`"layer.w"`) to `torch.distributions.constraints`, or NumPyro's
            for JAX arrays; parameters not named are unconstrained.
        num_data: N. Checked against the data; taken from it when omitted.
        log_density: `log_density(params)` or `log_density(params, data) -> scalar`.
        scale: for `log_density`: `"sum"` if it is the log density itself (a minibatch version
            must have scaled its likelihood already), `"mean"` if it was divided by N.

    Attributes:
        backend: `"jax"` where a parameter is a JAX array, else `"torch"`.

    Raises:
        TypeError: on integer parameters.
        ValueError: on contradictory or missing arguments.
    """

    def __init__(
        self,
        log_prior: Callable[[Any], Tensor] | None = None,
        log_lik: Callable[[Any, Any], Tensor] | None = None,
        params: Mapping[str, Any] | None = None,
        constraints: Mapping[str, Constraint] | None = None,
        num_data: int | None = None,
        *,
        log_density: Callable[..., Tensor] | None = None,
        scale: str | None = None,
    ) -> None:
        if log_density is None and log_prior is None:
            raise ValueError(
                "give `log_prior` (with `log_lik`), or `log_density` with `scale`."
            )
        if log_density is not None and (log_prior is not None or log_lik is not None):
            raise ValueError("`log_density` excludes `log_prior` and `log_lik`; give one form.")
        if log_density is not None and scale is None:
            raise ValueError(
                "`scale` must be 'sum' (log_density returns the log density itself) or 'mean' "
                "(it was divided by the number of data); got None."
            )
        if log_density is None and scale is not None:
            raise ValueError("`scale` belongs to `log_density`; `log_lik` is always summed.")
        if not params:
            raise ValueError("`params` must be a dict with at least one tensor; got none.")
        self.log_prior, self.log_lik, self.log_joint = log_prior, log_lik, log_density
        self.scale = "sum" if scale is None else check_choice("scale", scale, ("sum", "mean"))
        flat = flatten_names(params)
        self.backend = "jax" if any(map(is_jax_array, flat.values())) else "torch"
        self.params = {name: _parameter(name, to_numpy(v)) for name, v in flat.items()}
        self.constraints = dict(constraints or {})
        self.num_data = None if num_data is None else check_integer("num_data", num_data, 1)
        unknown = set(self.constraints) - set(self.params)
        if unknown:
            raise ValueError(
                f"`constraints` names {sorted(unknown)}, which are not among the parameters "
                f"{sorted(self.params)}."
            )
        check = _check_constraint
        if self.backend == "jax":
            check = load("log_density").check_constraint
        for name, constraint in self.constraints.items():
            check(name, constraint, self.params[name])
        if self.scale == "mean" and self.num_data is None:
            raise ValueError("`num_data` is needed with scale='mean': we multiply by it.")


class LogDensityTarget(Target):
    """A `LogDensity` with data, in flat unconstrained coordinates."""

    def __init__(
        self,
        spec: LogDensity,
        data: Any,
        *,
        batch_size: int | None,
        dtype: torch.dtype | None,
        device: torch.device,
    ) -> None:
        self._spec = spec
        dtypes = [p.dtype for p in spec.params.values()]
        self.dtype = dtype or max(dtypes, key=lambda d: torch.finfo(d).bits)
        self.device = device
        self.data = Data(data, dtype=self.dtype, device=device)
        self._takes_data = data is not None
        self.num_data = spec.num_data
        self.leaves = self.data.leaves
        if spec.log_lik is not None or batch_size is not None:
            if not self._takes_data:
                raise ValueError("`data` is needed: the target has a likelihood of rows.")
            self.num_data = self.data.check_rows(spec.num_data)
        self.batch_size = check_batch_size(batch_size, self.num_data)
        self._transforms: dict[str, Transform] = {
            name: biject_to(spec.constraints.get(name, constraints.real))
            for name in spec.params
        }
        self.layout = Layout(
            {n: self._transforms[n].inverse_shape(p.shape) for n, p in spec.params.items()}
        )
        with suppress(LinAlgError):  # a matrix may be singular at zero, and only there
            self._check_outputs()

    def log_density(self, position: Tensor, leaves: Leaves | None = None) -> Tensor:
        """See `Target.log_density`."""
        values, log_jacobian = self._values(position)
        parts = self._parts(nest_names(values), leaves)
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

    def constrain(self, position: Tensor) -> Named:
        """See `Target.constrain`."""
        return self._values(position)[0]

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """See `Target.unconstrain`."""
        flat = flatten_names(values)
        return self.layout.join(
            {n: cast(Tensor, t.inv(flat[n])) for n, t in self._transforms.items()}
        )

    def log_jacobian(self, position: Tensor) -> Tensor:
        """See `Target.log_jacobian`."""
        return self._values(position)[1]

    def initial_values(self) -> Named:
        """See `Target.initial_values`: those of the `LogDensity`."""
        return {n: p.to(self.dtype).to(self.device) for n, p in self._spec.params.items()}

    def terms(self, position: Tensor) -> Named:
        """See `Target.terms`."""
        parts = self._parts(nest_names(self._values(position)[0]), None)
        return {name: torch.as_tensor(value).sum() for name, value in parts.items()}

    def log_likelihood(self, values: Mapping[str, Tensor], data: Any = None) -> Named:
        """See `Target.log_likelihood`."""
        if self._spec.log_lik is None:
            raise ValueError("this LogDensity has no `log_lik`, so no log-likelihood of rows.")
        rows = self.data if data is None else Data(data, dtype=self.dtype, device=self.device)
        return {"log_lik": self._spec.log_lik(nest_names(values), rows.rebuild(None))}

    def _values(self, position: Tensor) -> tuple[Named, Tensor]:
        log_jacobian = position.new_zeros(())
        values: Named = {}
        for name, free in self.layout.split(position).items():
            transform = self._transforms[name]
            values[name] = cast(Tensor, transform(free))
            if name in self._spec.constraints:
                log_jacobian = (
                    log_jacobian + transform.log_abs_det_jacobian(free, values[name]).sum()
                )
        return values, log_jacobian

    def _parts(self, params: Any, leaves: Leaves | None) -> dict[str, Any]:
        """What the user's functions return, by their names."""
        spec = self._spec
        rows = self.data.rebuild(leaves)
        if spec.log_joint is not None:
            arguments = (params, rows) if self._takes_data else (params,)
            return {"log_density": spec.log_joint(*arguments)}
        parts: dict[str, Any] = {}
        if spec.log_prior is not None:
            parts["log_prior"] = spec.log_prior(params)
        if spec.log_lik is not None:
            parts["log_lik"] = spec.log_lik(params, rows)
        return parts

    def _check_outputs(self) -> None:
        """Evaluate once and refuse outputs of the wrong shape."""
        with torch.no_grad():
            zero = torch.zeros(self.layout.dim, dtype=self.dtype, device=self.device)
            parts = self._parts(nest_names(self._values(zero)[0]), None)
        check_outputs({n: tuple(np.shape(v)) for n, v in parts.items()}, self.num_data)


def check_outputs(shapes: Mapping[str, tuple[int, ...]], num_data: int | None) -> None:
    """Raise `ValueError` on shapes that the user's functions must not return."""
    for name, shape in shapes.items():
        if name == "log_lik" and shape != (num_data,):
            raise ValueError(
                f"`log_lik` must return one value per row, shape ({num_data},); got {shape}."
            )
        if name != "log_lik" and shape != ():
            raise ValueError(
                f"`{name}` must return a scalar; got shape {shape}. Sum over the parameters."
            )


def _parameter(name: str, value: Any) -> Tensor:
    tensor = to_tensor(value)
    if not tensor.is_floating_point():
        raise TypeError(
            f"parameter `{name}` has dtype {tensor.dtype}; only floating-point parameters can "
            "be sampled. Convert it, or marginalise a discrete parameter out."
        )
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"parameter `{name}` holds non-finite values.")
    return tensor.detach()


def _check_constraint(name: str, constraint: Any, parameter: Tensor) -> None:
    """Raise unless there is a bijection from the reals onto `constraint`, of that shape."""
    try:
        biject_to(constraint).inverse_shape(parameter.shape)
    except NotImplementedError as error:
        raise TypeError(
            f"`constraints[{name!r}]` must be a torch constraint on real numbers, such as "
            f"constraints.positive; got {constraint!r}."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"parameter `{name}` of shape {tuple(parameter.shape)} cannot lie in "
            f"{constraint!r}: {error}."
        ) from error
