"""A NumPyro model as a target: sites found, minibatch scaling settled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import torch
from numpyro.handlers import seed, substitute, trace, uncondition
from numpyro.infer.util import (
    compute_log_probs,
    constrain_fn,
    log_density,
    potential_energy,
    unconstrain_fn,
)
from torch import Tensor

from inference.data import Data, Leaves
from inference.jax_backend.arrays import Array, from_torch, join, precision, split, to_torch
from inference.jax_backend.bridge import JaxFunction
from inference.jax_backend.log_density import host
from inference.jax_backend.numpyro_sites import Rows, Site, describe, log_prob, start_value
from inference.jax_backend.target import Arrays, JaxTarget, NamedArrays
from inference.model_target import ModelTarget, own_subsample, plate_dims
from inference.pyro_rows import RowSites, rows_passed, rows_taken
from inference.rng import scoped_seed
from inference.targets import Named, check_batch_size
from inference.tree import Layout

_SCOUT_SEED = 0


class NumPyroTarget(JaxTarget, ModelTarget):
    """A NumPyro model with its data, in flat unconstrained coordinates.

    Minibatches come in the two ways of `PyroTarget`: the model is called on n rows, or it
    subsamples in a plate of its own and is given the row numbers.

    Raises:
        TypeError: on a discrete latent site; it is named.
        ValueError: if the model fails on the data, or cannot be scaled to minibatches.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        data: Any,
        *,
        batch_size: int | None,
        dtype: torch.dtype | None,
    ) -> None:
        given = host(data)
        default = torch.float64 if jax.config.jax_enable_x64 else torch.float32  # type: ignore[attr-defined]
        self.dtype = dtype or Data(given).floating_dtype or default
        self.device = torch.device("cpu")
        self._model = model
        self.data = Data(given, dtype=self.dtype)
        self._subsample: str | None = None
        self._found = RowSites({}, set())
        self._given: dict[str, list[int]] = {}
        sites = self._scout(None, values=False)
        self._refuse_discrete(sites)
        self.plates = plate_dims(sites)
        self._subsample = own_subsample(sites)
        if self._subsample is not None:
            self._bind_own_subsample(sites, batch_size)
        else:
            self.num_data = self.data.check_rows(None) if batch_size is not None else None
            self.batch_size = check_batch_size(batch_size, self.num_data)
            self.leaves = self.data.leaves
        latent = {n: s for n, s in sites.items() if s.latent}
        if not latent:
            raise ValueError(
                "the model has no latent sample site of NumPyro, so there is nothing to infer."
            )
        self.layout = Layout({name: site.free_shape for name, site in latent.items()})
        self._observed = tuple(name for name, site in sites.items() if site.data)
        self._found = self._find_rows()
        self._build()
        self._pointwise: dict[str, tuple[Any, JaxFunction]] = {}
        self._prior = JaxFunction(self._prior_values, self.constants, self.dtype)

    # ------------------------------------------------------------------ densities and values

    def log_density_of(self, constants: Arrays, position: Array, *leaves: Array) -> Array:
        """See `JaxTarget`."""
        model = self._called(constants, leaves)
        return -potential_energy(model, (), {}, split(self.layout, position))

    def constrained(self, constants: Arrays, position: Array) -> NamedArrays:
        """See `JaxTarget`."""
        some = constants
        if self._subsample is None and self.batch_size is not None:
            some = tuple(x[: self.batch_size] for x in constants)
        free = split(self.layout, position)
        found: Any = constrain_fn(
            self._called(some, ()), (), {}, free, return_deterministic=True
        )
        values = {name: found[name] for name in free}
        kept = {n: v for n, v in found.items() if n not in self._found.deterministic}
        return values | kept

    def unconstrained(self, constants: Arrays, *values: Array) -> NamedArrays:
        """See `JaxTarget`."""
        named = dict(zip(self.layout.shapes, values, strict=True))
        free: Any = unconstrain_fn(self._called(constants, ()), (), {}, named)
        return {"position": join(self.layout, free)}

    def log_jacobian_of(self, constants: Arrays, position: Array) -> NamedArrays:
        """See `JaxTarget`."""
        model, free = self._called(constants, ()), split(self.layout, position)
        values: Any = constrain_fn(model, (), {}, free)
        inside = log_density(model, (), {}, values)[0]
        return {"log_jacobian": -potential_energy(model, (), {}, free) - inside}

    def terms_of(self, constants: Arrays, position: Array) -> NamedArrays:
        """See `JaxTarget`."""
        model, free = self._called(constants, ()), split(self.layout, position)
        values: Any = constrain_fn(model, (), {}, free)
        found: Any = compute_log_probs(model, (), {}, values)
        return found[0]

    # -------------------------------------------------------------------------- run forwards

    def log_likelihood(self, values: Mapping[str, Tensor], data: Any = None) -> Named:
        """See `Target.log_likelihood`."""
        function = self._at_rows("log_likelihood", self._row_log_probs, data)
        arrays = [values[name] for name in self.layout.shapes]
        return self._join_passes([function(*(r or ()), *arrays) for r in self._passes()])

    def posterior_predictive(self, values: Mapping[str, Tensor], data: Any = None) -> Named:
        """See `ModelTarget`."""
        function = self._at_rows("posterior_predictive", self._new_observations, data)
        arrays = [_draw_key(), *(values[name] for name in self.layout.shapes)]
        return self._join_passes([function(*(r or ()), *arrays) for r in self._passes()])

    def observed_data(self) -> Named:
        """See `ModelTarget`."""
        function = self._at_rows("observed_data", self._observations, None)
        position = torch.zeros(self.layout.dim, dtype=self.dtype)
        return self._join_passes([function(*(r or ()), position) for r in self._passes()])

    def observed_leaves(self) -> dict[str, list[int]]:
        """See `ModelTarget`."""
        return {name: self._given[name] for name in self._observed}

    def sample_prior(self, seed: int) -> Tensor:
        """See `ModelTarget`."""
        return self.unconstrain(self._prior(torch.tensor([0, seed % 2**32])))

    def prior(self) -> Named:
        """See `ModelTarget`."""
        return self._prior(_draw_key())

    def _at_rows(self, name: str, function: Any, data: Any) -> JaxFunction:
        """`function` of constants, rows and arrays, on new data or those of the target."""
        known = self._pointwise.get(name)
        if known is None or known[0] is not data:
            new = None if data is None else Data(host(data), dtype=self.dtype)
            constants = self.constants if new is None else tuple(map(from_torch, new.leaves))
            own = self._subsample is not None

            def called(constants: Arrays, *arrays: Array) -> NamedArrays:
                rows, rest = (arrays[:1], arrays[1:]) if own else ((), arrays)
                return function(self._called(constants, rows, new), *rest)

            known = data, JaxFunction(called, constants, self.dtype)
            self._pointwise[name] = known
        return known[1]

    def _row_log_probs(self, model: Callable[[], Any], *values: Array) -> NamedArrays:
        given = dict(zip(self.layout.shapes, values, strict=True))
        sites = trace(substitute(model, data=given)).get_trace()
        return {n: sites[n]["fn"].log_prob(sites[n]["value"]) for n in self._observed}

    def _new_observations(
        self, model: Callable[[], Any], key: Array, *values: Array
    ) -> NamedArrays:
        given = dict(zip(self.layout.shapes, values, strict=True))
        forwards = substitute(seed(uncondition(model), _key(key)), data=given)
        sites = trace(forwards).get_trace()
        return {name: sites[name]["value"] for name in self._observed}

    def _observations(self, model: Callable[[], Any], position: Array) -> NamedArrays:
        values: Any = constrain_fn(model, (), {}, split(self.layout, position))
        sites = trace(substitute(model, data=values)).get_trace()
        return {name: jnp.asarray(sites[name]["value"]) for name in self._observed}

    def _prior_values(self, constants: Arrays, key: Array) -> NamedArrays:
        sites = trace(seed(self._called(constants, ()), _key(key))).get_trace()
        return {name: sites[name]["value"] for name in self.layout.shapes}

    # -------------------------------------------------------------------------------- sites

    def _called(
        self, constants: Arrays, leaves: Arrays, data: Data | None = None
    ) -> Callable[[], Any]:
        """The model with its data, its rows scaled and its plates filled."""
        rows, arrays, scales = dict[str, Array](), leaves or constants, self._found.scales
        if self._subsample is not None:
            numbers = leaves[0] if leaves else jnp.arange(self.batch_size or 0)
            rows, arrays, scales = {self._subsample: numbers}, constants, {}
        scales = scales if leaves else {}

        def call() -> Any:
            with Rows(scales, rows):
                return (data or self.data).call(self._model, arrays)

        return call

    def _scout(self, leaves: Leaves | None, *, values: bool = True) -> dict[str, Site]:
        """Every site of one run; without `values` only shapes are there."""
        kept: dict[str, Any] = {}

        def run(constants: Arrays, leaves: Arrays) -> dict[str, tuple[Array, Array]]:
            model = seed(self._called(constants, leaves), jax.random.PRNGKey(_SCOUT_SEED))
            sites = trace(substitute(model, substitute_fn=start_value)).get_trace()
            sizes = {n: s["args"][0] for n, s in sites.items() if s["type"] == "plate"}
            self._given = {
                name: [i for i, array in enumerate(leaves or constants) if array is s["value"]]
                for name, s in sites.items()
            }
            kept.update(
                {
                    name: describe(site, sizes)
                    for name, site in sites.items()
                    if site["type"] in ("sample", "deterministic")
                }
            )
            return {n: (jnp.asarray(sites[n]["value"]), log_prob(sites[n])) for n in kept}

        try:
            with scoped_seed(_SCOUT_SEED), precision(self.dtype):  # it may be a Pyro model
                arrays = tuple(jnp.asarray(from_torch(x)) for x in self.data.leaves)
                rows = tuple(jnp.asarray(from_torch(x)) for x in leaves or ())
                evaluate = jax.jit(run) if values else lambda *a: jax.eval_shape(run, *a)
                found: Any = evaluate(arrays, rows)
        except (ValueError, RuntimeError, TypeError, IndexError, AssertionError) as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ValueError(
                "the model could not be traced by JAX on data with shapes "
                f"{self.data.describe()}: {reason}"
            ) from error
        read = to_torch if values else lambda x: x
        return {
            name: site._replace(value=read(found[name][0]), log_prob=read(found[name][1]))
            for name, site in kept.items()
        }

    def _find_rows(self) -> RowSites:
        total, n = self.num_data, self.batch_size
        if total is None or n is None:
            return RowSites({}, set())
        scout: Any = self._scout
        if self._subsample is not None:
            return rows_taken(scout, self._subsample, self.leaves[0], n)
        return rows_passed(scout, self.leaves, total, n)

    def _refuse_discrete(self, sites: Mapping[str, Site]) -> None:
        for name, site in sites.items():
            if site.latent and site.discrete:
                raise TypeError(
                    f"site {name!r} is a discrete latent variable, which gradient methods "
                    "cannot sample. Sum it out in the model, or enumerate it with "
                    "numpyro.contrib.funsor."
                )


def _draw_key() -> Tensor:
    """Two words from torch's global generator."""
    return torch.randint(2**32, (2,))


def _key(words: Array) -> Array:
    """A JAX key of two words."""
    return jax.random.wrap_key_data(words.astype(jnp.uint32), impl="threefry2x32")
