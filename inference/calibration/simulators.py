"""The two simulators of Geweke's test, many chains at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from inference.calibration.joint import Joint
from inference.calibration.replicated import ReplicatedTarget
from inference.data import BatchStream, Leaves, take_rows
from inference.gradients import log_density_and_gradient, map_chains
from inference.rng import NormalStream, Stream
from inference.samplers import Sampler, Settings
from inference.targets import Target

Step = Callable[[Tensor, Leaves], Tensor]
"""`(positions (chains, dim), data of every chain) -> positions`."""


class Simulators:
    """Runs the marginal- and the successive-conditional simulator.

    Args:
        joint: the model, run forwards.
        num_chains: successive simulators side by side.
        chain_method: as for `inference.sample`.
    """

    def __init__(self, joint: Joint, num_chains: int, chain_method: str) -> None:
        self._joint, self._num_chains = joint, num_chains
        self._chain_method = chain_method
        values = joint.prior(num_chains)
        leaves = joint.simulate(values)
        self._start = self.unconstrain(values)
        self._varying = [i for i, x in enumerate(leaves) if bool((x != x[:1]).any())]
        if not self._varying:
            raise ValueError("the simulated data are the same whatever the parameters.")
        scalars = [
            f"{name}[{i}]" if shape.numel() > 1 else name
            for name, shape in joint.target.layout.shapes.items()
            for i in range(shape.numel())
        ]
        means = [f"mean({label})" for label in joint.target.data.labels]
        self._means = [means[i] for i in self._varying]
        first = [*scalars, *self._means]
        products = [f"{a} * {b}" for a in scalars for b in self._means]
        self.names = (*first, *(f"{name}^2" for name in first), *products)

    def constrain(self, positions: Tensor) -> dict[str, Tensor]:
        """Parameters (chains, *shape) of positions."""
        target = self._joint.target
        found = map_chains(target.constrain, positions, chain_method=self._chain_method)
        return {name: found[name] for name in target.layout.shapes}

    def unconstrain(self, values: dict[str, Tensor]) -> Tensor:
        """Positions (chains, dim) of parameters."""
        unconstrain = self._joint.target.unconstrain
        return map_chains(unconstrain, values, chain_method=self._chain_method)

    def marginal(self, num_samples: int) -> Tensor:
        """Moments of independent pairs, (num_chains · num_samples, moment)."""
        values = self._joint.prior(self._num_chains * num_samples)
        return self._moments(self.unconstrain(values), self._joint.simulate(values))

    def successive(self, step: Step, num_samples: int, *, progress: bool) -> Tensor:
        """Means over time of every chain, (num_chains, moment).

        A pair is the parameters after the step and the data it saw: a step that ignores its
        data changes their joint law.
        """
        position, total = self._start, torch.zeros(self._num_chains, len(self.names)).double()
        for _ in tqdm(range(num_samples), disable=None if progress else True):
            leaves = self._joint.simulate(self.constrain(position))
            position = _check_finite(step(position, leaves))
            total += self._moments(position, leaves)
        return total / num_samples

    def own(self, transition: Callable[[Any, Any], Any]) -> Step:
        """A step made of the user's transition of constrained parameters."""

        def step(position: Tensor, leaves: Leaves) -> Tensor:
            moved = transition(
                self._joint.nest(self.constrain(position)), self._joint.structure(leaves)
            )
            return self.unconstrain(self._joint.read(moved, len(position)))

        return step

    def _moments(self, positions: Tensor, leaves: Leaves) -> Tensor:
        means = torch.stack(
            [leaves[i].double().flatten(1).mean(1) for i in self._varying], dim=1
        )
        first = torch.cat([positions.double(), means], dim=1)
        products = positions.double()[:, :, None] * means[:, None]
        return torch.cat([first, first.square(), products.flatten(1)], dim=1)


def _check_finite(positions: Tensor) -> Tensor:
    bad = int((~positions.isfinite().all(-1)).sum())
    if bad:
        raise ValueError(
            f"the transition took {bad} of {len(positions)} chains to values that are not "
            "finite. Reduce `step_size`."
        )
    return positions


class Sampling:
    """A step: several of a sampler's on the data of the day, the momentum kept between them."""

    def __init__(
        self,
        target: Target,
        sampler: Sampler,
        *,
        temperature: float,
        num_steps: int,
        seed: int,
        chain_method: str,
    ) -> None:
        self._target, self._sampler = target, sampler
        self._settings = Settings(sampler.step_size, temperature, warmup=False)
        self._num_steps, self._seed = num_steps, seed
        self._gradient = log_density_and_gradient(target, chain_method)
        self._state: Any = None

    def __call__(self, position: Tensor, leaves: Leaves) -> Tensor:
        """Positions after the steps; the state goes on from the last call."""
        if self._state is None:
            self._open_streams(len(position))
            self._state = self._sampler.init(position, self._noise.next(), self._settings)
        target = ReplicatedTarget(self._target, leaves, self._gradient)
        for _ in range(self._num_steps):
            batch = None
            if self._batches is not None:
                batch = take_rows(target.leaves, self._batches.next())
            self._state, _ = self._sampler.step(
                target.evaluate, self._state, batch, self._noise.next(), self._settings
            )
        return self._state.position

    def _open_streams(self, num_chains: int) -> None:
        target, chains = self._target, range(num_chains)
        options: dict[str, Any] = {"device": target.device}
        self._noise = NormalStream(
            self._seed, Stream.NOISE, chains, target.layout.dim, dtype=target.dtype, **options
        )
        self._batches = None
        if target.batch_size is not None and target.num_data is not None:
            self._batches = BatchStream(
                self._seed, chains, target.num_data, target.batch_size, shared=False, **options
            )
