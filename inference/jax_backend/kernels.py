"""NUTS by NumPyro's kernel, all chains at once, in compiled groups of transitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.infer.hmc import hmc
from torch import Tensor
from tqdm.auto import tqdm

from inference.gradients import map_chains
from inference.jax_backend.arrays import Array, from_torch, precision, to_torch
from inference.jax_backend.target import JaxTarget
from inference.plan import Plan, Run, Store
from inference.rng import Stream, stream_seed

_GROUP = 50
_NAMES = {"full_mass": "dense_mass"}


def run(target: JaxTarget, plan: Plan, positions: Tensor, *, options: Mapping[str, Any]) -> Run:
    """Sample all chains in lock-step.

    Ctrl-C keeps the draws that are complete, which every chain has the same number of.

    Args:
        target: bound in float64.
        plan: lengths, thinning, seed and temperature.
        positions: starting points, shape (chains, dim).
        options: of the kernel, checked.

    Raises:
        KeyboardInterrupt: if interrupted before the first draw.
    """
    draws, statistics = Store(plan.num_samples), Store(plan.num_samples)
    total = plan.num_warmup + plan.thin * plan.num_samples
    interrupted = False
    with precision(target.dtype), tqdm(total=total, disable=not plan.progress or None) as bar:
        try:
            bar.set_description("nuts")
            kernel = _Kernel(target, plan, options)
            state = kernel.start(positions)
            for start in range(0, total, _GROUP):
                steps = range(start, min(start + _GROUP, total))
                kept = [s for s in steps if _kept(s, plan)]
                state, found = kernel.advance(state, len(steps), [s - start for s in kept])
                if kept:
                    _store(target, found, draws, statistics)
                bar.update(len(steps))
        except KeyboardInterrupt:
            interrupted = True
            if not statistics.filled:
                raise
    count = min(draws.filled, statistics.filled)
    return Run(
        draws.finished(count),
        statistics.finished(count),
        warmup={},
        state={},
        interrupted=interrupted,
        died_at={},
        compiled=True,
    )


class _Kernel:
    """NumPyro's functions under `vmap` and `jit`, the data passed as arguments."""

    def __init__(self, target: JaxTarget, plan: Plan, options: Mapping[str, Any]) -> None:
        self._constants = target.constants
        given = {_NAMES.get(name, name): value for name, value in options.items()}
        self._temperature = plan.temperature

        def potential(constants: Any) -> Any:
            return lambda z: -target.log_density_of(constants, z) / plan.temperature

        first, following = hmc(potential_fn_gen=potential, algo="NUTS")

        def start(constants: Any, position: Array, words: Array) -> Any:
            key = jax.random.wrap_key_data(words, impl="threefry2x32")
            return first(
                position, plan.num_warmup, model_args=(constants,), rng_key=key, **given
            )

        def advance(constants: Any, state: Any, slots: Array, count: Array) -> Any:
            def body(step: Array, carry: Any) -> Any:
                state, room = carry
                new = jax.vmap(lambda s: following(s, (constants,)))(state)
                return new, jax.tree.map(
                    lambda r, x: lax.dynamic_update_index_in_dim(r, x, slots[step], 0),
                    room,
                    _figures(new),
                )

            room = jax.tree.map(
                lambda x: jnp.zeros((_GROUP + 1, *x.shape), x.dtype), _figures(state)
            )
            return lax.fori_loop(0, count, body, (state, room))

        self._start = jax.jit(jax.vmap(start, in_axes=(None, 0, 0)))
        self._advance = jax.jit(advance)
        self._words = np.array(
            [divmod(stream_seed(plan.seed, Stream.PYRO, c), 1 << 32) for c in plan.chains],
            np.uint32,
        )

    def start(self, positions: Tensor) -> Any:
        """The state of every chain."""
        return self._start(self._constants, from_torch(positions), self._words)

    def advance(self, state: Any, count: int, kept: list[int]) -> tuple[Any, dict[str, Any]]:
        """The state after `count` transitions, and arrays (kept, chain, ...) of some."""
        slots = np.full(_GROUP, _GROUP, np.int32)
        slots[kept] = np.arange(len(kept), dtype=np.int32)
        state, room = self._advance(self._constants, state, slots, np.int32(count))
        found = {name: np.asarray(values)[: len(kept)] for name, values in room.items()}
        found["lp"] = -found.pop("potential") * self._temperature
        return state, found


def _figures(state: Any) -> dict[str, Array]:
    """What is kept of a state of all chains."""
    return {
        "position": state.z,
        "potential": state.potential_energy,
        "energy": state.energy,
        "acceptance_rate": state.accept_prob,
        "step_size": state.adapt_state.step_size,
        "n_steps": state.num_steps,
        "diverging": state.diverging,
    }


def _kept(step: int, plan: Plan) -> bool:
    since = step - plan.num_warmup
    return since >= 0 and since % plan.thin == plan.thin - 1


def _store(target: JaxTarget, found: dict[str, Any], draws: Store, statistics: Store) -> None:
    positions = to_torch(found.pop("position").swapaxes(0, 1))
    chains, count, dim = positions.shape
    values = map_chains(target.constrain, positions.reshape(-1, dim), chain_method="vectorized")
    draws.append({n: v.reshape(chains, count, *v.shape[1:]).numpy() for n, v in values.items()})
    found["tree_depth"] = np.frexp(found["n_steps"].astype(float))[1]
    statistics.append({name: values.T for name, values in found.items()})
