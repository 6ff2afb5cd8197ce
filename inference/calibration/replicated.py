"""Many data sets as one target whose chains each have their own, run by the one driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.data import Leaves
from inference.driver import Driver
from inference.errors import InitError
from inference.gradients import LogDensityAndGradient
from inference.plan import Plan
from inference.rng import Stream, generator
from inference.samplers import Sampler
from inference.targets import Named, Target

_TRIES = 100


class ReplicatedTarget(Target):
    """A target of which chain c sees data set c.

    A minibatch is a set of row numbers; `evaluate` takes them from each chain's own data.

    Args:
        base: the target of one data set.
        data: its arrays for every chain, each of shape (chains, n, ...).
        gradient: log densities and gradients of `base`, whatever rows it is given.
    """

    def __init__(self, base: Target, data: Leaves, gradient: LogDensityAndGradient) -> None:
        self._base, self._rows = base, data
        self.layout, self.data, self.num_data = base.layout, base.data, base.num_data
        self.batch_size, self.dtype, self.device = base.batch_size, base.dtype, base.device
        self.leaves = () if base.batch_size is None else (torch.arange(base.num_data or 0),)
        self.num_chains = len(data[0])
        self._chains = torch.arange(self.num_chains)[:, None]
        self._gradient = gradient

    def evaluate(self, positions: Tensor, batch: Leaves | None) -> tuple[Tensor, Tensor]:
        """Log densities and gradients of all chains, each on its own data."""
        rows = (
            self._rows
            if batch is None
            else tuple(x[self._chains, batch[0]] for x in self._rows)
        )
        return self._gradient(positions, rows)

    def start(self, seed: int) -> Tensor:
        """Positions (chains, dim) from U(−2, 2) with finite log densities and gradients.

        Raises:
            InitError: if a chain has none in 100 tries.
        """
        stream = generator(seed, Stream.INIT)
        shape = (self.num_chains, self.layout.dim)
        positions = torch.zeros(shape, dtype=self.dtype)
        pending = torch.ones(self.num_chains, dtype=torch.bool)
        first = None
        if self.batch_size is not None:
            first = (torch.arange(self.batch_size).expand(self.num_chains, -1),)
        for _ in range(_TRIES):
            fresh = 4 * torch.rand(shape, generator=stream, dtype=self.dtype) - 2
            positions = torch.where(pending[:, None], fresh, positions)
            values, gradients = self.evaluate(positions, first)
            pending = ~(values.isfinite() & gradients.isfinite().all(-1))
            if not bool(pending.any()):
                return positions
        raise InitError(
            f"no starting point with a finite log density and gradient was found for "
            f"{int(pending.sum())} of {self.num_chains} chains in {_TRIES} tries."
        )

    def log_density(self, position: Tensor, leaves: Leaves | None = None) -> Tensor:
        """See `Target.log_density`; without `leaves`, that of the base target's own data."""
        return self._base.log_density(position, leaves)

    def constrain(self, position: Tensor) -> Named:
        """The parameters alone: deterministic sites may depend on the data."""
        values = self._base.constrain(position)
        return {name: values[name] for name in self.layout.shapes}

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """See `Target.unconstrain`."""
        return self._base.unconstrain(values)

    def log_jacobian(self, position: Tensor) -> Tensor:
        """See `Target.log_jacobian`."""
        return self._base.log_jacobian(position)

    def terms(self, position: Tensor) -> Named:
        """See `Target.terms`."""
        return self._base.terms(position)

    def log_likelihood(self, values: Mapping[str, Tensor], data: Any = None) -> Named:
        """See `Target.log_likelihood`."""
        return self._base.log_likelihood(values, data)


def run(target: ReplicatedTarget, sampler: Sampler, plan: Plan) -> dict[str, np.ndarray]:
    """Draws (chain, draw, *shape) of every chain's own posterior."""
    positions = target.start(plan.seed)
    return Driver(target, sampler, plan, target.evaluate).run(positions).draws
