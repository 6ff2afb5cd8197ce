"""Several steps of all chains as one compiled call.

The log density, its gradient and the sampler's step are traced into one graph of tensor
operations (the model's Python runs once), a number of steps is unrolled, and TorchInductor
turns the graph into machine code. Noise, rows and step sizes are arguments, so that the numbers
are those of the eager steps up to rounding.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as CompilationTimeoutError
from typing import Any

import torch
from torch import Tensor

from inference.blocks import Block, EagerStepper, Trajectory
from inference.data import take_rows
from inference.minibatches import Minibatches
from inference.samplers import Sampler
from inference.samplers.base import Evaluate
from inference.tracing import exclusive_tracing, trace

_LOGGER = logging.getLogger(__name__)
_LOGGER.addHandler(logging.NullHandler())

COMPILE = ("auto", True, False)

_TIME_LIMIT = 300.0
_MOST_UNROLLED = 8
_GRAPH_LIMIT = 1500  # nodes; compilation takes time in proportion to them
_FEWEST_STEPS = 5000  # below this not even tracing the target pays
# Seconds, measured on one core: what dispatching one operation costs, the share of it that
# compiled code saves, and what compilation costs at least and per node.
_PER_OPERATION, _SAVED = 4e-6, 0.8
_PER_COMPILATION, _PER_NODE = 5.0, 0.015


class CompiledStepper:
    """Steps in compiled groups; eagerly where a group does not fit between two events.

    Groups are aligned to the number of the step, so that which steps run compiled does not
    depend on where a run is cut into chunks.

    Args:
        sampler: whose steps are taken.
        evaluate: log density and gradient, traceable.
        minibatches: where a step's data comes from.
        eager: what takes the other steps.
        mode: True to compile in any case, "auto" to compile where it is predicted to pay.
        steps: number of steps to come, in warm-up and afterwards.
    """

    def __init__(
        self,
        sampler: Sampler,
        evaluate: Evaluate,
        minibatches: Minibatches,
        eager: EagerStepper,
        *,
        mode: bool | str,
        steps: dict[bool, int],
    ) -> None:
        self._sampler, self._evaluate, self._minibatches = sampler, evaluate, minibatches
        self._eager, self._mode, self._steps = eager, mode, steps
        self._unroll = _MOST_UNROLLED
        self._groups: dict[bool, _Group | None] = {}

    @property
    def compiled(self) -> bool:
        """Whether any step ran compiled."""
        return any(group is not None for group in self._groups.values())

    def align(self, num_steps: int) -> int:
        """See `Stepper`: a multiple of the number of unrolled steps."""
        return -(-num_steps // _MOST_UNROLLED) * _MOST_UNROLLED

    def advance(self, state: Any, block: Block) -> tuple[Any, list[Trajectory]]:
        """See `Stepper`."""
        group = self._group(state, block)
        if group is None:
            return self._eager.advance(state, block)
        done: list[Trajectory] = []
        start = 0
        while start < block.num_steps:
            past = (block.first + start) % group.unroll
            stop = start + group.unroll - past
            whole = past == 0 and stop <= block.num_steps
            part = block[slice(start, min(stop, block.num_steps))]
            state, found = (group if whole else self._eager).advance(state, part)
            done += found
            start += part.num_steps
        return state, done

    def _group(self, state: Any, block: Block) -> _Group | None:
        warmup = block.settings[0].warmup
        if warmup not in self._groups:
            self._groups[warmup] = self._build(state, block, warmup)
        return self._groups[warmup]

    def _build(self, state: Any, block: Block, warmup: bool) -> _Group | None:
        if self._mode == "auto" and self._steps[warmup] < _FEWEST_STEPS:
            return None
        try:
            group = _Group(self._sampler, self._evaluate, self._minibatches, warmup)
            nodes = group.trace(state, block[slice(0, 1)], 1)
            unroll = max(1, min(_MOST_UNROLLED, _GRAPH_LIMIT // nodes))
            unroll = 1 << (unroll.bit_length() - 1)  # a divisor of the longest
            if self._mode == "auto" and not _pays(nodes, unroll, self._steps[warmup]):
                return None
            return group.compile(state, block, unroll)
        except Exception as error:  # the eager steps can do all of it
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            level = logging.WARNING if self._mode is True else logging.INFO
            _LOGGER.log(level, "the steps are not compiled: %s", reason)
            return None


def _pays(nodes: int, unroll: int, steps: int) -> bool:
    saving = steps * nodes * _PER_OPERATION * _SAVED
    return saving > _PER_COMPILATION + _PER_NODE * nodes * unroll


class _Group:
    """A fixed number of steps as one function of tensors."""

    def __init__(
        self, sampler: Sampler, evaluate: Evaluate, minibatches: Minibatches, warmup: bool
    ) -> None:
        self._sampler, self._evaluate, self._minibatches = sampler, evaluate, minibatches
        self._warmup = warmup
        self._run: Callable[..., Any] = self._eager
        self._state_type: Any = None
        self._has: tuple[bool, ...] = ()
        self._coefficients_type: Any = None
        self._table: dict[Any, Any] = {}
        self._num_leaves = self._num_anchor = 0
        self.unroll = 1

    def advance(self, state: Any, block: Block) -> tuple[Any, list[Trajectory]]:
        """See `Stepper`."""
        with torch.no_grad():
            new, states, values, norms = self._unpack(self._run(*self._pack(state, block)))
        kept = [step for step, keep in enumerate(block.keep) if keep]
        if not kept:
            states = None
        elif len(kept) < len(block.keep):
            states = type(state)(*(None if f is None else f[kept] for f in states))
        trajectory = Trajectory(
            states=states,
            log_density=values,
            kept_log_density=values[kept],
            gradient_norm=norms[kept],
            settings=[block.settings[step] for step in kept],
            steps=[block.first + step for step in kept],
        )
        return new, [trajectory]

    def trace(self, state: Any, block: Block, unroll: int) -> int:
        """Trace `unroll` steps; returns the number of operations in the graph."""
        self.unroll = unroll
        self._state_type = type(state)
        self._has = tuple(f is not None for f in state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # copies: an argument that is another one too would be traced as that
            arguments = [argument.clone() for argument in self._pack(state, block)]
            graph = trace(self._eager, *arguments)
        self._run = graph
        return sum(node.op == "call_function" for node in graph.graph.nodes)

    def compile(self, state: Any, block: Block, unroll: int) -> _Group:
        """Compile `unroll` steps, and check them against the same steps taken eagerly.

        Raises:
            RuntimeError: if there is no compiler, it takes too long, or the numbers differ.
        """
        some = _resized(block, unroll)
        self.trace(state, some, unroll)
        compiled: Any = torch.compile(self._run, fullgraph=True, dynamic=False)
        arguments = [argument.clone() for argument in self._pack(state, some)]

        def first_call() -> Any:
            with exclusive_tracing(), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's own
                return compiled(*arguments)

        worker = ThreadPoolExecutor(1)
        try:
            found = worker.submit(first_call).result(_TIME_LIMIT)
        except CompilationTimeoutError as error:
            raise RuntimeError(f"compilation took over {_TIME_LIMIT:g} s") from error
        finally:
            worker.shutdown(wait=False)
        with torch.no_grad():
            expected = self._eager(*arguments)
        tolerance = 1e-9 if expected[0].dtype == torch.float64 else 1e-3
        for ours, theirs in zip(found, expected, strict=True):
            if not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True):
                raise RuntimeError("the compiled steps give other numbers")
        self._run = compiled
        return self

    def _pack(self, state: Any, block: Block) -> list[Tensor]:
        """The arguments of a call: state, noise, coefficients, rows, anchor."""
        rows = () if block.rows is None else take_rows(self._minibatches.leaves, block.rows)
        anchor = tuple(self._minibatches.anchor or ()) if rows else ()
        self._num_leaves, self._num_anchor = len(rows), len(anchor)
        fields = [f for f in state if f is not None]
        numbers = self._numbers(block, fields[0])
        return [*fields, block.noise, numbers, *rows, *anchor]

    def _numbers(self, block: Block, like: Tensor) -> Tensor:
        """Coefficients, shape (steps, count); a constant step size makes them only once."""
        key = (block.settings[0], block.num_steps) if len(set(block.settings)) == 1 else None
        if key in self._table:
            return self._table[key]
        found = [self._sampler.coefficients(settings) for settings in block.settings]
        self._coefficients_type = type(found[0])
        numbers = torch.tensor([tuple(c) for c in found], dtype=like.dtype, device=like.device)
        if key is not None:
            self._table = {key: numbers}
        return numbers

    def _eager(self, *flat: Tensor) -> tuple[Tensor, ...]:
        """All steps; returns the new state, the states steps started from, values and norms."""
        fields = iter(flat)
        state = self._state_type(*(next(fields) if has else None for has in self._has))
        noise, numbers, *rest = fields
        rows, anchor = rest[: self._num_leaves], rest[self._num_leaves :]
        states, values, norms = list[Any](), list[Tensor](), list[Tensor]()
        for step in range(self.unroll):
            batch = (*(leaf[step] for leaf in rows), *anchor) if rows else None
            states.append(state)
            coefficients = self._coefficients_type(*numbers[step].unbind())
            state, info = self._sampler.step(
                self._evaluate, state, batch, noise[step], coefficients, warmup=self._warmup
            )
            values.append(info.log_density)
            norms.append(torch.linalg.vector_norm(info.gradient, dim=-1))
        stacked = (
            torch.stack(field) for field in zip(*states, strict=True) if field[0] is not None
        )
        new = (field for field in state if field is not None)
        return (*new, *stacked, torch.stack(values), torch.stack(norms))

    def _unpack(self, flat: tuple[Tensor, ...]) -> tuple[Any, Any, Tensor, Tensor]:
        """The new state, the states steps started from, log densities, gradient norms."""
        results = iter(flat)
        new = self._state_type(*(next(results) if has else None for has in self._has))
        states = self._state_type(*(next(results) if has else None for has in self._has))
        values, norms = results
        return new, states, values, norms


def _resized(block: Block, steps: int) -> Block:
    """A block of that many steps like the first of `block`, to trace with."""
    one = block[slice(0, 1)]
    rows = None if one.rows is None else one.rows.expand(steps, *one.rows.shape[1:])
    noise = one.noise.expand(steps, *one.noise.shape[1:])
    return Block(one.first, one.settings * steps, one.keep * steps, noise, rows)
