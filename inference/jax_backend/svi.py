"""Variational inference by NumPyro: its autoguides, or a guide of the user's."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import torch
from jax import lax
from numpyro.distributions import ImproperUniform, TransformedDistribution, constraints
from numpyro.handlers import block, seed, substitute, trace
from numpyro.infer import SVI, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import (
    AutoContinuous,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
)
from numpyro.optim import ClippedAdam
from torch import Tensor
from tqdm.auto import tqdm

from inference.data import BatchStream
from inference.jax_backend.arrays import Array, from_torch, precision, to_torch
from inference.jax_backend.target import JaxTarget
from inference.rng import Stream, stream_seed

AUTOGUIDES: dict[str, type[AutoContinuous]] = {
    "mean_field": AutoDiagonalNormal,
    "multivariate": AutoMultivariateNormal,
    "low_rank": AutoLowRankMultivariateNormal,
    "iaf": AutoIAFNormal,
}

_SITE = "position"
_GROUP = 100
_DRAWS = 500


class NumPyroGuide:
    """A guide of NumPyro's over a JAX target, with the optimiser that fits it.

    Args:
        target: the log density.
        guide: a key of `AUTOGUIDES`, a subclass of NumPyro's `AutoContinuous`, or a guide of
            the user's with one site per parameter, called on all the data.
        position: where to start, shape (dim,).
        init_scale: standard deviation to start from.
        rank: of `"low_rank"`, by default ⌈√dim⌉.

    Raises:
        ValueError: for `"iaf"` of a single parameter, a rank without `"low_rank"`, or a guide
            that draws other sites than the target's parameters.
    """

    def __init__(
        self,
        target: JaxTarget,
        guide: str | Callable[..., Any],
        position: Tensor,
        *,
        init_scale: float,
        rank: int | None,
    ) -> None:
        self._target = target
        self._params: Any = None
        self._drawn = jax.jit(self._draws)
        dim = position.shape[0]
        if rank is not None and guide != "low_rank":
            raise ValueError(f"`rank` belongs to guide='low_rank'; the guide is {guide!r}.")
        if guide == "iaf" and dim < 2:
            raise ValueError("guide='iaf' needs at least 2 parameters; use 'multivariate'.")
        kind = AUTOGUIDES.get(guide) if isinstance(guide, str) else guide
        self._auto = inspect.isclass(kind) and issubclass(kind, AutoContinuous)
        if not self._auto:
            self._model = self._by_site
            self._guide = block(  # the plates are the guide's own
                lambda constants, _: target.data.call(guide, constants),
                hide_fn=lambda site: site["type"] == "plate",
            )
            self._check_sites()
            return
        with precision(target.dtype):
            start = init_to_value(values={_SITE: jnp.asarray(from_torch(position))})
        options: dict[str, Any] = {"init_loc_fn": start}
        if guide in ("mean_field", "multivariate", "low_rank"):
            options["init_scale"] = init_scale
        if guide == "low_rank":
            options["rank"] = rank or math.ceil(math.sqrt(dim))
        build: Any = kind
        self._model, self._guide = self._flat, build(self._flat, **options)

    def optimise(
        self, num_steps: int, learning_rate: float, *, final: float, **options: Any
    ) -> np.ndarray:
        """Maximise the evidence lower bound; returns it at each step.

        Args:
            num_steps: how many steps.
            learning_rate: of Adam, at the start.
            final: its share at the end.
            options: `particles`, the draws per step; `clip`, the largest entry of a gradient;
                `seed` of everything random; `progress`.
        """
        target, root = self._target, options["seed"]
        optimiser = ClippedAdam(
            lambda step: learning_rate * final ** (step / num_steps),
            clip_norm=options["clip"],
        )
        loss = Trace_ELBO(num_particles=options["particles"])
        svi = SVI(self._model, self._guide, optimiser, loss)

        def advance(constants: Any, leaves: Any, state: Any, rows: Any, count: Array) -> Any:
            def body(step: Array, carry: Any) -> Any:
                state, losses = carry
                batch = () if rows is None else tuple(x[rows[step]] for x in leaves)
                state, loss = svi.update(state, constants, batch)
                return state, losses.at[step].set(loss)

            return lax.fori_loop(0, count, body, (state, jnp.zeros(_GROUP)))

        batches = _batches(target, root)
        trace = np.empty(num_steps)
        bar = tqdm(total=num_steps, desc="svi", disable=None if options["progress"] else True)
        with precision(target.dtype), bar:
            some = () if batches is None else tuple(x[: target.batch_size] for x in target.rows)
            key = jax.random.PRNGKey(stream_seed(root, Stream.PYRO) % (1 << 31))
            state = svi.init(key, target.constants, some)
            run = jax.jit(advance)
            for start in range(0, num_steps, _GROUP):
                count = min(_GROUP, num_steps - start)
                rows = None if batches is None else from_torch(batches.take(_GROUP)[:, 0])
                state, losses = run(target.constants, target.rows, state, rows, np.int32(count))
                trace[start : start + count] = -np.asarray(losses)[:count]
                bar.update(count)
            self._params = svi.get_params(state)
        return trace

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """See `inference.guides.Guide`; randomness from torch's global generator."""
        pieces: list[tuple[Tensor, Tensor]] = []
        with precision(self._target.dtype):
            for _ in range(0, count, _DRAWS):
                words = from_torch(torch.randint(2**32, (2,))).astype(np.uint32)
                positions, log_q = self._drawn(self._target.constants, self._params, words)
                pieces.append((to_torch(positions), to_torch(log_q)))
        positions, log_q = (torch.cat(parts)[:count] for parts in zip(*pieces, strict=True))
        return positions, log_q

    def _draws(self, constants: Any, params: Any, words: Array) -> tuple[Array, Array]:
        key, count = jax.random.wrap_key_data(words, impl="threefry2x32"), _DRAWS
        if not self._auto:
            one = lambda k: self._draw_sites(constants, params, k)  # noqa: E731
            return jax.vmap(one)(jax.random.split(key, count))
        guide: Any = self._guide
        posterior = guide.get_posterior(params)
        if isinstance(posterior, TransformedDistribution):
            positions, between = posterior.sample_with_intermediates(key, (count,))
            log_q = posterior.log_prob(positions, between)
        else:
            positions = posterior.sample(key, (count,))
            log_q: Any = posterior.log_prob(positions)
        return positions, log_q.reshape(count, -1).sum(-1)  # a normal's by coordinate

    def _draw_sites(self, constants: Any, params: Any, key: Array) -> tuple[Array, Array]:
        sites = trace(seed(substitute(self._guide, data=params), key)).get_trace(constants, ())
        drawn = {n: s for n, s in sites.items() if s["type"] == "sample"}
        log_q = sum(jnp.sum(s["fn"].log_prob(s["value"])) for s in drawn.values())
        values = [drawn[name]["value"] for name in self._target.layout.shapes]
        position, log_jacobian = self._place(constants, values)
        return position, log_q + log_jacobian

    def _place(self, constants: Any, values: list[Array]) -> tuple[Array, Array]:
        """Position and log-Jacobian of constrained values."""
        position = self._target.unconstrained(constants, *values)["position"]
        return position, self._target.log_jacobian_of(constants, position)["log_jacobian"]

    def _flat(self, constants: Any, leaves: Any) -> None:
        """The target as a NumPyro model of one site."""
        flat = ImproperUniform(constraints.real_vector, (), (self._target.layout.dim,))
        position: Any = numpyro.sample(_SITE, flat)
        with block():  # the target may be a NumPyro model itself
            value = self._target.log_density_of(constants, position, *leaves)
        numpyro.factor("target", value)

    def _by_site(self, constants: Any, leaves: Any) -> None:
        """The target as a NumPyro model of its parameters, in constrained space."""
        values: list[Any] = []
        for name, shape in self._shapes.items():
            batch = len(shape) - self._event_dims[name]
            flat = ImproperUniform(constraints.real, shape[:batch], shape[batch:])
            values.append(numpyro.sample(name, flat))
        with block():
            position, log_jacobian = self._place(constants, values)
            value = self._target.log_density_of(constants, position, *leaves)
        numpyro.factor("target", value - log_jacobian)

    def _check_sites(self) -> None:
        target = self._target
        with precision(target.dtype):
            zero = jnp.zeros(target.layout.dim)
            found = jax.eval_shape(target.constrained, target.constants, zero)
            self._shapes = {name: found[name].shape for name in target.layout.shapes}
            guide = seed(self._guide, jax.random.PRNGKey(0))
            sites = trace(guide).get_trace(target.constants, ())
        wanted = set(target.layout.shapes)
        self._event_dims = {
            name: site["fn"].event_dim
            for name, site in sites.items()
            if site["type"] == "sample" and not site["infer"].get("is_auxiliary", False)
        }
        if wanted != set(self._event_dims):
            raise ValueError(
                f"`guide` must draw the sites {sorted(wanted)}; got {sorted(self._event_dims)}."
            )


def is_autoguide(guide: Any) -> bool:
    """Whether `guide` is a subclass of NumPyro's `AutoContinuous`."""
    return inspect.isclass(guide) and issubclass(guide, AutoContinuous)


def _batches(target: JaxTarget, root: int) -> BatchStream | None:
    if target.batch_size is None or target.num_data is None:
        return None
    return BatchStream(
        root, [0], target.num_data, target.batch_size, shared=True, device=target.device
    )
