"""`Draws`: what every method returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from inference import backends, export
from inference._checks import check_integer
from inference.gradients import map_chains
from inference.labels import check_labels, plate_axes
from inference.model_target import ModelTarget
from inference.rng import Stream, scoped_seed, stream_seed
from inference.targets import Target
from inference.tree import nest_names

if TYPE_CHECKING:
    import pandas as pd
    import xarray

Arrays = Mapping[str, np.ndarray]

_GROUPS = ("posterior", "sample_stats", "warmup_posterior", "optimization")
_ARRAYS = ("draws", "sample_stats", "warmup", "optimization")
_DIAGNOSTICS = (
    "frozen_chains",
    "interrupted",
    "until_reached",
    "notes",
    "predicted_variance_inflation",
    "bias",
)
_MAPPINGS = (*_ARRAYS, "attrs", "dims", "coords", "state", "groups", "_group_dims")


@dataclass(frozen=True, eq=False, repr=False)
class Draws:
    """Posterior draws with their sampler statistics; nothing in it changes.

    Attributes:
        draws: name to array `(chain, draw, *shape)`, in constrained space.
        sample_stats: statistic to array (chain, draw).
        attrs: method, seed, versions, options, wall time; JSON-able.
        dims: name to the names of its axes after (chain, draw).
        coords: dimension to coordinates.
        warmup: draws of the warm-up, empty unless they were asked for.
        optimization: traces over optimisation steps, such as the ELBO; variational fits only.
        state: last state of every chain, flat and unconstrained, and for HMC what it learnt;
            empty for NUTS.
        groups: further groups of arrays that a loaded file held, by group and variable.
    """

    draws: Arrays
    sample_stats: Arrays
    attrs: Mapping[str, Any]
    dims: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])
    coords: Mapping[str, Any] = field(default_factory=dict[str, Any])
    warmup: Arrays = field(default_factory=dict[str, np.ndarray])
    optimization: Arrays = field(default_factory=dict[str, np.ndarray])
    state: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    groups: Mapping[str, Arrays] = field(default_factory=dict[str, Arrays])
    _group_dims: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])
    _target: Target | None = None

    def __post_init__(self) -> None:
        check_labels({n: a.shape[2:] for n, a in self.draws.items()}, self.dims, self.coords)
        for name in _MAPPINGS:
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        frozen = {
            group: MappingProxyType(dict(arrays)) for group, arrays in self.groups.items()
        }
        object.__setattr__(self, "groups", MappingProxyType(frozen))
        for arrays in (*(getattr(self, name) for name in _ARRAYS), *self.groups.values()):
            for array in arrays.values():
                array.flags.writeable = False

    def __repr__(self) -> str:
        """Method and shapes: the numbers are in `summary()`."""
        shapes = ", ".join(f"{n} {a.shape[2:]}" for n, a in self.draws.items())
        return (
            f"Draws(method={self.attrs.get('method')!r}, {self.num_chains} x "
            f"{self.num_samples} draws: {shapes})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its fields: a read-only mapping has no pickle of its own."""
        values = {entry.name: _plain(getattr(self, entry.name)) for entry in fields(self)}
        return partial(type(self), **values), ()

    @property
    def num_chains(self) -> int:
        """Number of chains; 1 for independent draws."""
        return next(iter(self.draws.values())).shape[0]

    @property
    def num_samples(self) -> int:
        """Number of kept draws in a chain."""
        return next(iter(self.draws.values())).shape[1]

    @property
    def variational(self) -> bool:
        """Whether the draws are independent draws of a fitted guide."""
        return bool(self.attrs.get("variational", False))

    def predict(
        self,
        function: Callable[[Any], Any],
        *,
        batch_size: int = 256,
        vectorized: bool = True,
    ) -> Any:
        """`function` of every draw's parameters, evaluated a few draws at a time.

        Args:
            function: takes the parameters of one draw (a dict of tensors, nested as in the
                `LogDensity`) and returns a tensor or a dict of tensors; of JAX arrays if the
                draws were made by the JAX backend.
            batch_size: draws evaluated at once; bounds the memory beside the result.
            vectorized: under `vmap`; else draw by draw.

        Returns:
            An array `(chain, draw, *shape)`, or a dict of them.
        """
        nested = bool(self.attrs.get("nested_parameters", True))

        def one(values: dict[str, Tensor]) -> Any:
            return function(nest_names(values) if nested else values)

        function_of_tensors: Callable[[Any], Any] = one
        if self.attrs.get("backend") == "jax":
            function_of_tensors = backends.load("bridge").for_tensors(one)
        return self._map(function_of_tensors, batch_size, vectorized=vectorized)

    def log_likelihood(
        self, data: Any = None, *, batch_size: int = 256
    ) -> dict[str, np.ndarray]:
        """Log-likelihood of every observation under every draw, (chain, draw, n) by site.

        Args:
            data: new data of the same structure; None: the fitted data.
            batch_size: draws evaluated at once.
        """
        target = self._need_target("log_likelihood")
        return self._map(
            lambda values: target.log_likelihood(values, data), batch_size, device=target.device
        )

    def posterior_predictive(self, data: Any = None, *, seed: int = 0) -> dict[str, np.ndarray]:
        """New values of a model's observed sites, one for every draw, by site.

        The model is run draw by draw: torch's samplers cannot be vectorised.

        Args:
            data: new inputs, with any values in the observed places; None: the fitted data.
            seed: of the random draws.
        """
        target = self._need_target("posterior_predictive")
        if not isinstance(target, ModelTarget):
            raise TypeError(
                "posterior_predictive needs a Pyro model, or NumPyro's; a LogDensity does not "
                "say how data arise. Use `predict` with a function that does."
            )
        with scoped_seed(stream_seed(seed, Stream.PREDICTIVE)):
            return self._map(
                lambda values: target.posterior_predictive(values, data),
                batch_size=256,
                vectorized=False,
                device=target.device,
            )

    def to_datatree(
        self,
        *,
        log_likelihood: bool = False,
        posterior_predictive: bool = False,
        groups: Mapping[str, Arrays] | None = None,
    ) -> xarray.DataTree:
        """The draws as an `xarray.DataTree` in the ArviZ schema; ArviZ is not needed.

        Args:
            log_likelihood: add the group of that name (the model is evaluated again).
            posterior_predictive: add the group of that name, and `observed_data`.
            groups: further groups of arrays by variable, `(chain, draw, *shape)` but for
                ArviZ's groups of data.
        """
        named: dict[str, Arrays] = {"posterior": self.draws, **self.groups}
        dims = {**self._group_dims, **self.dims}
        if self.sample_stats:
            named["sample_stats"] = self.sample_stats
        if self.warmup:
            named["warmup_posterior"] = self.warmup
        if self.optimization:
            named["optimization"] = self.optimization
        if log_likelihood:
            named["log_likelihood"] = self.log_likelihood()
        if posterior_predictive:
            named["posterior_predictive"] = self.posterior_predictive()
        target = self._target
        if isinstance(target, ModelTarget) and (log_likelihood or posterior_predictive):
            observed = target.observed_data()
            named["observed_data"] = {name: v.numpy(force=True) for name, v in observed.items()}
            plates = {n: plate_axes(target, n, v.ndim, self.draws) for n, v in observed.items()}
            dims = {**plates, **dims}
        named.update(groups or {})
        return export.build_datatree(named, coords=self.coords, dims=dims, attrs=self.attrs)

    def to_arviz(self, **groups: Any) -> Any:
        """What the installed ArviZ reads: `InferenceData` (0.x) or a DataTree (1.x).

        Args:
            groups: as for `to_datatree`.
        """
        return export.to_arviz(self.to_datatree(**groups))

    def summary(self, **options: Any) -> pd.DataFrame:
        """ArviZ's summary table; without R-hat and ESS where draws are independent.

        Args:
            options: passed to `arviz.summary`, such as `var_names`.
        """
        import arviz

        if self.variational:
            options.setdefault("kind", "stats")
        return cast("pd.DataFrame", arviz.summary(self.to_arviz(), **options))

    def diagnostics(self) -> dict[str, Any]:
        """What the run says of itself, JSON-able; kept in files.

        Returns:
            A mapping of what there is of: `frozen_chains`, `interrupted`, `until_reached`,
            `notes`, `predicted_variance_inflation`, and `bias`, which `sample(...,
            bias_check=True)` makes: the `verdict` ("ok", "biased" or "undecided"), its
            `reasons` and `remedy`, and every figure with its standard error.
        """
        return {name: _plain(self.attrs[name]) for name in _DIAGNOSTICS if name in self.attrs}

    def save(self, path: str | os.PathLike[str], **groups: Any) -> Path:
        """Write a netCDF file that `inference.load` and ArviZ both open.

        Args:
            path: where; an existing file is replaced once the new one is complete.
            groups: as for `to_datatree`.
        """
        return export.write_netcdf(self.to_datatree(**groups), path)

    def _map(
        self,
        function: Callable[[Any], Any],
        batch_size: int,
        *,
        vectorized: bool = True,
        device: torch.device | None = None,
    ) -> Any:
        check_integer("batch_size", batch_size, 1)
        count = self.num_chains * self.num_samples
        flat = {
            n: torch.from_numpy(a.reshape(count, *a.shape[2:])) for n, a in _copies(self.draws)
        }
        pieces: list[dict[str, np.ndarray]] = []
        single = False
        for start in range(0, count, batch_size):
            some = {
                name: t[start : start + batch_size].to(device or t.device)
                for name, t in flat.items()
            }
            result = _evaluate(function, some, vectorized=vectorized)
            single = not isinstance(result, dict)
            named = {"": result} if single else result
            pieces.append({name: value.numpy(force=True) for name, value in named.items()})
        joined = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
        shape = (self.num_chains, self.num_samples)
        out = {name: a.reshape(*shape, *a.shape[1:]) for name, a in joined.items()}
        return out[""] if single else out

    def _need_target(self, what: str) -> Target:
        if self._target is None:
            raise ValueError(
                f"`{what}` needs the model and its data, which a file does not hold. Compute "
                "it before saving, for example by save(path, log_likelihood=True)."
            )
        return self._target


