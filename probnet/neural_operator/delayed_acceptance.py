"""Markov chains whose moves cheap likelihoods screen before an exact one decides.

Everything happens in coordinates x in which the prior is N(0, I). The target is

    π_L(x) ∝ N(x; 0, I) exp(ℓ_L(x)),

with ℓ_L the exact log likelihood and ℓ_0, ..., ℓ_{L-1} cheaper ones. A kernel that is
reversible with respect to π_0 takes a few steps; where it ends is accepted with probability

    α = min(1, exp(ℓ_1(x') - ℓ_1(x)) / exp(ℓ_0(x') - ℓ_0(x))),

which is a kernel that is reversible with respect to π_1, and so on up to π_L. However bad the
cheap likelihoods are, the law is the exact one; they only decide how often it is asked.

Sources: Christen & Fox (J. Comput. Graph. Stat. 14, 2005) for two levels; Lykkegaard,
Dodwell, Fox, Mingas & Scheichl (SIAM/ASA JUQ 11, 2023) for several levels and inner chains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from inference._checks import check_integer
from inference.rng import NormalStream, Stream, generator

LogLikelihood = Callable[[Tensor], Tensor]
"""`(chains, dim) -> log likelihoods (chains,)`."""


@dataclass(frozen=True)
class Level:
    """A likelihood in the hierarchy.

    Attributes:
        log_likelihood: ℓ, of positions of several chains.
        num_steps: steps of the level below between two tests of this one; the cheapest level,
            which has none below, is tested at every step of the kernel.
    """

    log_likelihood: LogLikelihood
    num_steps: int = 1


class State(NamedTuple):
    """Where every chain is.

    Attributes:
        position: x, shape (chains, dim).
        values: ℓ of every level there, shape (levels, chains).
        replicas: of a tempered kernel, hotter from first to last, shape (chains, hot, dim).
        replica_values: ℓ_0 there, shape (chains, hot); hot is 0 of other kernels.
    """

    position: Tensor
    values: Tensor
    replicas: Tensor
    replica_values: Tensor

    def where(self, keep: Tensor, other: State) -> State:
        """This state for the chains of the mask `keep` (chains,), `other` for the rest."""
        column = keep[:, None]
        return State(
            torch.where(column, self.position, other.position),
            torch.where(keep, self.values, other.values),
            torch.where(column[..., None], self.replicas, other.replicas),
            torch.where(column, self.replica_values, other.replica_values),
        )


class RandomNumbers:
    """Normals and uniforms of every chain's own streams, and of every replica's.

    Args:
        seed: of the run.
        num_streams: positions to move, replicas included.
        dim: of a position.
    """

    def __init__(self, seed: int, num_streams: int, dim: int) -> None:
        chains = range(num_streams)
        kind: dict[str, Any] = {"dtype": torch.float64, "device": torch.device("cpu")}
        self._normal = NormalStream(seed, Stream.NOISE, chains, dim, **kind)
        self._for_uniform = NormalStream(seed, Stream.ACCEPT, chains, 1, **kind)
        self._shared = generator(seed, Stream.TRAJECTORY)

    def normal(self) -> Tensor:
        """Standard normals (streams, dim)."""
        return self._normal.next()

    def uniform(self) -> Tensor:
        """Uniforms on (0, 1), shape (streams,)."""
        return torch.special.ndtr(self._for_uniform.next()[:, 0])

    def choice(self, count: int) -> int:
        """One of 0, ..., count - 1, the same for all chains."""
        return int(torch.randint(count, (), generator=self._shared))


class Kernel(Protocol):
    """A transition of all chains, each reversible with respect to N(0, I) exp(ℓ)."""

    @property
    def num_replicas(self) -> int:
        """Hotter replicas of every chain."""
        ...

    def step(self, state: State, evaluate: LogLikelihood, random: RandomNumbers) -> State:
        """One transition.

        Args:
            state: `values[0]` is ℓ at the position.
            evaluate: ℓ.
            random: numbers to use.
        """
        ...

    def inform(self, basis: Tensor, curvature: Tensor) -> None:
        """Take note, in warm-up, of directions that the data determine.

        Args:
            basis: orthonormal, shape (dim, r).
            curvature: -ℓ'' along them, > 0, shape (r,): the posterior's sd is (1 + λ)^{-1/2}.
        """
        ...

    def freeze(self) -> None:
        """End of warm-up: from here on nothing is adapted."""
        ...


class DelayedAcceptance:
    """All chains of one target, advanced together.

    Args:
        levels: from the cheapest to the exact one. One level alone is the plain kernel.
        kernel: reversible with respect to the cheapest level's posterior.
        position: where the chains start, shape (chains, dim).
        replicas: where those of a tempered kernel start, shape (chains, hot, dim).
        seed: of everything random.

    Attributes:
        state: where the chains are.
        num_evaluations: how many times each level was evaluated, all chains together.
        num_tested: proposals that moved and were put to the exact test, by chain.
        num_accepted: how many of them passed, by chain.

    Raises:
        ValueError: if there is no level, a number of steps is below 1, the replicas are not
            those of the kernel, or a chain starts where a likelihood is not finite.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        kernel: Kernel,
        position: Tensor,
        *,
        replicas: Tensor | None = None,
        seed: int,
    ) -> None:
        if not levels:
            raise ValueError("`levels` must hold at least the exact likelihood; got none.")
        for index, level in enumerate(levels):
            check_integer(f"levels[{index}].num_steps", level.num_steps, 1)
        self._levels, self._kernel = tuple(levels), kernel
        chains, dim = position.shape
        hot = position.new_empty(chains, 0, dim) if replicas is None else replicas
        self._per_chain = 1 + hot.shape[1]
        streams = chains * self._per_chain
        self._random = RandomNumbers(check_integer("seed", seed, 0), streams, dim)
        self.num_evaluations = [0 for _ in levels]
        self.num_tested = torch.zeros(chains, dtype=torch.int64)
        self.num_accepted = torch.zeros(chains, dtype=torch.int64)
        if hot.shape[1] != kernel.num_replicas:
            raise ValueError(
                f"`replicas` must have shape (chains, {kernel.num_replicas}, dim) for this "
                f"kernel; got {tuple(hot.shape)}."
            )
        self.state = self._evaluated(position, hot)
        if not bool(self.state.values.isfinite().all()):
            raise ValueError(
                "`position` must have a finite log likelihood of every level in every chain; "
                f"got {self.state.values.tolist()}."
            )

    def step(self) -> State:
        """Advance every chain by one step of the exact level."""
        self.state = self._advance(len(self._levels) - 1, self.state)
        return self.state

    def refresh(self) -> None:
        """Evaluate every level anew where the chains are: likelihoods have changed."""
        self.state = self._evaluated(self.state.position, self.state.replicas)

    def freeze(self) -> None:
        """End warm-up: the kernel stops adapting and counting starts anew."""
        self._kernel.freeze()
        self.num_tested.zero_()
        self.num_accepted.zero_()

    @property
    def steps_per_test(self) -> int:
        """Steps of the kernel in one step of the exact level."""
        return math.prod(level.num_steps for level in self._levels[1:])

    @property
    def accept_rate(self) -> Tensor:
        """Share of tested proposals that the exact level accepted, by chain; 1 if none was."""
        rate = self.num_accepted / self.num_tested.clamp_min(1)
        return torch.where(self.num_tested > 0, rate, 1.0)

    def _advance(self, level: int, state: State) -> State:
        if level == 0:
            end = self._kernel.step(state, lambda x: self._evaluate(0, x), self._random)
            if len(self._levels) == 1:
                self.num_tested += 1
                self.num_accepted += (end.position != state.position).any(-1)
            return end
        end = state
        for _ in range(self._levels[level].num_steps):
            end = self._advance(level - 1, end)
        return self._test(level, state, end)

    def _test(self, level: int, start: State, end: State) -> State:
        """Accept or refuse, by this level, where the level below went."""
        uniform = self._random.uniform()[:: self._per_chain]
        moved = (end.position != start.position).any(-1)
        values = end.values.clone()
        if bool(moved.any()):
            values[level, moved] = self._evaluate(level, end.position[moved])
        own, below = values[level] - start.values[level], end.values[level - 1]
        log_ratio = own - (below - start.values[level - 1])
        accepted = moved & (uniform.log() < log_ratio)  # a NaN is refused
        if level == len(self._levels) - 1:
            self.num_tested += moved
            self.num_accepted += accepted
        return end._replace(values=values).where(accepted | ~moved, start)

    def _evaluated(self, position: Tensor, replicas: Tensor) -> State:
        """The state of these positions."""
        values = [self._evaluate(level, position) for level in range(len(self._levels))]
        hot = replicas.new_empty(replicas.shape[:2])
        if hot.numel():
            hot = self._evaluate(0, replicas.flatten(0, 1)).reshape(hot.shape)
        return State(position, torch.stack(values), replicas, hot)

    def _evaluate(self, level: int, position: Tensor) -> Tensor:
        self.num_evaluations[level] += len(position)
        return self._levels[level].log_likelihood(position)
