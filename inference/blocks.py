"""Runs of steps between two events, the unit in which chains advance.

Within a block nothing happens but steps: no momentum is redrawn, no chain is frozen, the phase
does not change. That is what allows a block to run as one compiled call.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from inference.minibatches import Minibatches
from inference.samplers import Sampler, Settings, take_step
from inference.samplers.base import Evaluate


class Block(NamedTuple):
    """Consecutive steps and all that is random in them.

    Attributes:
        first: number of the first step.
        settings: of every step; `warmup` is the same in all.
        keep: whether the position a step starts from is stored, by step.
        noise: standard normal, shape (steps, chains, dim).
        rows: row numbers (steps, chains, n), or None where every step takes all the data.
    """

    first: int
    settings: list[Settings]
    keep: list[bool]
    noise: Tensor
    rows: Tensor | None

    def __getitem__(self, steps: slice) -> Block:  # type: ignore[override]
        """The steps of a slice, counted from the block's first."""
        return Block(
            self.first + (steps.start or 0),
            self.settings[steps],
            self.keep[steps],
            self.noise[steps],
            None if self.rows is None else self.rows[steps],
        )

    @property
    def num_steps(self) -> int:
        """Steps in the block."""
        return len(self.settings)


class Trajectory(NamedTuple):
    """What a block computed, steps first.

    Attributes:
        states: states that kept steps started from, each field (kept, chains, ...) or None.
        log_density: at every step, shape (steps, chains).
        kept_log_density: shape (kept, chains).
        gradient_norm: of kept steps, shape (kept, chains).
        settings: of kept steps.
        steps: numbers of kept steps.
    """

    states: Any
    log_density: Tensor
    kept_log_density: Tensor
    gradient_norm: Tensor
    settings: list[Settings]
    steps: list[int]


class Stepper(Protocol):
    """What advances all chains through a block."""

    @property
    def compiled(self) -> bool:
        """Whether any step ran compiled."""
        ...

    def advance(self, state: Any, block: Block) -> tuple[Any, list[Trajectory]]:
        """The state after the block, and what happened in it, in order."""
        ...

    def align(self, num_steps: int) -> int:
        """The smallest suitable number of steps between interruptions, at least `num_steps`."""
        ...


class EagerStepper:
    """Step after step.

    Args:
        sampler: whose steps are taken.
        evaluate: log density and gradient.
        minibatches: where a step's data comes from.
    """

    compiled = False

    def __init__(self, sampler: Sampler, evaluate: Evaluate, minibatches: Minibatches) -> None:
        self._sampler, self._evaluate, self._minibatches = sampler, evaluate, minibatches

    def align(self, num_steps: int) -> int:
        """See `Stepper`: any number will do."""
        return num_steps

    def advance(self, state: Any, block: Block) -> tuple[Any, list[Trajectory]]:
        """See `Stepper`."""
        states: list[Any] = []
        norms: list[Tensor] = []
        values: list[Tensor] = []
        for step, settings in enumerate(block.settings):
            batch = self._minibatches.take(None if block.rows is None else block.rows[step])
            new, info = take_step(
                self._sampler, self._evaluate, state, batch, block.noise[step], settings
            )
            values.append(info.log_density)
            if block.keep[step]:
                states.append(state)
                norms.append(torch.linalg.vector_norm(info.gradient, dim=-1))
            state = new
        return state, [gather(block, states, torch.stack(values), norms)]


def gather(
    block: Block, states: list[Any], log_density: Tensor, norms: list[Tensor]
) -> Trajectory:
    """The trajectory of steps taken one by one."""
    kept = [step for step, keep in enumerate(block.keep) if keep]
    return Trajectory(
        states=stack_states(states) if states else None,
        log_density=log_density,
        kept_log_density=log_density[kept],
        gradient_norm=torch.stack(norms) if norms else log_density[:0],
        settings=[block.settings[step] for step in kept],
        steps=[block.first + step for step in kept],
    )


def stack_states(states: list[Any]) -> Any:
    """One state whose fields have a leading axis over `states`."""
    fields = zip(*states, strict=True)
    return type(states[0])(*(None if f[0] is None else torch.stack(f) for f in fields))


def join(trajectories: list[Trajectory]) -> Trajectory:
    """Trajectories one after another."""
    states = [t.states for t in trajectories if t.states is not None]
    joined = None
    if states:
        fields = zip(*states, strict=True)
        joined = type(states[0])(*(None if f[0] is None else torch.cat(f) for f in fields))
    return Trajectory(
        states=joined,
        log_density=torch.cat([t.log_density for t in trajectories]),
        kept_log_density=torch.cat([t.kept_log_density for t in trajectories]),
        gradient_norm=torch.cat([t.gradient_norm for t in trajectories]),
        settings=[s for t in trajectories for s in t.settings],
        steps=[s for t in trajectories for s in t.steps],
    )