def load(path: str | os.PathLike[str]) -> Draws:
    """Draws saved by `Draws.save`, with every group of the file.

    The model is not in the file: predictions by `Draws.predict` work, a log-likelihood that was
    not saved cannot be computed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not hold draws.
    """
    groups, attrs = export.read_netcdf(path)
    dims: dict[str, list[str]] = {}
    coords: dict[str, Any] = {}
    group_dims: dict[str, list[str]] = {}
    for group, variables in groups.items():
        leading = export.leading_dims(group)
        for name, (_, names, labels) in variables.items():
            axes = names[len(leading) :]
            if group == "posterior":
                if tuple(names[:2]) != leading:
                    raise ValueError(
                        f"{name!r} in {os.fspath(path)!r} must have the dimensions (chain, "
                        f"draw) first; it has {names}."
                    )
                dims[name] = axes
            elif group not in _GROUPS:
                group_dims[name] = axes
            coords.update({d: labels[d] for d in axes if d in labels and d not in coords})
    arrays = {
        group: {name: entry[0] for name, entry in variables.items()}
        for group, variables in groups.items()
    }
    found = {group: arrays.pop(group, {}) for group in _GROUPS}
    return Draws(
        draws=found["posterior"],
        sample_stats=found["sample_stats"],
        attrs=attrs,
        dims=dims,
        coords=coords,
        warmup=found["warmup_posterior"],
        optimization=found["optimization"],
        groups=arrays,
        _group_dims=group_dims,
    )


def _copies(arrays: Arrays) -> list[tuple[str, np.ndarray]]:
    """Writable copies: torch warns on read-only memory."""
    return [(name, np.array(array)) for name, array in arrays.items()]


def _evaluate(
    function: Callable[[Any], Any], values: dict[str, Tensor], *, vectorized: bool
) -> Any:
    from pyro import validation_enabled

    with torch.no_grad(), validation_enabled(False):
        if vectorized:
            try:
                return map_chains(function, values, chain_method="vectorized")
            except RuntimeError as error:
                if "vmap" not in str(error) and "batching rule" not in str(error):
                    raise
        return map_chains(function, values, chain_method="sequential")


def _plain(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _plain(entry) for key, entry in value.items()}
