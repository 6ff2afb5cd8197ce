"""Blocks of steps as one compiled loop of JAX."""

from __future__ import annotations

import logging
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from torch import Tensor

from inference.blocks import Block, Trajectory
from inference.jax_backend.arrays import Array, from_torch, precision, to_torch
from inference.jax_backend.target import JaxTarget
from inference.minibatches import Minibatches, controlled
from inference.samplers import Sampler

_LOGGER = logging.getLogger(__name__)
_LOGGER.addHandler(logging.NullHandler())

_CAPACITY = 128
_CAPACITY_VALUES = 1 << 22


class ScanStepper:
    """Steps in a compiled loop with room for a fixed number of them.

    The number of steps to take is an argument, so that one program serves blocks of every
    length: which numbers come out does not depend on where a run is cut. There is a program
    for warm-up and one for sampling.

    Args:
        target: the log density.
        sampler: whose steps are taken.
        minibatches: where a step's data comes from.
        control_variates: whether gradients are corrected by those at the anchor.

    Attributes:
        compiled: True.
    """

    compiled = True

    def __init__(
        self,
        target: JaxTarget,
        sampler: Sampler,
        minibatches: Minibatches,
        *,
        control_variates: bool,
    ) -> None:
        self._target, self._sampler, self._minibatches = target, sampler, minibatches
        self._control_variates = control_variates
        self._programs: dict[Any, Any] = {}
        self._table: dict[Any, np.ndarray] = {}
        self._capacity = 0

    def align(self, num_steps: int) -> int:
        """See `Stepper`: any number will do."""
        return num_steps

    def advance(self, state: Any, block: Block) -> tuple[Any, list[Trajectory]]:
        """See `Stepper`."""
        if not self._capacity:
            most = _CAPACITY_VALUES // state.position.numel()
            self._capacity = max(1, min(_CAPACITY, most))
        done: list[Trajectory] = []
        for start in range(0, block.num_steps, self._capacity):
            part = block[slice(start, min(start + self._capacity, block.num_steps))]
            state, found = self._advance(state, part)
            done.append(found)
        return state, done

    def _advance(self, state: Any, block: Block) -> tuple[Any, Trajectory]:
        kept = [step for step, keep in enumerate(block.keep) if keep]
        with precision(self._target.dtype):
            arguments = self._arguments(state, block, kept)
            program = self._program(block.settings[0].warmup, arguments)
            new, states, values, norms = program(*arguments)
            count = len(kept)
            moved = jax.tree.map(to_torch, new)
            stored = jax.tree.map(lambda x: to_torch(np.asarray(x)[:count]), states)
            like = to_torch(np.asarray(values)[: block.num_steps])
        trajectory = Trajectory(
            states=stored if kept else None,
            log_density=like,
            kept_log_density=like[kept],
            gradient_norm=to_torch(np.asarray(norms)[:count]),
            settings=[block.settings[step] for step in kept],
            steps=[block.first + step for step in kept],
        )
        return moved, trajectory

    def _arguments(self, state: Any, block: Block, kept: list[int]) -> tuple[Any, ...]:
        """State, randomness and numbers of each step, and where its state is stored."""
        anchor = self._minibatches.anchor if block.rows is not None else None
        slots = np.full(self._capacity, self._capacity, np.int32)
        slots[kept] = np.arange(len(kept), dtype=np.int32)
        return (
            self._target.constants,
            self._target.rows if block.rows is not None else (),
            type(state)(*(None if f is None else from_torch(f) for f in state)),
            self._padded(block.noise),
            self._numbers(block),
            None if block.rows is None else self._padded(block.rows.to(torch.int32)),
            None if anchor is None else tuple(map(from_torch, anchor)),
            slots,
            np.int32(block.num_steps),
        )

    def _padded(self, values: Tensor) -> np.ndarray:
        """As many steps as there is room for."""
        array = from_torch(values)
        if len(array) == self._capacity:
            return array
        room = np.zeros((self._capacity, *array.shape[1:]), array.dtype)
        room[: len(array)] = array
        return room

    def _numbers(self, block: Block) -> np.ndarray:
        """Coefficients, shape (capacity, count); a constant step size makes them only once."""
        key = block.settings[0] if len(set(block.settings)) == 1 else None
        if key in self._table:
            return self._table[key]
        settings = [*block.settings, *block.settings[-1:] * self._capacity][: self._capacity]
        dtype = from_torch(torch.empty(0, dtype=self._target.dtype)).dtype
        numbers = np.array([tuple(self._sampler.coefficients(s)) for s in settings], dtype)
        if key is not None:
            self._table = {key: numbers}
        return numbers

    def _program(self, warmup: bool, arguments: tuple[Any, ...]) -> Any:
        """The loop, compiled for arguments of these shapes."""
        key = (warmup, arguments[6] is None)
        if key not in self._programs:
            started = time.perf_counter()
            loop = _Loop(self._target, self._sampler, warmup, self._control_variates)
            self._programs[key] = jax.jit(loop).lower(*arguments).compile()
            _LOGGER.info("compiled in %.2f s", time.perf_counter() - started)
        return self._programs[key]


class _Loop:
    """A number of steps, to be traced."""

    def __init__(
        self, target: JaxTarget, sampler: Sampler, warmup: bool, control_variates: bool
    ) -> None:
        self._target, self._sampler, self._warmup = target, sampler, warmup
        self._control_variates = control_variates

    def __call__(
        self,
        constants: Any,
        leaves: Any,
        state: Any,
        noise: Array,
        numbers: Array,
        rows: Array | None,
        anchor: Any,
        slots: Array,
        count: Array,
    ) -> tuple[Any, Any, Array, Array]:
        """The new state; states that kept steps started from; values; norms of kept steps."""
        named = self._coefficients_type
        evaluate: Any = lambda z, batch: self._target.evaluate_arrays(constants, z, batch)  # noqa: E731
        if self._control_variates:
            evaluate = controlled(evaluate)

        def body(step: Array, carry: Any) -> Any:
            state, states, values, norms = carry
            batch = None
            if rows is not None:
                batch = (*(leaf[rows[step]] for leaf in leaves), *(anchor or ()))
            new, info = self._sampler.step(
                evaluate,
                state,
                batch,
                noise[step],
                named(*numbers[step]),
                warmup=self._warmup,
            )
            norm = jnp.linalg.norm(info.gradient, axis=-1)
            return (
                new,
                jax.tree.map(lambda room, x: _put(room, x, slots[step]), states, state),
                _put(values, info.log_density, step),
                _put(norms, norm, slots[step]),
            )

        size, chains = noise.shape[:2]
        room = jax.tree.map(lambda x: jnp.zeros((size + 1, *x.shape), x.dtype), state)
        values = jnp.zeros((size, chains), noise.dtype)
        norms = jnp.zeros((size + 1, chains), noise.dtype)
        return lax.fori_loop(0, count, body, (state, room, values, norms))

    @property
    def _coefficients_type(self) -> Any:
        from inference.samplers import Settings

        return type(self._sampler.coefficients(Settings(self._sampler.step_size, 1.0, False)))


def _put(room: Array, value: Array, index: Array) -> Array:
    return lax.dynamic_update_index_in_dim(room, value.astype(room.dtype), index, 0)
