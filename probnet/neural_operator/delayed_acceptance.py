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

LogLikelihood = Callable[[Tensor], tuple[Tensor, Tensor]]
"""`(chains, dim) -> log likelihoods (chains,), by-products (chains, k)`, such as PDE solutions.

By-products of the exact level are kept along with the position; k may be 0.
"""


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
        product: by-product of the exact level there, shape (chains, k).
    """

    position: Tensor
    values: Tensor
    product: Tensor

    def where(self, keep: Tensor, other: State) -> State:
        """This state for the chains of the mask `keep` (chains,), `other` for the rest."""
        column = keep[:, None]
        return State(
            torch.where(column, self.position, other.position),
            torch.where(keep, self.values, other.values),
            torch.where(column, self.product, other.product),
        )


class RandomNumbers:
    """Normals and uniforms of every chain's own streams.

    Args:
        seed: of the run.
        num_chains: C.
        dim: of a position.
    """

    def __init__(self, seed: int, num_chains: int, dim: int) -> None:
        chains = range(num_chains)
        kind: dict[str, Any] = {"dtype": torch.float64, "device": torch.device("cpu")}
        self._normal = NormalStream(seed, Stream.NOISE, chains, dim, **kind)
        self._for_uniform = NormalStream(seed, Stream.ACCEPT, chains, 1, **kind)
        self._shared = generator(seed, Stream.TRAJECTORY)

    def normal(self) -> Tensor:
        """Standard normals (chains, dim)."""
        return self._normal.next()

    def uniform(self) -> Tensor:
        """Uniforms on (0, 1), shape (chains,)."""
        return torch.special.ndtr(self._for_uniform.next()[:, 0])

    def choice(self, count: int) -> int:
        """One of 0, ..., count - 1, the same for all chains."""
        return int(torch.randint(count, (), generator=self._shared))


class Kernel(Protocol):
    """A transition of all chains, each reversible with respect to N(0, I) exp(ℓ)."""

    def step(self, state: State, evaluate: LogLikelihood, random: RandomNumbers) -> State:
        """One transition.

        Args:
            state: `values[0]` is ℓ at the position.
            evaluate: ℓ with its by-products.
            random: numbers to use.
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
        seed: of everything random.

    Attributes:
        state: where the chains are.
        num_evaluations: how many times each level was evaluated, all chains together.
        num_tested: proposals that moved and were put to the exact test, by chain.
        num_accepted: how many of them passed, by chain.

    Raises:
        ValueError: if there is no level, or a number of steps is below 1.
    """

    def __init__(
        self, levels: Sequence[Level], kernel: Kernel, position: Tensor, *, seed: int
    ) -> None:
        if not levels:
            raise ValueError("`levels` must hold at least the exact likelihood; got none.")
        for index, level in enumerate(levels):
            check_integer(f"levels[{index}].num_steps", level.num_steps, 1)
        self._levels, self._kernel = tuple(levels), kernel
        chains, dim = position.shape
        self._random = RandomNumbers(check_integer("seed", seed, 0), chains, dim)
        self.num_evaluations = [0 for _ in levels]
        self.num_tested = torch.zeros(chains, dtype=torch.int64)
        self.num_accepted = torch.zeros(chains, dtype=torch.int64)
        found = [self._evaluate(level, position) for level in range(len(levels))]
        self.state = State(position, torch.stack([v for v, _ in found]), found[-1][1])

    def step(self) -> State:
        """Advance every chain by one step of the exact level."""
        self.state = self._advance(len(self._levels) - 1, self.state)
        return self.state

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
        uniform = self._random.uniform()
        moved = (end.position != start.position).any(-1)
        if not bool(moved.any()):
            return start
        value, product = self._evaluate(level, end.position[moved])
        values = end.values.clone()
        values[level, moved] = value
        if level == len(self._levels) - 1:
            end = end._replace(product=start.product.clone())
            end.product[moved] = product
        own, below = values[level] - start.values[level], end.values[level - 1]
        log_ratio = own - (below - start.values[level - 1])
        accepted = moved & (uniform.log() < log_ratio)  # a NaN is refused
        if level == len(self._levels) - 1:
            self.num_tested += moved
            self.num_accepted += accepted
        return end._replace(values=values).where(accepted, start)

    def _evaluate(self, level: int, position: Tensor) -> tuple[Tensor, Tensor]:
        self.num_evaluations[level] += len(position)
        return self._levels[level].log_likelihood(position)
